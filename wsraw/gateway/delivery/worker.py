"""Sans-I/O. What the gateway knows of a worker: its session, its window, its connections.

entry.py says what it holds: `Worker` is a worker that holds entries.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Generic, NamedTuple

from wsraw.link.gateway_end import GatewayEnd
from wsraw.link.records import Decoder
from wsraw.link.window import Owner, Window

ID_RANGE: Final = 4096
"""Connection ids that a worker is given at a time, for `open`."""

MOST_RANGES: Final = 16
"""Ranges of ids that a session may have at a time and not have used up."""


class RemoteWorker(NamedTuple):
    """What is known of a worker on another machine before it says anything."""

    address: str
    key: str = ""
    """Name of its key; without CURVE it has none, and needs the token."""
    pools: frozenset[str] | None = None
    """Pools it may serve; None: any."""

    def __str__(self) -> str:
        return f"{self.key} at {self.address}" if self.key else f"at {self.address}"


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


class WorkerOf(Generic[Owner]):
    """Whoever speaks over one link; it has a session once its hello was good."""

    def __init__(
        self, identity: bytes, decoder: Decoder, now: float, remote: RemoteWorker | None = None
    ) -> None:
        self.session: GatewayEnd[Owner] = GatewayEnd(identity, decoder, remote is not None)
        self.window: Window[Owner] = self.session.window
        self.remote = remote
        """Set for a worker on another machine: there a lost link need not be a death."""
        self.number = 0
        """The supervisor's; 0 for a worker that it did not start."""
        self.since = now
        self.asked = False
        """It was sent `who`."""
        self.starting = False
        """It has a session, and is not ready for events before its first batch."""
        self.quota = 0.0
        """Events after which it is replaced; 0: never."""
        self.connections: set[Owner] = set()
        """Those that it holds."""
        self.bound: deque[Owner] = deque()
        """Connections with parked events that wait for this worker alone, served in turn."""
        self.ties: set[Owner] = set()
        """Connections it opened, owns, or is in the middle of a fragmented message to."""
        self.ids: list[IdRange] = []
        self.fresh_acks = False
        """Its window is to be measured in this turn."""
        self.slow_at = -math.inf
        """When it was last found stuck."""
        self.unread_batch = 0
        """The number of the last batch with a record that could not be read."""
        self.hung = False
        """Its process is to be killed; what it still acks counts."""
        self.kill_reason = ""
        """Why, until the supervisor is told: until then it can log where it hangs."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        if self.number:
            return f"worker {self.number}"
        name = f"worker {self.session.instance or self.session.identity.hex()}"
        return f"{name} ({self.remote})" if self.remote is not None else name

    def take_id(self, con: int) -> bool:
        """True once for each id that this session was given to open with."""
        for ids in self.ids:
            if ids.take(con):
                if not ids.left:
                    self.ids.remove(ids)
                return True
        return False
