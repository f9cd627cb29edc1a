"""I/O. What stands in place of ZeroMQ, of the clock and of the log, in the worker of a test."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Any

from wsraw.workers.runtime import log_exception, log_left_out
from wsraw.workers.shells.link_socket import Bell, Dealer


class MemoryDealer(Dealer):
    """Both ends of a link in one process."""

    def __init__(self, identity: bytes) -> None:
        # Nothing of the real one: there is no socket.
        self.identity = identity
        self.sent: deque[bytes] = deque()
        """For the gateway."""
        self._inbox: deque[bytes] = deque()
        self._arrival = Bell()

    def put(self, batch: bytes) -> None:
        """The gateway sends."""
        self._inbox.append(batch)
        self._arrival.ring()

    @property
    def fd(self) -> int:
        """Readable when something has come."""
        return self._arrival.reader

    def is_readable(self) -> bool:
        """Whether a batch is waiting."""
        return bool(self._inbox)

    def is_connected(self) -> bool:
        """Always."""
        return True

    def receive(self) -> bytes | None:
        """The next batch, or None."""
        self._arrival.quiet()
        return self._inbox.popleft() if self._inbox else None

    def send(self, batch: bytes) -> bool:
        """Hand a batch over."""
        self.sent.append(batch)
        return True

    def close(self, *, after_bye: bool = False) -> None:
        """Give the descriptors back."""
        self._arrival.close()


class ForwardLoop(asyncio.SelectorEventLoop):
    """A loop whose clock goes as always, and can be set forward."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._whens: list[float] = []
        super().__init__()

    def time(self) -> float:
        """Seconds of the real clock, and those that were skipped."""
        return super().time() + self._ahead

    def forward(self, seconds: float) -> None:
        """Skip so many seconds."""
        self._ahead += seconds

    def until_next(self) -> float:
        """Seconds until a timer is due; infinite without one."""
        now = self.time()
        while self._whens and self._whens[0] <= now:
            heapq.heappop(self._whens)
        return self._whens[0] - now if self._whens else float("inf")

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, **context: Any
    ) -> asyncio.TimerHandle:
        """As always, but we know of it."""
        heapq.heappush(self._whens, when)
        return super().call_at(when, callback, *args, **context)


class Teller:
    """Tells a test what handlers have raised."""

    def __init__(self, errors: list[BaseException]) -> None:
        self._errors = errors
        self.over = False
        """Their worker was killed: what they still do is nobody's business."""

    def __call__(self, what: str, error: BaseException) -> None:
        """For the log, and for the test."""
        if not self.over:
            log_exception(what, error)
            error.add_note(f"raised by the handler: {what}")
            self._errors.append(error)

    def left_out(self, why: str) -> None:
        """The gateway has left out a command."""
        if not self.over:
            log_left_out(why)
            self._errors.append(RuntimeError(f"the gateway rejected a command: {why}"))
