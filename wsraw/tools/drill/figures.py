"""Sans-I/O. The measurements of the load: counts, a histogram of latencies, and the longest
pauses."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

RESOLUTION: Final = 1e-4
"""Seconds. The report has tenths of a millisecond."""


class Histogram:
    """Latencies, rounded up to RESOLUTION."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._counts[math.ceil(seconds / RESOLUTION)] += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, share: float) -> float:
        """The seconds within which `share` (0 to 1) of all latencies stay; nan if there are
        none."""
        wanted = math.ceil(self._counts.total() * share)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(bucket * RESOLUTION, self.longest)
        return math.nan


class Pause:
    """The longest time without any answer while one was due."""

    __slots__ = ("longest", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        """The last answer, or when the first one was due; None while none is due."""
        self.longest = 0.0

    def due(self, when: float) -> None:
        """Note that an answer is due from that time on."""
        if self.since is None:
            self.since = when

    def arrived(self, now: float, more: bool) -> None:
        """Note an answer, or that no more answers are expected. `more`: others are still due."""
        if self.since is not None and now - self.since > self.longest:
            self.longest = now - self.since
        self.since = now if more else None


@dataclass
class Figures:
    """The figures of all connections together."""

    sent: int = 0
    unsent: int = 0
    """Messages that were due while their connection was down."""
    answered: int = 0
    """Records that came back, each counted once, in any order."""
    outstanding: int = 0
    """Messages on open connections without an answer."""
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    """Records that came back after a later one."""
    corrupted: int = 0
    """Records that this connection never sent, or not in this form."""
    cut_off: int = 0
    """Records without an answer when their connection was closed."""
    hangs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Why attempts to connect failed after the load had begun."""
    connects_lost: int = 0
    """Connects that failed because the drill had killed their gateway, or the whole run."""
    late: float = 0.0
    """The longest time from when a message was due until the drill sent it."""
    latency: Histogram = field(default_factory=Histogram)
    pause: Pause = field(default_factory=Pause)
    connection_pause: float = 0.0
    """The longest pause of a single connection."""
