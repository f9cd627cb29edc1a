"""I/O. TLS handshakes queue up: each is expensive, and open connections must not wait for them.

A full handshake costs the server about a millisecond of CPU time; a thousand that arrive at once
would be a second in which nobody else is served. So they queue up here, in order of arrival, and
each turn of the loop works on them until its share of CPU time is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

BUDGET: Final = 0.003
"""Seconds of CPU time for handshakes in a turn; the last step may exceed it."""


class Queued(Protocol):
    """What can wait in the queue."""

    def take_turn(self, data: bytes) -> object:
        """Go one step with the bytes that have come."""

    def handle_fault(self, error: BaseException) -> object:
        """End: that step has raised."""


class HandshakeQueue:
    """Handshakes that wait for their turn, and how many have ended."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self.waiting: dict[Queued, bytes] = {}
        """With the bytes that each peer has sent."""
        self.completed = 0
        self.failed = 0

    def figures(self) -> dict[str, int]:
        return {
            "waiting": len(self.waiting),
            "completed": self.completed,
            "failed": self.failed,
        }

    def work(self) -> None:
        """Take one turn's share: as long as the budget lasts, at least one step."""
        waiting = self.waiting
        end = self._clock() + BUDGET
        # One that queues up again meanwhile does so behind the others.
        for _ in range(len(waiting)):
            handshake = next(iter(waiting))
            data = waiting.pop(handshake)
            try:
                handshake.take_turn(data)
            except Exception as error:
                handshake.handle_fault(error)
            if self._clock() >= end:
                return
