"""Sans-I/O. Health check of the gateway: it is asked at intervals and must send something.

Any record counts as an answer. The timeout runs from the first unanswered question, in the
supervisor's own time: while the machine or the supervisor was suspended, no time passed.
"""

from __future__ import annotations

import math
from typing import Final

LONGEST_INTERVAL: Final = 5.0
"""Seconds between two questions; less with a short timeout."""

QUESTIONS: Final = 4
"""Questions within the timeout, because one may be lost."""

START: Final = 60.0
"""Seconds that the gateway's start may take, at least."""


class GatewayCheck:
    """Checks the present gateway. A timeout of 0 switches the check off."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._ask_at = math.inf
        self._late_at = math.inf

    @property
    def _interval(self) -> float:
        return min(LONGEST_INTERVAL, self.timeout / QUESTIONS)

    def spawned(self, now: float) -> None:
        """A gateway was started; it is asked only once it listens."""
        self._ask_at = math.inf
        self._late_at = now + max(START, self.timeout) if self.timeout else math.inf

    def heard(self, now: float) -> None:
        self._late_at = math.inf
        if self._ask_at == math.inf and self.timeout:
            self._ask_at = now + self._interval

    def ended(self) -> None:
        self._ask_at = self._late_at = math.inf

    def is_due(self, now: float) -> bool:
        """Whether to ask the gateway now."""
        if now < self._ask_at:
            return False
        self._ask_at = now + self._interval
        self._late_at = min(self._late_at, now + self.timeout)
        return True

    def is_late(self, now: float) -> bool:
        return now >= self._late_at

    @property
    def wake_at(self) -> float:
        """When to ask, or to give up; infinity for never."""
        return min(self._ask_at, self._late_at)
