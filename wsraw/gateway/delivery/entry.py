"""Sans-I/O. What the gateway knows of a connection beside the connection itself.

Its delivery (holder, in flight, parked) is changed by dispatcher.py, its accounts and pauses by
accounts.py, its output by outgoing.py, all else by registry.py and the commands of workers.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

from wsraw.gateway.delivery.worker import PoolOf, WorkerOf
from wsraw.link.open_options import Opening
from wsraw.link.records import Close, Event, Send

if TYPE_CHECKING:
    from wsraw.gateway.connection.connection import Connection

EVENT_COST: Final = 256
"""Bytes that an event costs us beside its data; so that floods of empty messages count too."""

Pause = NewType("Pause", int)
"""Why reading from a connection is paused: one bit for each reason."""

PAUSED_OWN: Final = Pause(1)
"""More of its own bytes are held than the high-water mark."""
PAUSED_COUPLED: Final = Pause(2)
"""A connection coupled to it has too much unwritten output."""
PAUSED_MEMORY: Final = Pause(4)
"""All connections together hold too much, and it is among the fullest."""
PAUSED_STOPPING: Final = Pause(8)
"""The gateway is stopping: nothing new is taken."""
PAUSED_RATE: Final = Pause(16)
"""It has sent more in a second than it may."""
PAUSED_FULL: Final = Pause(32)
"""All connections together hold all that they may."""


class Reopening:
    """What a connection's successor needs to know."""

    __slots__ = ("asked", "attempts")

    def __init__(self, asked: Opening, attempts: int) -> None:
        self.asked = asked
        self.attempts = attempts


Parked: TypeAlias = tuple[Event, int]
Worker: TypeAlias = WorkerOf["Entry"]
Pool: TypeAlias = PoolOf["Entry"]


class Entry:
    """One connection: which worker hears it, what waits, what it weighs."""

    __slots__ = (
        "active",
        "allowance",
        "burst_of",
        "burst_until",
        "closed_by_handler",
        "con",
        "couples",
        "dial_at",
        "fragment",
        "fragment_since",
        "gone",
        "groups",
        "heard",
        "held",
        "held_back",
        "holder",
        "id",
        "idle_since",
        "in_flight",
        "inherited",
        "kept",
        "left_behind",
        "marks",
        "name",
        "opener",
        "orphaned",
        "output_counted",
        "output_memory",
        "over",
        "owner",
        "parked",
        "paused_since",
        "pauses",
        "pool",
        "queue",
        "reopening",
        "since",
        "skipped",
        "slow_at",
        "state",
        "unfinished",
        "version",
        "written",
    )

    def __init__(self, con: Connection, pool: Pool, now: float) -> None:
        self.con = con
        self.id = con.id
        self.pool = pool
        self.since = now
        self.active = True
        """Data has gone to or from it since somebody looked."""
        self.idle_since = now
        self.gone = False
        """Forgotten: whatever its connection still reports interests nobody."""
        # dispatch
        self.holder: Worker | None = None
        self.in_flight = 0
        self.parked: deque[Parked] | tuple[Parked, ...] = ()
        """Events that wait, with their sizes. Nearly always there are none, and an empty deque
        takes 600 bytes: `park` makes it, `unpark` drops it."""
        self.queue: deque[Entry] | None = None
        """Where it waits: a queue of its pool or a worker's bound one. In any other queue it is a
        leftover."""
        self.slow_at = -math.inf
        """When an event of it was last found to hold up its worker."""
        self.inherited = False
        """It ended with an earlier gateway. What is known of it, its state too, is with the worker
        that held it: its on_close is for that one, as long as it lives."""
        self.heard = False
        """A worker has been sent an event of it, or has opened it."""
        self.left_behind = 0
        """Bytes that it leaves behind: it has said goodbye before a worker heard of it."""
        self.closed_by_handler = False
        """A handler has closed it: its messages are of no interest any more."""
        # flow
        self.held = 0
        """Bytes parked and in flight."""
        self.output_counted = 0
        """Bytes of output, as they count for its own bounds."""
        self.output_memory = 0
        """Bytes of memory that the output takes, without what it shares with others."""
        self.kept = 0
        """Bytes that handlers keep here for it: state, groups, marks, couples."""
        self.unfinished = 0
        """Bytes of an incomplete message, and of compression, as last weighed."""
        self.pauses = 0
        """Each `Pause` that holds for it; it is read while there is none."""
        self.paused_since = 0.0
        self.allowance = 0
        """Bytes of output that it may have above the limit: what was queued at once."""
        self.burst_until = -math.inf
        """Until when what is queued for it is still queued at once; or as long as the batch lasts
        that has begun it: its session and number."""
        self.burst_of: tuple[int, int] | None = None
        self.over = False
        """Its output has been above the high-water mark and not yet below the low one."""
        self.couples: set[Entry] | None = None
        # commands
        self.state = b""
        self.version = 0
        self.groups: set[str] | None = None
        self.name: str | None = None
        self.opener: Worker | None = None
        self.reopening: Reopening | None = None
        """Set where its end is followed by a successor."""
        self.dial_at = 0.0
        """When the shell may dial it."""
        self.owner: Worker | None = None
        """The session it ends with: opened outside any event, and without a name."""
        self.fragment: Worker | None = None
        """The session in the middle of a fragmented message to it."""
        self.fragment_since = 0.0
        self.held_back: deque[tuple[Worker | None, Send | Close]] | None = None
        """What waits until that message is finished."""
        self.marks: list[tuple[int, Worker, int]] | None = None
        self.written = 0
        """Bytes that are with the kernel, or were left out for it."""
        self.skipped = 0
        """Bytes of that which were left out."""

    @property
    def sent(self) -> int:
        """Bytes that were ever queued for its socket."""
        return self.written + self.con.output.size

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken."""
        return self.written - self.skipped

    def park(self, event: Event, size: int) -> None:
        """Let an event wait behind those that do."""
        self._queue_of_parked().append((event, size))

    def park_in_front(self, event: Event, size: int) -> None:
        """Let an event that comes back wait before all others."""
        self._queue_of_parked().appendleft((event, size))

    def unpark(self) -> Parked:
        """Take the first one that waits."""
        first = self._queue_of_parked().popleft()
        if not self.parked:
            self.parked = ()
        return first

    def _queue_of_parked(self) -> deque[Parked]:
        parked = self.parked
        if not isinstance(parked, deque):
            parked = self.parked = deque()
        return parked


def entry_of(con: Connection) -> Entry | None:
    """The entry of a connection; None before its first event."""
    entry = con.entry
    assert entry is None or isinstance(entry, Entry)
    return entry
