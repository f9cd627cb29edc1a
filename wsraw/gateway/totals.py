"""Sans-I/O. What the gateway counts: plain numbers, kept as things happen.

Reading them costs the same for one connection as for 100,000. They are counted for each read, write
and batch where that is enough, and not for each message.
"""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "unknown"
"""The kind of a connection that has ended before it was known what it is."""


class ConnectionTotals:
    """Connections of one kind, pool and listener, and what they have carried."""

    __slots__ = (
        "closed",
        "events",
        "kind",
        "listener",
        "notices",
        "open",
        "opened",
        "pool",
        "received_bytes",
        "sent",
        "sent_bytes",
        "total",
    )

    def __init__(self, kind: str, pool: str, listener: str, opened: bool) -> None:
        self.kind = kind
        """`raw`, `websocket` or UNKNOWN."""
        self.pool = pool
        self.listener = listener
        """Its name; empty for connections that handlers have opened."""
        self.opened = opened
        """Handlers have opened them; else a listener has accepted them."""
        self.open = 0
        """Connections whose on_close has not come about yet."""
        self.total = 0
        """Connections so far."""
        self.closed: dict[str, int] = {}
        """Connections that have ended, by cause."""
        self.events = 0
        """Events of all kinds."""
        self.notices = 0
        """Events that are not messages."""
        self.sent = 0
        """Messages of handlers, or their frames."""
        self.received_bytes = 0
        """Bytes read; with TLS, after decryption."""
        self.sent_bytes = 0
        """Bytes that the kernel has taken; with TLS, before encryption."""

    @property
    def received(self) -> int:
        """Messages of clients: frames of WebSockets, reads of raw connections."""
        return self.events - self.notices

    def count_end(self, cause: str) -> None:
        """Count a connection that has ended."""
        self.closed[cause] = self.closed.get(cause, 0) + 1


class PoolTotals:
    """What has happened in one pool, whichever of its workers did it."""

    __slots__ = ("acked", "closed", "dead_letters", "parked", "redelivered")

    def __init__(self) -> None:
        self.closed: dict[str, int] = {}
        """Connections that have ended, by cause."""
        self.parked = 0
        """Events that wait for a worker now."""
        self.acked = 0
        """Events that were handled in sessions that are over."""
        self.redelivered = 0
        """Events that were given out again after a worker's death or a lost link."""
        self.dead_letters = 0
        """Events that were dropped because they kill workers."""

    def add(self, other: PoolTotals) -> None:
        """Take over what has happened elsewhere."""
        self.parked += other.parked
        self.acked += other.acked
        self.redelivered += other.redelivered
        self.dead_letters += other.dead_letters
        for cause, count in other.closed.items():
            self.closed[cause] = self.closed.get(cause, 0) + count
