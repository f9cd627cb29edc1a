"""Sans-I/O. Runs the scripts of all rules one after the other, each in a fresh session.

The driver reports messages, exits and the time (`receive`, `exited`, `advance`), and calls
`advance` again at `wake_at` at the latest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from wsraw.tools.conform.checks import echo_checks, protocol_checks
from wsraw.tools.conform.continuous_rules import Breach
from wsraw.tools.conform.played_gateway import PlayedGateway, Script, Until
from wsraw.tools.conform.rules import CONTINUOUS, Rule

RULES: Final = (*protocol_checks.RULES, *echo_checks.RULES, *CONTINUOUS)

GIVE_UP: Final = 2
"""Sessions in a row that did not begin, each with a process of its own."""

PASS: Final = "pass"
FAIL: Final = "FAIL"
SKIP: Final = "skip"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on a rule."""

    rule: Rule
    verdict: str
    why: str = ""
    record: str = ""

    def line(self) -> str:
        """The line of the report; below a FAIL come the reason and the record that shows it."""
        text = f"{self.verdict}  {self.rule.name:<18} {self.rule.meaning}"
        if self.verdict == FAIL:
            for more in filter(None, (self.why, self.record)):
                text += f"\n      {more}"
        return text

    def data(self) -> dict[str, str]:
        return {
            "rule": self.rule.name,
            "section": self.rule.section,
            "meaning": self.rule.meaning,
            "verdict": self.verdict.lower(),
            "why": self.why,
            "record": self.record,
        }


def choose(names: Collection[str], *, generic: bool) -> list[Rule]:
    """The rules with those names, or all. Raises ValueError for a name that does not exist."""
    known = {rule.name for rule in RULES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no rule {name!r}; there are {', '.join(sorted(known))}")
    return [
        rule
        for rule in RULES
        if (not names or rule.name in names) and not (generic and rule.common)
    ]


class ScriptRunner:
    """Runs the scripts of these rules."""

    def __init__(self, rules: Sequence[Rule], gateway: PlayedGateway) -> None:
        self.results: list[Result] = []
        self.over = False
        self.wake_at = 0.0
        self._gateway = gateway
        self._rules = rules
        self._until: Until | None = None
        self._script = self._all()

    def receive(self, identity: bytes, frames: list[bytes], now: float) -> None:
        self._gateway.receive(identity, frames)
        self.advance(now)

    def exited(self, code: int, now: float) -> None:
        """Note that the process that was started last has ended by itself."""
        self._gateway.exited(code)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Run the script until it waits for something that has not happened."""
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

    def _all(self) -> Script:
        gateway = self._gateway
        checks = [rule for rule in self._rules if rule.check is not None]
        # Continuous rules alone need a session, too.
        left = deque(checks or [protocol_checks.RULES[0]])
        failed_sessions = 0
        while left and failed_sessions < GIVE_UP:
            rule = left.popleft()
            result = Result(rule, PASS)
            try:
                failed_sessions += 1
                yield from gateway.begin()
                failed_sessions = 0
                assert rule.check is not None
                yield from rule.check(gateway)
            except Breach as breach:
                result = Result(rule, FAIL, breach.why, breach.record)
                # The state of this process is unknown; the next check begins with a new one.
                gateway.stop()
            if checks:
                self.results.append(result)
        self.results += [Result(rule, SKIP, "no session begins") for rule in left]
        gateway.stop()
        self.results += [self._continuous(rule) for rule in self._rules if rule.check is None]

    def _continuous(self, rule: Rule) -> Result:
        found = self._gateway.rules.breaches.get(rule.name)
        if found is not None:
            return Result(rule, FAIL, found.why, found.record)
        if rule.name in self._gateway.rules.applied:
            return Result(rule, PASS)
        return Result(rule, SKIP, "nothing came that it applies to")
