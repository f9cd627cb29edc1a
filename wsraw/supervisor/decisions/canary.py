"""Sans-I/O. A canary: new workers of a pool that are tried with a share of its connections::

    STARTING ──all are ready──▶ ON_TRIAL ──its time is over──▶ PROMOTED
        │                          │
        └──one dies──▶ it is over ◀┴──it does worse than the old workers, or one dies

The pool starts and ends the workers (pool.py); this module decides about the trial. verdict.py
compares the new workers with the others.
"""

from __future__ import annotations

import math
from collections import Counter
from enum import Enum
from typing import Any, Final

from wsraw.config.units import human_time
from wsraw.link.records import Lean
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.verdict import NOTHING, Fault, Handled, Kind, slower, verdict
from wsraw.supervisor.decisions.versions import Version

SETTLE: Final = 0.1
"""Seconds that its workers must stay ready: on_start runs right after the hello and may fail."""

LOOK: Final = 1.0
"""Seconds between two comparisons."""


class Stage(Enum):
    """The stage of a canary."""

    STARTING = "starting"
    ON_TRIAL = "on trial"
    PROMOTED = "promoted"


class CanaryPlan(Lean):
    """What the operator has asked for."""

    share: float
    """Share of the pool's connections, above 0 and below 1."""
    seconds: float
    """Seconds for which the new handlers are tried."""
    shield: bool = False
    """Events whose handlers raise are given to the old workers, and do not end connections."""

    @property
    def in_words(self) -> str:
        text = f"{100 * self.share:g} % of the connections for {human_time(self.seconds)}"
        return f"{text}, shielded by the old workers" if self.shield else text


class CanaryTrial:
    """One trial of a pool."""

    def __init__(self, plan: CanaryPlan, version: Version, children: list[Child]) -> None:
        self.plan = plan
        self.version = version
        """The version that its workers load."""
        self.children = children
        self.stage = Stage.STARTING
        self.began = math.inf
        """When its workers got their share."""
        self._old: Handled | None = None
        """What the old workers had done when the trial began. The new ones had done nothing."""
        self._before = NOTHING
        """What the old workers had done when the trial began, as its first gateway counted it."""

    def facts(self, now: float) -> dict[str, Any]:
        """For `wsraw status`."""
        is_on_trial = self.stage is Stage.ON_TRIAL
        return {
            "version": self.version.number,
            "stage": self.stage.value,
            "share": self.plan.share,
            "shield": self.plan.shield,
            "left": max(0.0, self.began + self.plan.seconds - now) if is_on_trial else None,
            "workers": self.numbers,
        }

    @property
    def numbers(self) -> list[int]:
        """The numbers of its workers that have a process."""
        return [child.n for child in self.children if child.alive]

    def is_ready(self, now: float) -> bool:
        """Whether all its workers are ready, and have stayed so for SETTLE."""
        return all(
            child.state is ChildState.READY
            and child.ready_at is not None
            and now >= child.ready_at + SETTLE
            for child in self.children
        )

    def begin(self, now: float) -> None:
        """Begin the trial: the workers of the canary have their share."""
        self.stage = Stage.ON_TRIAL
        self.began = now

    def forget(self) -> None:
        """A new gateway counts from 0."""
        self._old = None

    def is_over(self, now: float) -> bool:
        return now >= self.began + self.plan.seconds

    def look(self, old: Handled, new: Handled, now: float) -> Fault | None:
        """Compare what was done so far. Returns why the new version is worse, if it is."""
        if self._old is None:
            self._old = old
            if self._before is NOTHING:
                self._before = old
        old = old.since(self._old)
        fault = verdict(old, new, self._before)
        return slower(old, new) if fault is None and self.is_over(now) else fault

    def wake_at(self) -> float:
        """When to compare again."""
        if self.stage is Stage.ON_TRIAL:
            return self.began + self.plan.seconds
        if self.stage is Stage.STARTING:
            times = [child.ready_at for child in self.children if child.ready_at is not None]
            return max(times, default=math.inf) + SETTLE
        return math.inf


class Outcomes:
    """How the canaries of a pool have ended."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.last: dict[str, Any] | None = None
        """The outcome of the last canary, for `wsraw status`."""

    def add(self, version: int, kind: Kind, why: str = "") -> None:
        """Add the outcome of a canary. `why`: the reason why it was rolled back."""
        self.counts[kind] += 1
        self.last = {"version": version, "outcome": kind.value, "why": why}

    def by_name(self) -> dict[str, int]:
        """Counts of all possible outcomes, for the metrics."""
        return {kind.value: self.counts[kind] for kind in Kind}
