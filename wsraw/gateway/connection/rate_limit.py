"""Sans-I/O. How many messages and bytes a second a peer may send."""

from __future__ import annotations

from wsraw.config.settings import Settings


class Bucket:
    """A token bucket: `rate` tokens a second flow in, up to `capacity`.

    It may be overdrawn, as the peer's data is already here; then nothing is read until the debt is
    gone.
    """

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at = now

    def take(self, tokens: float, now: float) -> float:
        """Take tokens. Returns the seconds until the debt is gone, 0 if there is none."""
        level = self._level + (now - self._at) * self._rate
        self._level = level = (self._capacity if level > self._capacity else level) - tokens
        self._at = now
        return -level / self._rate if level < 0 else 0.0


class RateLimit:
    """The limits of one connection, `message_rate` and `byte_rate`, and its debt."""

    __slots__ = ("_bytes", "_messages", "overdrawn", "owes", "setting")

    def __init__(self, settings: Settings, overdrawn: dict[int, None], now: float) -> None:
        self.overdrawn = overdrawn
        """The ids of connections with a debt, one set for all; the sockets act on it."""
        self.owes = 0.0
        """Seconds until the peer may send again."""
        self.setting = ""
        """The setting whose limit the peer has exceeded."""
        self._messages: Bucket | None = None
        self._bytes: Bucket | None = None
        burst = settings.rate_burst
        if settings.message_rate:
            rate = settings.message_rate
            self._messages = Bucket(rate, max(1.0, rate * burst), now)
        if settings.byte_rate:
            self._bytes = Bucket(settings.byte_rate, settings.byte_rate * burst, now)

    def charge(self, size: int, messages: int, now: float) -> bool:
        """Count received messages and bytes; True if they exceed a limit."""
        owes = 0.0
        if self._bytes is not None:
            owes = self._bytes.take(size, now)
            self.setting = "byte_rate"
        if self._messages is not None:
            waits = self._messages.take(messages, now)
            if waits > owes:
                owes = waits
                self.setting = "message_rate"
        if owes:
            self.owes = owes
        return owes > 0
