"""Sans-I/O. What the gateway knows of a connection beside the connection itself.

An entry's delivery (holder, in flight, parked) is changed by dispatcher.py, its accounts and pauses
by accounts.py, its output by outgoing.py, all else by registry.py and the commands of workers.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

from wsraw.gateway.delivery.worker import CanaryOf, PoolOf, WorkerOf
from wsraw.gateway.totals import ConnectionTotals
from wsraw.link.open_options import Opening
from wsraw.link.records import Close, Event, OnMessage, Send

if TYPE_CHECKING:
    from wsraw.gateway.connection.connection import Connection

EVENT_COST: Final = 256
"""Bytes that an event counts beside its data, so that a flood of empty messages counts, too."""

Pause = NewType("Pause", int)
"""Why reading from a connection is paused: one bit for each reason."""

PAUSED_OWN: Final = Pause(1)
"""More bytes of the connection wait than the high-water mark, which is lower while memory is
crowded."""
PAUSED_COUPLED: Final = Pause(2)
"""A coupled connection has too much unwritten output."""
PAUSED_STOPPING: Final = Pause(8)
"""The gateway is stopping: nothing new is taken."""
PAUSED_RATE: Final = Pause(16)
"""The peer has sent more in a second than it may."""
PAUSED_FULL: Final = Pause(32)
"""All connections together hold as much as they may."""
PAUSED_SPLICED: Final = Pause(64)
"""The connection that it is spliced with is busy with a large message."""


class Burst:
    """Output that was queued at once, and may therefore exceed the limit."""

    __slots__ = ("allowance", "batch", "until")

    def __init__(self, until: float, batch: tuple[int, int] | None) -> None:
        self.until = until
        self.batch = batch
        """Session and number of the batch that began the burst: all of that batch is queued at
        once."""
        self.allowance = 0
        """Bytes of output that are allowed above the limit."""


class SplicedSide:
    """One side of two connections between which the gateway forwards: plain data, which
    gateway/splices/ acts on."""

    __slots__ = (
        "begun",
        "buffer",
        "flows",
        "framing",
        "has_passed_fin",
        "other",
        "type",
        "waiting",
    )

    def __init__(self, other: int, framing: str, type_: str) -> None:
        self.other = other
        """The id of the other connection."""
        self.framing = framing
        """What counts as a message in the bytes of a raw side: `chunk`, `line` or `length`."""
        self.type = type_
        """The type of messages that a WebSocket gets from a raw side: `text` or `binary`."""
        self.begun: list[Event] = []
        """Events in flight whose handlers may still send: later messages wait."""
        self.waiting: list[OnMessage] = []
        """Messages that wait for those handlers, counted in the account."""
        self.flows = False
        """Messages are forwarded at once."""
        self.buffer = bytearray()
        """Bytes of an incomplete message, on its way to or from a raw side."""
        self.has_passed_fin = False
        """The end of what its peer sends was passed on."""


class Reopening:
    """What the successor of a connection takes over."""

    __slots__ = ("asked", "attempts")

    def __init__(self, asked: Opening, attempts: int) -> None:
        self.asked = asked
        self.attempts = attempts


Parked: TypeAlias = tuple[Event, int, float]
NOTHING: Final[deque[Parked]] = deque(maxlen=0)
"""Stands for no parked events: one for all, because an empty deque takes 600 bytes."""
Worker: TypeAlias = WorkerOf["Entry"]
Pool: TypeAlias = PoolOf["Entry"]
Canary: TypeAlias = CanaryOf["Entry"]
Queue: TypeAlias = "OrderedDict[Entry, None]"
"""Connections that wait for a worker, in order."""


def held_size(record: Send | Close) -> int:
    """Bytes that a held-back command counts in the connection's account."""
    return EVENT_COST + (len(record.data) if isinstance(record, Send) else 0)


class Entry:
    """The bookkeeping of one connection. It has this many attributes, and no parts, because
    attributes that each message needs would cost a further look-up, and parts would take more
    memory while idle."""

    __slots__ = (
        "burst",
        "closed_by_handler",
        "con",
        "couples",
        "dial_at",
        "event_bytes",
        "fragment",
        "fragment_since",
        "gone",
        "groups",
        "heard",
        "held_back",
        "holder",
        "id",
        "idle_since",
        "in_flight",
        "inherited",
        "is_open",
        "kept",
        "left_behind",
        "marks",
        "name",
        "opener",
        "output_counted",
        "output_memory",
        "over",
        "owner",
        "parked",
        "paused_since",
        "pauses",
        "pool",
        "queue",
        "received_at",
        "reopening",
        "sent_at",
        "since",
        "skipped",
        "slow_at",
        "splice",
        "state",
        "totals",
        "unfinished",
        "user",
        "version",
        "written",
    )

    def __init__(self, con: Connection, pool: Pool, totals: ConnectionTotals, now: float) -> None:
        self.con = con
        self.id = con.id
        self.pool = pool
        self.totals = totals
        self.is_open = True
        """Its on_close has not been dispatched yet."""
        self.since = now
        self.received_at = 0.0
        """When the last message came from the peer, and when data was last queued for it; 0:
        never."""
        self.sent_at = 0.0
        self.idle_since = now
        """When it was last found waiting for anything but its peer."""
        self.gone = False
        """The entry is forgotten: what its connection still reports is dropped."""
        # dispatch
        self.holder: Worker | None = None
        self.in_flight = 0
        self.parked: deque[Parked] = NOTHING
        """Parked events, with their sizes, and since when they have waited."""
        self.queue: Queue | None = None
        """The queue in which it waits: one of its pool, or the bound queue of a worker."""
        self.slow_at = -math.inf
        """When one of its events last made its worker late."""
        self.inherited = False
        """The connection ended with an earlier gateway. The worker that held it has its state, and
        gets its on_close as long as it lives."""
        self.heard = False
        """A worker has been sent one of its events, or has opened it."""
        self.left_behind = 0
        """Bytes of its events if its client had left before a worker heard of it."""
        self.closed_by_handler = False
        """The peer's messages no longer go to handlers."""
        self.splice: SplicedSide | None = None
        """Where messages go instead of to handlers; None: they are dropped."""
        # flow
        self.event_bytes = 0
        """Bytes of parked events and events in flight."""
        self.output_counted = 0
        """Bytes of output, as last counted, for the connection's own marks."""
        self.output_memory = 0
        """Bytes of memory of the output, as last counted, without shared frames."""
        self.kept = 0
        """Bytes that handlers store in the entry: state, groups, marks, couples."""
        self.unfinished = 0
        """Bytes of an incomplete message and of compression, as last counted."""
        self.pauses = 0
        """All `Pause` bits that hold; the connection is read while there are none."""
        self.paused_since = 0.0
        self.burst: Burst | None = None
        self.over = False
        """The output was above the high-water mark and is not yet below the low-water mark."""
        self.couples: set[Entry] | None = None
        # commands
        self.state = b""
        self.version = 0
        self.groups: set[str] | None = None
        self.user = ""
        """The user to which handlers have bound it."""
        self.name: str | None = None
        self.opener: Worker | None = None
        self.reopening: Reopening | None = None
        """Set if a successor is to be opened when the connection ends."""
        self.dial_at = 0.0
        """The earliest time to dial the connection."""
        self.owner: Worker | None = None
        """The worker with whose session the connection ends, because it was opened outside any
        event and without a name."""
        self.fragment: Worker | None = None
        """The worker that is in the middle of a fragmented message to the connection."""
        self.fragment_since = 0.0
        self.held_back: deque[tuple[Worker | None, Send | Close]] | None = None
        """Commands that wait until that message is complete."""
        self.marks: list[tuple[int, Worker, int]] | None = None
        self.written = 0
        """Bytes that the kernel has taken, or that were dropped."""
        self.skipped = 0
        """Bytes of dropped output."""

    @property
    def sent(self) -> int:
        """Bytes that were ever queued for its socket."""
        return self.written + self.con.output.size

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken."""
        return self.written - self.skipped

    @property
    def carried_at(self) -> float:
        """When data was last carried, in either direction; initially, when the connection began."""
        return max(self.since, self.received_at, self.sent_at)

    def park(self, event: Event, size: int, since: float, *, front: bool = False) -> None:
        """Let an event wait behind the others, or in front of them if it was returned. `since`:
        when the event came, or when it had been delivered."""
        if not self.parked:
            self.parked = deque()
        self.pool.totals.parked += 1
        if front:
            self.parked.appendleft((event, size, since))
        else:
            self.parked.append((event, size, since))

    def unpark(self) -> Parked:
        """Take the first event that waits."""
        first = self.parked.popleft()
        self.pool.totals.parked -= 1
        if not self.parked:
            self.parked = NOTHING
        return first

    def take_parked(self) -> deque[Parked]:
        """Take all events that wait."""
        parked, self.parked = self.parked, NOTHING
        self.pool.totals.parked -= len(parked)
        return parked

    def leave_queue(self) -> None:
        """Remove it from the queue in which it waits."""
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None


def entry_of(con: Connection) -> Entry | None:
    """The entry of a connection; None before its first event."""
    entry = con.entry
    assert entry is None or isinstance(entry, Entry)
    return entry
