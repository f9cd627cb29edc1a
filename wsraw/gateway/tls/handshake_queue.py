"""I/O. The queue of TLS handshakes: each is expensive, and open connections must not wait for them.

A full handshake costs the server about a millisecond of CPU time; a thousand at once would be a
second in which no other client is served. So handshakes queue here, in order of arrival, and each
turn of the loop works on them until its share of CPU time is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

BUDGET: Final = 0.003
"""Seconds of CPU time for handshakes in a turn; the last step may exceed it."""


class Queued(Protocol):
    """An item of the queue."""

    def take_turn(self, data: bytes) -> object:
        """Take one step with the bytes that have come."""

    def handle_fault(self, error: BaseException) -> object:
        """End, because that step has raised."""


class HandshakeQueue:
    """Handshakes that wait for their turn, and counts of those that have ended."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self.waiting: dict[Queued, bytes] = {}
        """Waiting handshakes, each with the bytes that its peer has sent."""
        self.completed = 0
        self.failed = 0

    def figures(self) -> dict[str, int]:
        return {
            "waiting": len(self.waiting),
            "completed": self.completed,
            "failed": self.failed,
        }

    def work(self) -> None:
        """Use one turn's share: take steps as long as the budget lasts, but at least one."""
        waiting = self.waiting
        end = self._clock() + BUDGET
        # A handshake that queues again meanwhile comes after the others.
        for _ in range(len(waiting)):
            handshake = next(iter(waiting))
            data = waiting.pop(handshake)
            try:
                handshake.take_turn(data)
            except Exception as error:
                handshake.handle_fault(error)
            if self._clock() >= end:
                return
