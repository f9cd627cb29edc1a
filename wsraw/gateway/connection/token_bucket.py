"""Sans-I/O. A token bucket: so much a second on average, and a little at once."""

from __future__ import annotations


class Bucket:
    """`rate` tokens a second flow in, up to `capacity`. It may be overdrawn: what a peer has sent
    is here already, and then the debt is waited for."""

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at = now

    def take(self, tokens: float, now: float) -> float:
        """Take them; returns the seconds until there is no debt, 0 if there is none."""
        level = self._level + (now - self._at) * self._rate
        self._level = level = (self._capacity if level > self._capacity else level) - tokens
        self._at = now
        return -level / self._rate if level < 0 else 0.0
