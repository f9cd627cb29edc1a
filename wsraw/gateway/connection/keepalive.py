"""Sans-I/O. The deadline of a connection, and whether its peer still responds."""

from __future__ import annotations

import math
from typing import Final

EARLY: Final = 1 / 32
"""Share of its interval by which a ping may go out early. The peer was last heard when its pong
came, a moment after our ping; waiting for exactly one interval would need a second timer for each
ping."""


FEW: Final = 16 * 1024
"""Bytes that any live peer takes within a ping_timeout."""


class Keepalive:
    """When `handle_timeout` of a connection is due, when its peer was last heard, and when it was
    pinged."""

    __slots__ = (
        "_ahead",
        "_delivered_then",
        "_ping_sent",
        "deadline",
        "delivered",
        "heard",
        "holds_pongs",
        "opened_at",
        "ping_unwritten",
        "timeout",
        "undelivered",
    )

    def __init__(self) -> None:
        self.deadline = math.inf
        """When `handle_timeout` is due. Messages do not move the deadline of a ping: when it comes,
        it is found out of date."""
        self.timeout = 0.0
        """Seconds of the last deadline that was set."""
        self.heard = 0.0
        self.opened_at = math.inf
        """When an opened connection, or a WebSocket, began to carry data."""
        self._ping_sent = -math.inf
        self.ping_unwritten = 0
        """Bytes of output up to the end of our last ping."""
        self.holds_pongs = False
        """Pongs wait until there is less output."""
        self.delivered = self.undelivered = 0
        """Bytes of all output that the peer's system has acknowledged, and bytes that ours still
        holds, as of now, when a deadline is due. Both stay 0 where the system does not tell."""
        self._ahead = self._delivered_then = 0
        """Bytes up to the end of our last ping that were undelivered at the last look, and how many
        were delivered then."""

    def arm(self, timeout: float, now: float) -> None:
        """Set the deadline; 0 seconds switch it off."""
        self.timeout = timeout
        self.deadline = now + timeout if timeout else math.inf

    def opened(self, now: float) -> None:
        """The connection can carry data."""
        self.heard = self.opened_at = now

    @property
    def awaits_pong(self) -> bool:
        """Whether nothing has come since our last ping."""
        return self.heard < self._ping_sent

    def is_overdue(self, timeout: float, now: float) -> bool:
        """Whether the answer to our last ping is overdue; if not, set the next deadline. The ping
        may be behind megabytes in the kernel: while the peer takes these, it is alive."""
        delivered = self.delivered - self._delivered_then
        if self._ahead > FEW and delivered > 0 and now >= self._ping_sent + timeout:
            self._ahead -= delivered
            self._delivered_then = self.delivered
            self._ping_sent = now
        self.deadline = self._ping_sent + timeout
        return now >= self.deadline

    def is_silent(self, interval: float, now: float) -> bool:
        """Whether a ping is due; if not, set the next deadline."""
        self.deadline = self.heard + interval
        return now >= self.deadline - EARLY * interval

    def look(self, taken: int, undelivered: int) -> bool:
        """Note how much the peer has acknowledged of the bytes that the kernel has taken. Returns
        whether it has acknowledged some since the last look, and more than a few are left."""
        before, self.delivered = self.delivered, taken - undelivered
        self.undelivered = undelivered
        return undelivered > FEW and self.delivered > before

    def pinged(self, unwritten: int, interval: float, timeout: float, now: float) -> None:
        """A ping was queued: this many bytes are unwritten up to its end."""
        self._ping_sent = now
        self.ping_unwritten = unwritten
        self._ahead = unwritten + self.undelivered
        self._delivered_then = self.delivered
        self.deadline = now + min(interval, timeout or math.inf)

    def written(self, size: int, now: float) -> None:
        """Output was written. The time of a ping runs from there: a slow reader is not dead."""
        self.ping_unwritten = max(0, self.ping_unwritten - size)
        self._ping_sent = now
