"""Sans-I/O. What the gateway counts: plain numbers, kept as things happen.

Reading them costs the same for one connection as for 100,000. They are counted for each read, write
and batch where that is enough, and not for each message. What is to be added up for each read and
write is appended to a list first, and summed for many at once, which costs less.
"""

from __future__ import annotations

from typing import Final

from wsraw.link.records import HANDLER_BOUNDS, Stats
from wsraw.link.rules import stats_refusal

MANY: Final = 1000
"""Reads or writes that are summed before the second is over: so these lists stay short, and no turn
is longer for them."""

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
        "reads",
        "received_bytes",
        "responses",
        "sent",
        "sent_bytes",
        "total",
        "writes",
    )

    def __init__(self, kind: str, pool: str, listener: str, opened: bool) -> None:
        self.kind = kind
        """`raw`, `websocket`, `http` or UNKNOWN."""
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
        self.reads: list[int] = []
        """Bytes of reads that are not summed yet. Most bring one event, which is not counted
        yet, either; what others bring more or less than that is in `events` already."""
        self.writes: list[int] = []
        """Bytes that the kernel has taken, which are not summed yet."""
        self.events = 0
        """Events of all kinds."""
        self.notices = 0
        """Events that are not messages."""
        self.sent = 0.0
        """Messages of handlers, or their frames. A float, as those cost less: it is added to for
        each message."""
        self.received_bytes = 0
        """Bytes read, as far as summed; with TLS, after decryption."""
        self.sent_bytes = 0
        """Bytes that the kernel has taken, as far as summed; with TLS, before encryption."""
        self.responses: dict[str, int] = {}
        """Responses to HTTP requests, by the class of their status: `2xx` and so on."""

    @property
    def received(self) -> int:
        """Messages of clients: frames of WebSockets, reads of raw connections."""
        return self.events + len(self.reads) - self.notices

    def sum_up(self) -> None:
        """Add what is not summed yet to the other figures."""
        reads, writes = self.reads, self.writes
        if reads:
            self.events += len(reads)
            self.received_bytes += sum(reads)
            reads.clear()
        if writes:
            self.sent_bytes += sum(writes)
            writes.clear()

    @property
    def is_long(self) -> bool:
        """Whether there is much to sum."""
        return len(self.reads) > MANY or len(self.writes) > MANY

    def count_end(self, cause: str, status: int = 0) -> None:
        """Count a connection that has ended, perhaps with a response of that status."""
        self.closed[cause] = self.closed.get(cause, 0) + 1
        if status:
            self.count_response(status)

    def count_response(self, status: int) -> None:
        """Count a response to an HTTP request."""
        name = f"{status // 100}xx"
        self.responses[name] = self.responses.get(name, 0) + 1


class HandlerTotals:
    """Calls of one handler, in all workers of a pool."""

    __slots__ = ("calls", "exceptions", "seconds", "slower")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        """What the calls have taken together."""
        self.exceptions = 0
        self.slower = [0] * len(HANDLER_BOUNDS)
        """Calls longer than each of HANDLER_BOUNDS, and not longer than the next one."""

    def add(self, more: Stats | HandlerTotals) -> None:
        """Count what a worker says, or take over what a canary has counted."""
        self.calls += more.calls
        self.seconds += more.seconds
        self.exceptions += more.exceptions
        for index, count in enumerate(more.slower):
            self.slower[index] += count


class PoolTotals:
    """What has happened in one pool, whichever of its workers did it."""

    __slots__ = (
        "acked", "closed", "dead_letters", "given_back", "handlers", "parked", "redelivered",
    )  # fmt: skip

    def __init__(self) -> None:
        self.closed: dict[str, int] = {}
        """Connections that have ended, by cause."""
        self.parked = 0
        """Events that wait for a worker now."""
        self.acked = 0
        """Events that were handled in sessions that are over."""
        self.redelivered = 0
        """Events that were given out again after a worker's death or a lost link, or because they
        were given back."""
        self.given_back = 0
        """Events that workers of a canary have given back, as their handlers failed."""
        self.dead_letters = 0
        """Events that were dropped because they kill workers."""
        self.handlers: dict[str, HandlerTotals] = {}
        """By name, as far as workers have told."""

    def add(self, other: PoolTotals) -> None:
        """Take over what a canary has counted."""
        self.parked += other.parked
        self.acked += other.acked
        self.redelivered += other.redelivered
        self.given_back += other.given_back
        self.dead_letters += other.dead_letters
        for cause, count in other.closed.items():
            self.closed[cause] = self.closed.get(cause, 0) + count
        for name, figures in other.handlers.items():
            self._handler(name).add(figures)

    def count(self, stats: Stats) -> str | None:
        """Add what a worker says of a handler; returns why it is refused, if it is."""
        why = stats_refusal(stats)
        if why is None:
            self._handler(stats.handler).add(stats)
        return why

    def _handler(self, name: str) -> HandlerTotals:
        totals = self.handlers.get(name)
        if totals is None:
            totals = self.handlers[name] = HandlerTotals()
        return totals
