"""Sans-I/O. What the router knows of connections, workers and pools. State lives once: here.

Who may change what: dispatcher.py changes holder, in flight and parked; accounts.py the
accounts and the pauses; router.py the rest.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NewType

from wsraw.config.settings import Settings
from wsraw.link.ends import GatewayLink
from wsraw.link.open_options import Opening
from wsraw.link.records import Close, Decoder, Event, Send

if TYPE_CHECKING:
    from wsraw.gateway.connection.connection import Connection

EVENT_COST: Final = 256
"""Bytes that an event costs us beside its data; so that floods of empty messages count too."""

MOST_RANGES: Final = 16
"""Ranges of ids that a session may have at a time and not have used up."""

EXPECTED_BACK: Final = 10.0
"""Seconds after an event has killed a worker within which a successor is expected. Until then the
last worker that is left serves those beyond suspicion, and the suspects wait."""

ID_RANGE: Final = 4096
"""Connection ids a worker is given at a time, for `open`."""

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


class RemoteWorker(NamedTuple):
    """What is known of a worker that came over the network, before it says anything."""

    address: str
    key: str = ""
    """Name of its key; without CURVE it has none, and needs the token."""
    pools: frozenset[str] | None = None
    """Pools it may serve; None: any."""

    def __str__(self) -> str:
        return f"{self.key} at {self.address}" if self.key else f"at {self.address}"


class Worker(GatewayLink):
    """A link as the router sees it: its connections, and those that wait for this worker alone."""

    def __init__(self, identity: bytes, decoder: Decoder, now: float) -> None:
        super().__init__(identity, decoder)
        self.since = now
        self.connections: set[Entry] = set()
        self.bound: deque[Entry] = deque()
        """Connections with parked events whose earlier ones are in flight here, taken in turn."""
        self.ids: list[IdRange] = []
        self.ties: set[Entry] = set()
        """Connections it opened, owns, or is in the middle of a fragmented message to."""
        self.fresh_acks = False
        self.quota = 0.0
        """Events after which it is replaced; 0: never."""
        self.starting = False
        """It has a session, and is not ready for events before its first batch."""
        self.guest: RemoteWorker | None = None
        """Set for a worker on another machine."""
        self.asked = False
        """It was sent `who`."""
        self.unread_batch = 0
        """The number of the last batch that had a record we could not read."""
        self.slow_at = -math.inf
        """When it was last found stuck."""
        self.records: list[Any] | None = None
        """The batch that is applied a share in each turn; and from where on, and its size."""
        self.at = 0
        self.batch_size = 0
        self.later: deque[bytes | memoryview] = deque()
        """Batches behind that one."""
        self.condemned = False
        """It hangs: its process is to be killed; what it still acks counts."""
        self.verdict = ""
        """Why; empty once the supervisor has been told. It has until then to log where it is."""

    @property
    def is_at_work(self) -> bool:
        """Whether the rest of a batch of its is still to be applied. (Not asked of `records`: mypyc
        would believe what was stored there before a call.)"""
        return self.records is not None

    @property
    def is_remote(self) -> bool:
        """Whether a network is between us, so that a lost link need not be a death."""
        return self.guest is not None

    def take_id(self, con: int) -> bool:
        """True once for each id that this session was given to open with."""
        for ids in self.ids:
            if ids.take(con):
                if not ids.left:
                    self.ids.remove(ids)
                return True
        return False


class IdRange:
    """A range of connection ids given to one session; each may be opened once."""

    __slots__ = ("_first", "_used", "left")

    def __init__(self, first: int) -> None:
        self._first = first
        self._used = bytearray(ID_RANGE // 8)
        self.left = ID_RANGE

    def take(self, con: int) -> bool:
        """True once for each id of the range."""
        index = con - self._first
        if not 0 <= index < ID_RANGE:
            return False
        byte, bit = index >> 3, 1 << (index & 7)
        if not self._used[byte] & bit:
            self._used[byte] |= bit
            self.left -= 1
            return True
        return False


class Reopening:
    """What a connection's successor needs to know."""

    __slots__ = ("asked", "attempts")

    def __init__(self, asked: Opening, attempts: int) -> None:
        self.asked = asked
        self.attempts = attempts


class Pool:
    """Workers that run the same handlers, and the connections that wait for any of them."""

    def __init__(self, name: str, settings: Settings, *, stays: bool = True) -> None:
        self.name = name
        self.sticky = settings.dispatch == "sticky"
        self.repeats = settings.delivery == "at-least-once"
        """Messages of a worker that died go to another one."""
        self.stays = stays
        """The settings name it; else it lasts as long as somebody is in it."""
        self.sessions = 0
        """Of workers, whether they take events or not."""
        self.connections = 0
        self.workers: list[Worker] = []
        """Those that take events: READY, not draining."""
        self.waiting: deque[Entry] = deque()
        self.newcomers: deque[Entry] = deque()
        """Clients that no worker has heard of. They and those who wait are served by turns, so that
        neither a storm of clients nor a flood of messages keeps the other out."""
        self.departed: deque[Entry] = deque()
        """The same, of clients that have left: served when nobody else waits."""
        self.is_newcomers_turn = False
        self.leftovers = 0
        """Of those two, how many of late wait no more, and are still in there."""
        self.suspects: deque[Entry] = deque()
        """Connections whose next event was held by a worker that died."""
        self.homeless: deque[Entry] = deque()
        """Connections whose worker has left, and that may be quiet for long."""
        self.is_behind = False
        """Somebody waits for whom there may be room: that is for the next turn."""
        self.rehoming = False
        """They are given to others, as far as the last turn could see."""
        self.isolated: list[Worker] = []
        """Workers that take such events, one at a time and nothing else."""
        self.strength = 0
        """How many take events when all are there that are expected to come back."""
        self.killed_at = -math.inf
        """When an event that was alone with its worker last killed it."""

    def misses_somebody(self, now: float) -> bool:
        """Whether an event is known to kill, and a worker that has died is expected back."""
        return len(self.workers) < self.strength and now - self.killed_at < EXPECTED_BACK


Parked = tuple[Event, int]


class Entry:
    """A connection's place in the router. Who hears it, what waits, what it weighs."""

    __slots__ = (
        "active",
        "allowance",
        "buried",
        "burst_of",
        "burst_until",
        "con",
        "couples",
        "deaf",
        "departed",
        "dial_at",
        "fragment",
        "fragment_since",
        "gone",
        "groups",
        "heard",
        "held",
        "holder",
        "id",
        "idle_since",
        "in_flight",
        "kept",
        "late_sends",
        "marks",
        "name",
        "opener",
        "output_counted",
        "over",
        "own_output",
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
        self.buried = False
        """It ended with an earlier gateway. What is known of it, its state too, is with the worker
        that held it: its on_close is for that one, as long as it lives."""
        self.heard = False
        """A worker has been sent an event of it, or has opened it."""
        self.departed = 0
        """Bytes that it leaves behind: it has said goodbye before a worker heard of it."""
        self.deaf = False
        """A handler has closed it: its messages are of no interest any more."""
        # flow
        self.held = 0
        """Bytes parked and in flight."""
        self.output_counted = 0
        """Bytes of output, as they count for its own bounds."""
        self.own_output = 0
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
        self.late_sends: deque[tuple[Worker | None, Send | Close]] | None = None
        """What waits until that message is finished."""
        self.marks: list[tuple[int, Worker, int]] | None = None
        self.written = 0
        """Bytes that are with the kernel, or were left out for it."""
        self.skipped = 0
        """Bytes of that which were left out."""

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
