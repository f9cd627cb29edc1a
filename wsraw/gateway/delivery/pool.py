"""Sans-I/O. A pool: workers that run the same handlers, and the connections that wait for them.

entry.py says what waits: `Pool` is a pool of entries.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Generic

from wsraw.config.settings import Settings
from wsraw.gateway.delivery.worker import WorkerOf
from wsraw.link.window import Owner

EXPECTED_BACK: Final = 10.0
"""Seconds after an event has killed a worker within which a successor is expected. Until then the
last worker that is left serves those beyond suspicion, and the suspects wait."""


class PoolOf(Generic[Owner]):
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
        self.workers: list[WorkerOf[Owner]] = []
        """Those that take events: READY, not draining."""
        self.waiting: deque[Owner] = deque()
        self.unheard: deque[Owner] = deque()
        """Clients that no worker has heard of. They and those who wait are served by turns, so that
        neither a storm of clients nor a flood of messages keeps the other out."""
        self.unheard_left: deque[Owner] = deque()
        """The same, of clients that have left: served when nobody else waits."""
        self.is_unheard_turn = False
        self.leftovers = 0
        """Of those two, how many of late wait no more, and are still in there."""
        self.suspects: deque[Owner] = deque()
        """Connections whose next event was held by a worker that died."""
        self.orphaned: deque[Owner] = deque()
        """Connections whose worker has left, and that may be quiet for long."""
        self.is_behind = False
        """Somebody waits for whom there may be room: that is for the next turn."""
        self.reassigning = False
        """They are given to others, as far as the last turn could see."""
        self.isolated: list[WorkerOf[Owner]] = []
        """Workers that take such events, one at a time and nothing else."""
        self.expected_workers = 0
        """How many take events when all are there that are expected to come back."""
        self.killed_at = -math.inf
        """When an event that was alone with its worker last killed it."""

    def expects_worker(self, now: float) -> bool:
        """Whether an event is known to kill, and a worker that has died is expected back."""
        return len(self.workers) < self.expected_workers and now - self.killed_at < EXPECTED_BACK
