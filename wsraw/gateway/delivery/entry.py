"""Sans-I/O. What the gateway knows of a connection beside the connection itself.

Its delivery (holder, in flight, parked) is changed by dispatcher.py, its accounts and pauses by
accounts.py, its output by outgoing.py, all else by registry.py and the commands of workers.
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
"""Bytes that an event takes beside its data, so that a flood of empty messages counts too."""

Pause = NewType("Pause", int)
"""Why reading from a connection is paused: one bit for each reason."""

PAUSED_OWN: Final = Pause(1)
"""More of its own bytes wait than the high-water mark, which is lower while memory is crowded.
"""
PAUSED_COUPLED: Final = Pause(2)
"""A connection coupled to it has too much unwritten output."""
PAUSED_STOPPING: Final = Pause(8)
"""The gateway is stopping: nothing new is taken."""
PAUSED_RATE: Final = Pause(16)
"""The peer has sent more in a second than it may."""
PAUSED_FULL: Final = Pause(32)
"""All connections together hold all that they may."""
PAUSED_SPLICED: Final = Pause(64)
"""The connection that it is spliced with is busy with a large message."""


class Burst:
    """Output that was queued at once, and may therefore exceed the limit."""

    __slots__ = ("allowance", "batch", "until")

    def __init__(self, until: float, batch: tuple[int, int] | None) -> None:
        self.until = until
        self.batch = batch
        """Session and number of the batch that has begun it: all of that is queued at once."""
        self.allowance = 0
        """Bytes of output above the limit."""


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
        """What is a message in the bytes of a raw side: `chunk`, `line` or `length`."""
        self.type = type_
        """Of the messages that a WebSocket gets from a raw side: `text` or `binary`."""
        self.begun: list[Event] = []
        """Events in flight whose handlers may still send: what comes after them waits."""
        self.waiting: list[OnMessage] = []
        """Messages that wait for that, counted in the account."""
        self.flows = False
        """What comes is forwarded at once."""
        self.buffer = bytearray()
        """Bytes of a message that is not whole, on their way to or from a raw side."""
        self.has_passed_fin = False
        """That its peer sends no more was passed on."""


class Reopening:
    """What a connection's successor needs to know."""

    __slots__ = ("asked", "attempts")

    def __init__(self, asked: Opening, attempts: int) -> None:
        self.asked = asked
        self.attempts = attempts


Parked: TypeAlias = tuple[Event, int, float]
NOTHING: Final[deque[Parked]] = deque(maxlen=0)
"""No parked events: one for all, as an empty deque takes 600 bytes."""
Worker: TypeAlias = WorkerOf["Entry"]
Pool: TypeAlias = PoolOf["Entry"]
Canary: TypeAlias = CanaryOf["Entry"]
Queue: TypeAlias = "OrderedDict[Entry, None]"
"""Connections that wait for a worker, in order."""


def held_size(record: Send | Close) -> int:
    """Bytes of a command that is held back, in the connection's account."""
    return EVENT_COST + (len(record.data) if isinstance(record, Send) else 0)


class Entry:
    """The bookkeeping of one connection. It has this many attributes, and no parts, because those
    that take part in each message would cost a look-up more, and parts more memory when idle."""

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
        """Its on_close has not come about yet."""
        self.since = now
        self.received_at = 0.0
        """When a message of its peer last came, and when data was last queued for it; 0: never."""
        self.sent_at = 0.0
        self.idle_since = now
        """When it was last found waiting for somebody else than its peer."""
        self.gone = False
        """Forgotten: what its connection still reports is dropped."""
        # dispatch
        self.holder: Worker | None = None
        self.in_flight = 0
        self.parked: deque[Parked] = NOTHING
        """Events that wait, with their sizes, and since when they have waited."""
        self.queue: Queue | None = None
        """Where it waits: a queue of its pool, or the bound queue of a worker."""
        self.slow_at = -math.inf
        """When an event of it last made its worker late."""
        self.inherited = False
        """The connection ended with an earlier gateway. Its state is with the worker that held it,
        which gets its on_close while it lives."""
        self.heard = False
        """A worker has been sent an event of it, or has opened it."""
        self.left_behind = 0
        """Bytes of its events if its client has left before a worker heard of it."""
        self.closed_by_handler = False
        """Messages of its peer do not go to handlers from now on."""
        self.splice: SplicedSide | None = None
        """Where they go instead, if anywhere; else they are dropped."""
        # flow
        self.event_bytes = 0
        """Bytes parked and in flight."""
        self.output_counted = 0
        """Bytes of output, as last counted, for its own marks."""
        self.output_memory = 0
        """Bytes of memory of its output, as last counted, without shared frames."""
        self.kept = 0
        """Bytes that handlers store in it: state, groups, marks, couples."""
        self.unfinished = 0
        """Bytes of an incomplete message and of compression, as last counted."""
        self.pauses = 0
        """Each `Pause` that holds for it; it is read while there is none."""
        self.paused_since = 0.0
        self.burst: Burst | None = None
        self.over = False
        """The output was above the high-water mark and is not yet below the low one."""
        self.couples: set[Entry] | None = None
        # commands
        self.state = b""
        self.version = 0
        self.groups: set[str] | None = None
        self.user = ""
        """The user that handlers have bound it to."""
        self.name: str | None = None
        self.opener: Worker | None = None
        self.reopening: Reopening | None = None
        """Set if a successor is opened when it ends."""
        self.dial_at = 0.0
        """The earliest time to dial it."""
        self.owner: Worker | None = None
        """The worker with whose session it ends: opened outside any event and without a name."""
        self.fragment: Worker | None = None
        """The worker in the middle of a fragmented message to it."""
        self.fragment_since = 0.0
        self.held_back: deque[tuple[Worker | None, Send | Close]] | None = None
        """Commands that wait until that message is finished."""
        self.marks: list[tuple[int, Worker, int]] | None = None
        self.written = 0
        """Bytes that the kernel has taken, or that were dropped."""
        self.skipped = 0
        """Bytes of those that were dropped."""

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
        """When data was last carried, in either direction; at first, when it began."""
        return max(self.since, self.received_at, self.sent_at)

    def park(self, event: Event, size: int, since: float, *, front: bool = False) -> None:
        """Let an event wait behind the others; a returned one in front of them. `since`: when it
        came, or was given out before."""
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
        """Wait for no worker."""
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None


def entry_of(con: Connection) -> Entry | None:
    """The entry of a connection; None before its first event."""
    entry = con.entry
    assert entry is None or isinstance(entry, Entry)
    return entry
