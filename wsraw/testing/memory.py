"""I/O. The link in memory, and the loop whose clock can be set forward."""

from __future__ import annotations

import asyncio
import heapq
import select
from collections import deque
from collections.abc import Callable
from typing import Any

from wsraw.runtime.bell import Bell


class MemoryDealer:
    """Both ends of a link, without a socket."""

    probe_every = float("inf")

    def __init__(self, identity: bytes) -> None:
        self.endpoint = "memory"
        self.bell = Bell()
        self.identity = identity
        self.sent: deque[bytes] = deque()
        """Batches for the gateway."""
        self._inbox: deque[bytes] = deque()
        self._arrival = Bell()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, batch: bytes) -> None:
        """Send a batch as the gateway."""
        self._inbox.append(batch)
        self._arrival.ring()

    def wake(self) -> None:
        """Let the loop look for batches."""
        self._arrival.ring()

    def is_connected(self) -> bool:
        return True

    def receive(self) -> bytes | None:
        self._arrival.quiet()
        return self._inbox.popleft() if self._inbox else None

    @property
    def is_lost(self) -> bool:
        return False

    @property
    def why(self) -> str:
        return ""

    def reconnect(self) -> None:
        """Does nothing: no connection is ever lost here."""

    def send(self, batch: bytes) -> bool:
        self.sent.append(batch)
        return True

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        timeout = None if seconds == float("inf") else seconds
        ready, _, _ = select.select([self._arrival.reader, self.bell.reader], [], [], timeout)
        if self.bell.reader in ready:
            self.bell.quiet()
        return bool(self._inbox)

    def attach(self, loop: asyncio.AbstractEventLoop, ready: Callable[[], object]) -> None:
        self._loop = loop
        loop.add_reader(self._arrival.reader, ready)

    def detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._arrival.reader)
            self._loop = None

    def forked(self) -> None:
        self.close()

    @property
    def has_unsent(self) -> bool:
        return False

    def flush(self, seconds: float) -> None:
        """Does nothing: no batch is ever unsent here."""

    def close(self, *, after_bye: bool = False) -> None:
        self.bell.close()
        self._arrival.close()


class AdvancingLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock can also be set forward."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._whens: list[float] = []
        super().__init__()

    def time(self) -> float:
        """The real clock, plus the seconds by which it was set forward."""
        return super().time() + self._ahead

    def advance(self, seconds: float) -> None:
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
        heapq.heappush(self._whens, when)
        return super().call_at(when, callback, *args, **context)
