"""Sans-I/O. All checks, one after the other: each a fresh session, its script, its line.

What the outside has to do stands in `actions`; it says `receive`, `exited` and `advance`, and asks
`wake_at`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wsraw.tools.conform import behaviour, manners
from wsraw.tools.conform.rules import STANDING, Breach, Rule, Script, Until
from wsraw.tools.conform.stage import Action, Stage

RULES: Final = (*manners.RULES, *behaviour.RULES, *STANDING)

GIVE_UP: Final = 2
"""Sessions in a row that did not begin, each with a process of its own."""

PASS: Final = "pass"
FAIL: Final = "FAIL"
SKIP: Final = "skip"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a rule."""

    rule: Rule
    verdict: str
    why: str = ""
    record: str = ""

    def line(self) -> str:
        """For people; a breach has a second line, with the record that shows it."""
        text = f"{self.verdict}  {self.rule.name:<18} {self.rule.meaning}"
        if self.verdict == FAIL:
            for more in filter(None, (self.why, self.record)):
                text += f"\n      {more}"
        return text

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rule": self.rule.name,
            "section": self.rule.section,
            "meaning": self.rule.meaning,
            "verdict": self.verdict.lower(),
            "why": self.why,
            "record": self.record,
        }


def choose(names: Collection[str], *, generic: bool) -> list[Rule]:
    """The rules of those names, all without any. Raises ValueError for one that does not exist."""
    known = {rule.name for rule in RULES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no rule {name!r}; there are {', '.join(sorted(known))}")
    return [
        rule
        for rule in RULES
        if (not names or rule.name in names) and not (generic and rule.common)
    ]


class Play:
    """Drives the scripts of these rules."""

    def __init__(
        self, rules: Sequence[Rule], pool: str, secret: Callable[[], str], patience: float
    ) -> None:
        """See Stage for `secret` and `patience`."""
        self.stage = Stage(pool, secret, patience)
        self.results: list[Result] = []
        self.over = False
        self.wake_at = 0.0
        self._rules = rules
        self._until: Until | None = None
        self._script = self._all()

    @property
    def actions(self) -> deque[Action]:
        """What is to be done, in order."""
        return self.stage.actions

    @property
    def failed(self) -> bool:
        """Whether a rule was broken."""
        return any(result.verdict == FAIL for result in self.results)

    # --- what happens outside ---

    def receive(self, identity: bytes, frames: list[bytes], now: float) -> None:
        """A message has come."""
        self.stage.now = now
        self.stage.receive(identity, frames)
        self.advance(now)

    def exited(self, code: int, now: float) -> None:
        """The process that was started last has ended by itself."""
        self.stage.exited(code)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Go on as far as there is nothing to wait for."""
        self.stage.now = now
        while not self.over:
            met = False
            if self._until is not None:
                met = self._until.condition()
                if not met and now < self.wake_at:
                    return
            try:
                # A generator that has not begun takes None only.
                first = self._until is None
                self._until = next(self._script) if first else self._script.send(met)
                self.wake_at = now + self._until.seconds
            except StopIteration:
                self.over = True

    # --- the checks ---

    def _all(self) -> Script:
        checks = [rule for rule in self._rules if rule.check is not None]
        standing = [rule for rule in self._rules if rule.check is None]
        # Without a check a standing rule has nothing to see.
        left = deque(checks or [manners.RULES[0]])
        unheard = 0
        while left and unheard < GIVE_UP:
            rule = left.popleft()
            result = Result(rule, PASS)
            try:
                try:
                    yield from self.stage.begin()
                    unheard = 0
                except Breach:
                    unheard += 1
                    raise
                assert rule.check is not None
                yield from rule.check(self.stage)
            except Breach as breach:
                result = Result(rule, FAIL, breach.why, breach.record)
                # Where it stands now nobody knows: the next one begins with a new process.
                self.stage.stop()
            if checks:
                self.results.append(result)
        for rule in left:
            self.results.append(Result(rule, SKIP, "no session begins"))
        self.stage.stop()
        watch = self.stage.watch
        for rule in standing:
            found = watch.breaches.get(rule.name)
            if found is not None:
                self.results.append(Result(rule, FAIL, found.why, found.record))
            elif rule.name in watch.touched:
                self.results.append(Result(rule, PASS))
            else:
                self.results.append(Result(rule, SKIP, "nothing came that it applies to"))
