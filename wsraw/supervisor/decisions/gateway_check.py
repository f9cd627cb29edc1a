"""Sans-I/O. Whether the gateway is there: it is asked now and then, and must say something.

Whatever it says counts. What it does not say counts from the first question that stands open, in
the supervisor's own time: while the machine stood still, or the supervisor did, none passed.
"""

from __future__ import annotations

import math
from typing import Final

LONGEST_INTERVAL: Final = 5.0
"""Seconds between two questions; with a short timeout they come more often."""

QUESTIONS: Final = 4
"""Within the timeout, at least: one of them may be lost."""

START: Final = 60.0
"""Seconds that its start may take, at least."""


class Pulse:
    """One gateway after the other. With a timeout of 0 nobody asks."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._interval = min(LONGEST_INTERVAL, timeout / QUESTIONS)
        self._ask_at = math.inf
        self._late_at = math.inf

    def spawned(self, now: float) -> None:
        """A process was started; it is not asked before it has said that it is up."""
        self._ask_at = math.inf
        self._late_at = now + max(START, self.timeout) if self.timeout else math.inf

    def heard(self, now: float) -> None:
        """It has said something."""
        self._late_at = math.inf
        if self._ask_at == math.inf and self.timeout:
            self._ask_at = now + self._interval

    def ended(self) -> None:
        """Nothing more is expected of it."""
        self._ask_at = self._late_at = math.inf

    def asks(self, now: float) -> bool:
        """Whether it is to be asked now."""
        if now < self._ask_at:
            return False
        self._ask_at = now + self._interval
        self._late_at = min(self._late_at, now + self.timeout)
        return True

    def is_late(self, now: float) -> bool:
        """Whether it has not answered in time."""
        return now >= self._late_at

    @property
    def wake_at(self) -> float:
        """When to ask, or to give up; infinity for never."""
        return min(self._ask_at, self._late_at)
