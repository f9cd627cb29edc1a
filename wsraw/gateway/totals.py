"""Sans-I/O. The gateway's counters: plain numbers, kept up to date.

Reading them costs the same for one connection as for 100,000. Where that is enough, reads, writes
and batches are counted, and not messages. Sizes of reads and writes are first appended to a list,
and summed for many at once, which costs less.
"""

from __future__ import annotations

from typing import Final

from wsraw.link.records import HANDLER_BOUNDS, Stats
from wsraw.link.rules import stats_refusal

MANY: Final = 1000
"""Reads or writes that are summed before the second is over, so that these lists stay short, and no
turn takes longer because of them."""

UNKNOWN: Final = "unknown"
"""The kind of a connection that has ended before its protocol was known."""


class ConnectionTotals:
    """Connections of one kind, pool and listener, and the data that they have carried."""

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
        """Name of the listener; empty for connections that handlers have opened."""
        self.opened = opened
        """Handlers have opened the connections; else a listener has accepted them."""
        self.open = 0
        """Connections whose on_close has not been dispatched yet."""
        self.total = 0
        """Connections so far."""
        self.closed: dict[str, int] = {}
        """Connections that have ended, by cause."""
        self.reads: list[int] = []
        """Sizes of reads that are not summed yet. Most reads bring one event, which is not counted
        yet, either; `events` already has the difference for those that brought more or fewer."""
        self.writes: list[int] = []
        """Sizes of writes that the kernel has taken and that are not summed yet."""
        self.events = 0
        """Events of all kinds."""
        self.notices = 0
        """Events that are not messages."""
        self.sent = 0.0
        """Messages of handlers, or their frames. A float, because adding to a float is faster."""
        self.received_bytes = 0
        """Bytes read and summed; with TLS, after decryption."""
        self.sent_bytes = 0
        """Bytes that the kernel has taken, and that are summed; with TLS, before encryption."""
        self.responses: dict[str, int] = {}
        """Responses to HTTP requests by status class: `2xx` and so on."""

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
        """Seconds that all calls have taken together."""
        self.exceptions = 0
        self.slower = [0] * len(HANDLER_BOUNDS)
        """For each of HANDLER_BOUNDS, the calls that were longer than it and not longer than the
        next one."""

    def add(self, more: Stats | HandlerTotals) -> None:
        """Add figures that a worker has reported, or those of a canary."""
        self.calls += more.calls
        self.seconds += more.seconds
        self.exceptions += more.exceptions
        for index, count in enumerate(more.slower):
            self.slower[index] += count


class PoolTotals:
    """Counts of one pool, for all of its workers."""

    __slots__ = (
        "acked", "closed", "dead_letters", "given_back", "handlers", "parked", "redelivered",
    )  # fmt: skip

    def __init__(self) -> None:
        self.closed: dict[str, int] = {}
        """Connections that have ended, by cause."""
        self.parked = 0
        """Events that wait for a worker now."""
        self.acked = 0
        """Events that were handled in sessions that have ended."""
        self.redelivered = 0
        """Events that were delivered again after a worker's death or a lost link, or because they
        were given back."""
        self.given_back = 0
        """Events that workers of a canary have given back, as their handlers failed."""
        self.dead_letters = 0
        """Events that were dropped because they kill workers."""
        self.handlers: dict[str, HandlerTotals] = {}
        """By name, the figures that workers have reported."""

    def add(self, other: PoolTotals) -> None:
        """Add the counts of a canary."""
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
        """Add a worker's figures of a handler; return why they are refused, if they are."""
        why = stats_refusal(stats)
        if why is None:
            self._handler(stats.handler).add(stats)
        return why

    def _handler(self, name: str) -> HandlerTotals:
        totals = self.handlers.get(name)
        if totals is None:
            totals = self.handlers[name] = HandlerTotals()
        return totals
