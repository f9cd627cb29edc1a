"""Sans-I/O. Workers, and pools of workers that run the same handlers.

The classes are generic in what they hold; entry.py defines `Worker` and `Pool`, which hold entries.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final, Generic, NamedTuple

from wsraw.config.pools import is_bridge
from wsraw.config.settings import Settings
from wsraw.gateway.totals import PoolTotals
from wsraw.link.gateway_end import GatewayEnd
from wsraw.link.records import ID_EPOCH_SHIFT, Decoder
from wsraw.link.window import Owner, Window

ID_RANGE: Final = 4096
"""Connection ids that a worker gets at a time, for `open`."""

MOST_RANGES: Final = 16
"""Ranges of ids that a session may have without having used them up."""

EXPECTED_BACK: Final = 10.0
"""Seconds after an event has killed a worker within which a successor is expected. Until then the
last remaining worker serves events that are not suspects, and the suspects wait."""

_SPREAD: Final = 0x9E3779B1
"""Multiplied with consecutive ids, it spreads them evenly over 32 bits (Knuth, The Art of Computer
Programming, volume 3, section 6.4)."""

_BITS: Final = 1 << 32


class RemoteWorker(NamedTuple):
    """What is known about a worker on another machine before it sends anything."""

    address: str
    key: str = ""
    """Name of its key; without CURVE it has none, and needs the token."""
    pools: frozenset[str] | None = None
    """The pools that it may serve; None: any."""

    def __str__(self) -> str:
        return f"{self.key} at {self.address}" if self.key else f"at {self.address}"


class IdRange:
    """A range of connection ids given to one session; each may be opened once."""

    __slots__ = ("_first", "_used", "left")

    def __init__(self, first: int) -> None:
        self._first = first
        self._used = bytearray(ID_RANGE)
        self.left = ID_RANGE

    def take(self, con: int) -> bool:
        """True once for each id of the range."""
        index = con - self._first
        if not 0 <= index < ID_RANGE or self._used[index]:
            return False
        self._used[index] = True
        self.left -= 1
        return True


class WorkerOf(Generic[Owner]):
    """The peer of one link; it has a session once its hello was accepted. The class has more than
    20 attributes because each event needs most of them: parts would cost look-ups."""

    def __init__(
        self, identity: bytes, decoder: Decoder, now: float, remote: RemoteWorker | None = None
    ) -> None:
        self.session: GatewayEnd[Owner] = GatewayEnd(identity, decoder, remote is not None)
        self.window: Window[Owner] = self.session.window
        self.remote = remote
        """Set for a worker on another machine: there a lost link need not be a death."""
        self.number = 0
        """The supervisor's number for it; 0 for a worker that the supervisor did not start."""
        self.since = now
        self.asked = False
        """It was sent a `who`."""
        self.starting = False
        """There is a session, but no events are sent before the worker's first batch."""
        self.quota = 0.0
        """Events after which the worker is replaced; 0: never."""
        self.connections: set[Owner] = set()
        """Connections that have events in flight at it, or whose last events went to it."""
        self.bound: OrderedDict[Owner, None] = OrderedDict()
        """Connections with parked events that wait for this worker alone; they take turns."""
        self.ties: set[Owner] = set()
        """Connections that it opened or owns, or is in the middle of a fragmented message to."""
        self.ids: list[IdRange] = []
        self.fresh_acks = False
        """The window is to be measured in this turn."""
        self.slow_at = -math.inf
        """When it was last found stuck."""
        self.unread_batch = 0
        """The number of the last batch with an unreadable record."""
        self.skips: frozenset[type] = frozenset()
        """Kinds of events that the settings enable and that it has not asked for."""
        self.is_withdrawn = False
        """It gets nothing new, because it drains, hangs, or its link has ended."""
        self.overdue: set[int] = set()
        """Events in flight that it was asked to cancel."""
        self.is_shielded = False
        """It may give back events whose handlers fail."""
        self.hung = False
        """Its process is to be killed; what it still acks counts."""
        self.is_agent = False
        """It is not a worker: it speaks for the other gateways of a cluster."""
        self.kill_reason = ""
        """Why it is killed, until the supervisor is told: until then it can log where it hangs."""

    @property
    def name(self) -> str:
        if self.number:
            return f"worker {self.number}"
        if self.is_agent:
            return "the agent of the cluster"
        name = f"worker {self.session.instance or self.session.identity.hex()}"
        return f"{name} ({self.remote})" if self.remote is not None else name

    def take_id(self, con: int) -> bool:
        """True once for each id that this session was given for `open`."""
        for ids in self.ids:
            if ids.take(con):
                if not ids.left:
                    self.ids.remove(ids)
                return True
        return False


class PoolOf(Generic[Owner]):
    """Workers that run the same handlers, and the connections that wait for any of them. The class
    has more than 20 attributes because each turn needs most of them: parts would cost look-ups."""

    def __init__(self, name: str, settings: Settings, *, stays: bool = True) -> None:
        self.name = name
        self.is_bridge = is_bridge(name)
        """The pool has no workers: its clients are spliced with connections to targets."""
        self.sticky = settings.dispatch == "sticky"
        self.repeats = settings.delivery == "at-least-once"
        """Messages of a worker that died are delivered to another one."""
        self.stays = stays
        """The settings name the pool; otherwise it is deleted when it is empty."""
        self.sessions = 0
        """Sessions of its workers, whether these take events or not."""
        self.hears: frozenset[type] = frozenset()
        """Kinds of events that one of its workers has asked for, when it last started a session."""
        self.connections = 0
        self.totals = PoolTotals()
        self.workers: list[WorkerOf[Owner]] = []
        """Its workers that take events: READY, not draining."""
        self.waiting: OrderedDict[Owner, None] = OrderedDict()
        self.unheard: OrderedDict[Owner, None] = OrderedDict()
        """Clients that no worker has heard of. They take turns with `waiting`, so that neither a
        storm of clients nor a flood of messages blocks the other."""
        self.unheard_left: OrderedDict[Owner, None] = OrderedDict()
        """Clients that no worker has heard of and that have left: served when no other connection
        waits."""
        self.is_unheard_turn = False
        self.suspects: OrderedDict[Owner, None] = OrderedDict()
        """Connections whose next event was in flight at a worker that died."""
        self.orphaned: deque[Owner] = deque()
        """Connections whose worker has left, perhaps without an event for long."""
        self.is_behind = False
        """The next turn must continue: a connection waits and there may be room."""
        self.reassigning = False
        """In the last turn there was a worker for orphaned connections."""
        self.isolated: list[WorkerOf[Owner]] = []
        """Workers that get suspects, one at a time, and nothing else."""
        self.expected_workers = 0
        """How many workers there will be when those expected back have come."""
        self.killed_at = -math.inf
        """When an event that was alone in flight last killed its worker."""
        self.canary: CanaryOf[Owner] | None = None
        """Workers with new handlers that serve a share of the pool's connections."""

    def expects_worker(self, now: float) -> bool:
        """Whether an event is known to kill, and the worker that died is expected back."""
        return len(self.workers) < self.expected_workers and now - self.killed_at < EXPECTED_BACK


class CanaryOf(Generic[Owner]):
    """Workers of a pool with new handlers, and the connections that they serve (canary.py)."""

    def __init__(self, own: PoolOf[Owner]) -> None:
        self.own = own
        """The canary's workers and connections, under the name of the pool that it belongs to."""
        self.numbers: set[int] = set()
        """The supervisor's numbers for its workers."""
        self.share = 0.0
        """Share of the pool's connections that it serves, from 0 to 1."""
        self.is_shielded = False
        """Its workers give back events whose handlers fail."""
        self.raised = 0
        """Exceptions of its handlers, as far as its workers have reported them."""
        self.seen_raised = 0
        """Exceptions that the supervisor was told about."""
        self.hold_at = 1
        """Number of exceptions at which its workers get nothing new until the supervisor has
        looked."""
        self.held_until = 0.0
        """Its workers get nothing new until then, at the latest; 0: they do."""
        self.unseen: deque[Owner] = deque()
        """Connections that may have to move."""

    @property
    def title(self) -> str:
        """The name of the canary in reports, which no pool can have."""
        return f"{self.own.name}/canary"

    def takes(self, con: int) -> bool:
        """Whether the connection with this id belongs to its share."""
        n = con & ((1 << ID_EPOCH_SHIFT) - 1)
        return n * _SPREAD % _BITS < self.share * _BITS
