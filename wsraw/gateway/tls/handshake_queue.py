"""I/O. TLS handshakes take turns: each is dear, and those who are in must not wait for them.

A full handshake costs the server about a millisecond of CPU; a thousand that arrive at once would
be a second in which nobody else is served. So endpoints queue up here, and each turn works on them
until its share of CPU time is used up. Their order is that of arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

BUDGET: Final = 0.003
"""Seconds of CPU for handshakes in a turn; the last step may take it over that."""


class Handshake(Protocol):
    """Who waits for its turn."""

    def take_turn(self, data: bytes) -> object:
        """Go one step with what came."""

    def handle_fault(self, error: BaseException) -> object:
        """That step has raised: it ends."""


class Handshakes:
    """A queue, and what became of those who stood in it."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self.waiting: dict[Handshake, bytes] = {}
        """Who waits, with the bytes that its peer has sent."""
        self.completed = 0
        self.failed = 0

    def figures(self) -> dict[str, int]:
        """For `wsraw status`."""
        return {
            "waiting": len(self.waiting),
            "completed": self.completed,
            "failed": self.failed,
        }

    def work(self) -> None:
        """One turn's share: at least one step, as long as the budget lasts."""
        waiting = self.waiting
        end = self._clock() + BUDGET
        # Those who queue up again meanwhile do so behind the others.
        for _ in range(len(waiting)):
            one = next(iter(waiting))
            data = waiting.pop(one)
            try:
                one.take_turn(data)
            except Exception as error:
                one.handle_fault(error)
            if self._clock() >= end:
                return
