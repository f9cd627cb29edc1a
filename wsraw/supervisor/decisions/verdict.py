"""Sans-I/O. Whether a version on trial does worse than the one before.

Its workers are compared with the other workers over the same time: by the exceptions of each
handler, by the connections that handlers have ended, for each cause, and by the time that handlers
take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from wsraw.config.units import human_time
from wsraw.link.records import Lean

BY_HANDLERS: Final = (
    "handler", "rejected", "verdict-timeout", "poison", "worker-died", "stalled",
)  # fmt: skip
"""Causes of closes that handlers are responsible for."""

CHANCE: Final = 0.001
"""More faults than those of the old workers count as no accident if chance causes as many in a
smaller share of trials than this: of a thousand good versions, one is rolled back."""

MANY: Final = 50.0
"""Expected faults from which their number counts as normally distributed."""

DEVIATIONS: Final = 3.09
"""Standard deviations above the mean that a normal distribution exceeds by CHANCE."""

SLOWER: Final = 2.0
"""A handler that takes this many times as long as before is too slow."""

ENOUGH_CALLS: Final = 100
"""Calls of a handler that each version must have before their times are compared."""

LEAST_TIME: Final = 0.001
"""Seconds per call that a handler may always take."""


class Kind(Enum):
    """How a canary ended, as the metrics name it."""

    PROMOTED = "promoted"
    EXCEPTIONS = "exceptions"
    CLOSES = "closes"
    SLOW = "slow"
    DIED = "died"
    """A worker has died, or was killed because it hung."""
    NOT_READY = "not-ready"
    """A worker did not load, or died before it was ready."""
    ENDED = "ended"
    """By a command, or because the link to the gateway has moved."""


class Fault(NamedTuple):
    """Why a version is worse."""

    kind: Kind
    why: str


NO_FIGURES: Final[Mapping[str, int]] = MappingProxyType({})


class Handled(Lean):
    """What some workers have done so far, as the gateway counts it."""

    calls: Mapping[str, int] = NO_FIGURES
    """By handler, as are exceptions and seconds."""
    exceptions: Mapping[str, int] = NO_FIGURES
    seconds: Mapping[str, float] = NO_FIGURES
    events: int = 0
    closed: Mapping[str, int] = NO_FIGURES
    """Connections that handlers have ended, by cause, on purpose or not."""
    given_back: int = 0
    """Events that workers have given back: the only sign of faults from workers that report no
    calls."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Handled:
        """The figures in the gateway's report about a pool."""
        handlers = report.get("handlers", {})
        closed = report.get("closed", {})
        return cls(
            {name: each["calls"] for name, each in handlers.items()},
            {name: each["exceptions"] for name, each in handlers.items()},
            {name: each["seconds"] for name, each in handlers.items()},
            report.get("acked", 0),
            {cause: count for cause, count in closed.items() if cause in BY_HANDLERS},
            report.get("given_back", 0),
        )

    def since(self, before: Handled) -> Handled:
        """The difference to earlier figures."""
        return Handled(
            _less(self.calls, before.calls),
            _less(self.exceptions, before.exceptions),
            _less(self.seconds, before.seconds),
            self.events - before.events,
            _less(self.closed, before.closed),
            self.given_back - before.given_back,
        )


NOTHING: Final = Handled()


def verdict(old: Handled, new: Handled, before: Handled = NOTHING) -> Fault | None:
    """Whether the new version makes more faults than the old one in the same time. `before`: the
    figures of the old version at the start of the trial."""
    for name, told in new.calls.items():
        faults, known = new.exceptions.get(name, 0), old.exceptions.get(name, 0)
        calls, known_calls = max(told, faults), old.calls.get(name, 0)
        earlier = before.exceptions.get(name, 0), before.calls.get(name, 0)
        if _is_more(faults, calls, _rate((known, known_calls), earlier)):
            others = f"the old workers raised {known:,} in {known_calls:,}"
            count = "1 call" if calls == 1 else f"{calls:,} calls"
            return Fault(Kind.EXCEPTIONS, f"{name} raised {_times(faults)} in {count}; {others}")
    if new.given_back and not new.calls:
        events = "an event" if new.given_back == 1 else f"{new.given_back:,} events"
        why = f"they gave back {events} and handled {new.events:,}"
        return Fault(Kind.EXCEPTIONS, why)
    return _closes(old, new, before)


def _closes(old: Handled, new: Handled, before: Handled) -> Fault | None:
    for cause, closed in new.closed.items():
        known = old.closed.get(cause, 0)
        # One more is normal: handlers also close connections on purpose.
        rate = _rate((known + 1, old.events), (before.closed.get(cause, 0), before.events))
        if old.events and _is_more(closed, new.events, rate):
            others = f"the old workers {known:,} in {old.events:,}"
            text = f"they ended {closed:,} connections ({cause}) in {new.events:,} events; {others}"
            return Fault(Kind.CLOSES, text)
    return None


def _rate(faults: tuple[int, int], earlier: tuple[int, int]) -> float:
    """The usual number of faults per call, from numbers of faults and calls: the present one, or
    the one before the trial if there were too few calls since then to show a change."""
    count, calls = faults
    now = count / calls if calls else 0.0
    if not earlier[0] or not earlier[1]:
        return now
    most = -math.log(CHANCE) / calls if calls else math.inf
    return max(now, min(earlier[0] / earlier[1], most))


def _is_more(faults: int, calls: int, rate: float) -> bool:
    """Whether this many faults are no accident."""
    expected = calls * rate
    if faults <= expected:
        return False
    if expected > MANY:
        return faults > expected + DEVIATIONS * math.sqrt(expected)
    # The tail of the Poisson distribution. Without any known fault, the first one is enough.
    fewer = term = math.exp(-expected)
    for count in range(1, faults):
        term *= expected / count
        fewer += term
    return 1.0 - fewer < CHANCE


def slower(old: Handled, new: Handled) -> Fault | None:
    """Whether a handler takes much longer than before."""
    for name, calls in new.calls.items():
        known = old.calls.get(name, 0)
        if calls < ENOUGH_CALLS or known < ENOUGH_CALLS:
            continue
        mean, before = new.seconds[name] / calls, old.seconds[name] / known
        if mean > max(SLOWER * before, LEAST_TIME):
            took = f"{human_time(mean)} a call on average"
            text = f"{name} takes {took}; with the old workers {human_time(before)}"
            return Fault(Kind.SLOW, text)
    return None


def _times(count: int) -> str:
    return "an exception" if count == 1 else f"{count:,} exceptions"


def _less(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value - before.get(name, 0) for name, value in after.items()}
