"""Sans-I/O. Checks all rules one after the other, each in a fresh session."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wsraw.tools.conform.checks import echo_checks, protocol_checks
from wsraw.tools.conform.continuous_rules import Breach, NotApplicable
from wsraw.tools.conform.played_gateway import PlayedGateway
from wsraw.tools.conform.rules import CONTINUOUS, Rule

RULES: Final = (*protocol_checks.RULES, *echo_checks.RULES, *CONTINUOUS)

GIVE_UP: Final = 2
"""Sessions in a row, each with a process of its own, that may fail to begin."""

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


def verdicts(rules: Sequence[Rule], gateway: PlayedGateway) -> Iterator[Result]:
    """Check these rules, and yield the result of each as soon as it is known."""
    checks = [rule for rule in rules if rule.check is not None]
    failed_sessions = 0
    # Continuous rules need a session, even without other rules.
    for rule in checks or [protocol_checks.RULES[0]]:
        result = Result(rule, PASS)
        if failed_sessions == GIVE_UP:
            result = Result(rule, SKIP, "no session begins")
        else:
            try:
                failed_sessions += 1
                gateway.begin()
                failed_sessions = 0
                assert rule.check is not None
                rule.check(gateway)
            except NotApplicable as reason:
                result = Result(rule, SKIP, str(reason))
            except Breach as breach:
                result = Result(rule, FAIL, breach.why, breach.record)
                # The state of this process is unknown; the next check begins with a new one.
                gateway.stop()
        if checks:
            yield result
    gateway.stop()
    for rule in rules:
        if rule.check is None:
            yield _continuous(rule, gateway)


def _continuous(rule: Rule, gateway: PlayedGateway) -> Result:
    found = gateway.rules.breaches.get(rule.name)
    if found is not None:
        return Result(rule, FAIL, found.why, found.record)
    if rule.name in gateway.rules.applied:
        return Result(rule, PASS)
    return Result(rule, SKIP, "nothing came that it applies to")
