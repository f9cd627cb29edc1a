"""Sans-I/O. How times are collected: a histogram of latencies, and the longest pauses."""

from __future__ import annotations

import math
from typing import Final

FINE: Final = 6
"""Bits kept of a latency in microseconds; a figure is at most 1.6 % off."""


class Histogram:
    """Latencies, however many, in a few kilobytes."""

    __slots__ = ("_buckets", "count", "longest")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        micros = int(seconds * 1e6)
        shift = max(micros.bit_length() - FINE - 1, 0)
        bucket = (shift << FINE) + (micros >> shift)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        if seconds > self.longest:
            self.longest = seconds

    def percentile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of all stay within; nan if there are none."""
        wanted = math.ceil(self.count * share)
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                shift = max((bucket >> FINE) - 1, 0)
                top = ((bucket - (shift << FINE)) + 1 << shift) - 1
                return min(top / 1e6, self.longest)
        return math.nan


class Pause:
    """The longest time without any answer while one was due."""

    __slots__ = ("longest", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        """The last answer, or when the first one due was; None while none is."""
        self.longest = 0.0

    def due(self, when: float) -> None:
        """An answer is due from then on."""
        if self.since is None:
            self.since = when

    def arrived(self, now: float, more: bool) -> None:
        """One has come. `more`: others are still due."""
        if self.since is not None and now - self.since > self.longest:
            self.longest = now - self.since
        self.since = now if more else None

    def give_up(self, now: float) -> None:
        """None will come any more; what was waited until now counts."""
        self.arrived(now, False)
