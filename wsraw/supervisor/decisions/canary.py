"""Sans-I/O. A canary: new workers of a pool that are tried with a share of its connections::

    STARTING ──all are ready──▶ ON_TRIAL ──its time is over──▶ PROMOTED
        │                          │
        └──one dies──▶ it is over ◀┴──it does worse than the old workers, or one dies

The pool starts the workers and ends them (pool.py); here is how the trial goes, and its verdict.
What a version does is compared with what the other workers do in the same time: exceptions of each
handler, connections that handlers have ended, and the time that handlers take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from wsraw.config.units import human_time
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.versions import Version

SETTLE: Final = 0.1
"""Seconds that its workers must stay ready: on_start runs right after the hello and may fail."""

LOOK: Final = 1.0
"""Seconds between two comparisons."""

BY_HANDLERS: Final = (
    "handler", "rejected", "verdict-timeout", "poison", "worker-died", "stalled",
)  # fmt: skip
"""Causes of closes that are the doing of handlers."""

DEVIATIONS: Final = 3.0
"""Faults that are so many standard deviations above what the old workers make of as many events are
no accident: of a thousand good versions one is rolled back."""

SLOWER: Final = 2.0
"""A handler that takes so many times as long as before is too slow."""

ENOUGH_CALLS: Final = 100
"""Calls of a handler by either version from which their times are compared."""

LEAST_TIME: Final = 0.001
"""Seconds a call that a handler may take in any case."""


class Stage(Enum):
    """Where a canary is."""

    STARTING = "starting"
    ON_TRIAL = "on trial"
    PROMOTED = "promoted"


@dataclass(frozen=True)
class Plan:
    """What is wanted."""

    share: float
    """Of the pool's connections, above 0 and below 1."""
    seconds: float
    """How long they are tried."""

    @property
    def in_words(self) -> str:
        return f"{100 * self.share:g} % of the connections for {human_time(self.seconds)}"


@dataclass
class Handled:
    """What some workers have done by now, as the gateway counts it."""

    calls: dict[str, int] = field(default_factory=dict)
    """By handler; so are exceptions and seconds."""
    exceptions: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    events: int = 0
    closed: int = 0
    """Connections that handlers have ended, on purpose or not."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Handled:
        """From the gateway's report about a pool."""
        handlers = report.get("handlers", {})
        return cls(
            {name: each["calls"] for name, each in handlers.items()},
            {name: each["exceptions"] for name, each in handlers.items()},
            {name: each["seconds"] for name, each in handlers.items()},
            report.get("acked", 0),
            sum(count for cause, count in report.get("closed", {}).items() if cause in BY_HANDLERS),
        )

    def since(self, before: Handled) -> Handled:
        """What was done after that."""
        return Handled(
            _less(self.calls, before.calls),
            _less(self.exceptions, before.exceptions),
            _less(self.seconds, before.seconds),
            self.events - before.events,
            self.closed - before.closed,
        )


def verdict(old: Handled, new: Handled, *, is_over: bool) -> str:
    """Why the new version is worse than the old one, or "". Its time is judged at the end."""
    for name, calls in new.calls.items():
        faults = new.exceptions.get(name, 0)
        known = old.exceptions.get(name, 0)
        if _is_more(faults, calls, known, old.calls.get(name, 0)):
            others = f"the old workers raised {known} in {old.calls.get(name, 0):,}"
            return f"{name} raised {_times(faults)} in {calls:,} calls; {others}"
    # One is no news: handlers close connections on purpose, too.
    if old.events and _is_more(new.closed, new.events, old.closed + 1, old.events):
        others = f"the old workers {old.closed:,} in {old.events:,}"
        return f"they ended {new.closed:,} connections in {new.events:,} events; {others}"
    return _slower(old, new) if is_over else ""


def _is_more(faults: int, calls: int, known_faults: int, known_calls: int) -> bool:
    expected = calls * known_faults / known_calls if known_calls else 0.0
    return faults > expected + DEVIATIONS * math.sqrt(expected)


def _slower(old: Handled, new: Handled) -> str:
    for name, calls in new.calls.items():
        known = old.calls.get(name, 0)
        if calls < ENOUGH_CALLS or known < ENOUGH_CALLS:
            continue
        mean, before = new.seconds[name] / calls, old.seconds[name] / known
        if mean > max(SLOWER * before, LEAST_TIME):
            took = f"{human_time(mean)} a call on average"
            return f"{name} takes {took}; with the old workers {human_time(before)}"
    return ""


def _times(count: int) -> str:
    return "an exception" if count == 1 else f"{count:,} exceptions"


def _less(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


class Canary:
    """One trial of a pool."""

    def __init__(self, plan: Plan, version: Version, children: list[Child]) -> None:
        self.plan = plan
        self.version = version
        """What its workers load."""
        self.children = children
        self.stage = Stage.STARTING
        self.began = math.inf
        """When its workers got their share."""
        self._old: Handled | None = None
        """What the old workers had done when the trial began. The new ones had done nothing."""

    def facts(self, now: float) -> dict[str, Any]:
        """For `wsraw status`."""
        is_on_trial = self.stage is Stage.ON_TRIAL
        return {
            "version": self.version.number,
            "stage": self.stage.value,
            "share": self.plan.share,
            "left": max(0.0, self.began + self.plan.seconds - now) if is_on_trial else None,
            "workers": self.numbers,
        }

    @property
    def numbers(self) -> list[int]:
        """Of its workers that have a process."""
        return [child.n for child in self.children if child.alive]

    def is_ready(self, now: float) -> bool:
        """Whether all its workers are ready, and stay so."""
        return all(
            child.state is ChildState.READY
            and child.ready_at is not None
            and now >= child.ready_at + SETTLE
            for child in self.children
        )

    def begin(self, now: float) -> None:
        """Its workers have their share."""
        self.stage = Stage.ON_TRIAL
        self.began = now

    def forget(self) -> None:
        """A new gateway counts from 0."""
        self._old = None

    def is_over(self, now: float) -> bool:
        return now >= self.began + self.plan.seconds

    def look(self, old: Handled, new: Handled, now: float) -> str:
        """Compare what was done by now. Returns why the new version is worse, or ""."""
        if self._old is None:
            # What was done before the trial says nothing about it.
            self._old = old
        return verdict(old.since(self._old), new, is_over=self.is_over(now))

    def wake_at(self) -> float:
        """When to look whether it goes on."""
        if self.stage is Stage.ON_TRIAL:
            return self.began + self.plan.seconds
        if self.stage is Stage.STARTING:
            times = [child.ready_at for child in self.children if child.ready_at is not None]
            return max(times, default=math.inf) + SETTLE
        return math.inf
