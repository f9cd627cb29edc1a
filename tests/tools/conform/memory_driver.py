"""A driver of `wsraw conform` in memory, without processes and sockets, and with a clock that
jumps.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.tools.conform.faulty import End, Worker
from wsraw.tools.conform.played_gateway import PlayedGateway
from wsraw.tools.conform.rules import Rule
from wsraw.tools.conform.verdicts import Result, verdicts

LINK = 0.0005
"""Seconds that a message takes on the link."""

TIMEOUT = 5.0

RECONNECT = 0.1


class MemoryDriver:
    """Checks the rules with a worker in memory that has this fault."""

    def __init__(self, rules: Sequence[Rule], fault: str = "") -> None:
        secrets = count()
        self.gateway = PlayedGateway(self, "p", lambda: f"secret{next(secrets)}", TIMEOUT)
        self.rules = rules
        self.fault = fault
        self.clock = 100.0
        self.started = 0
        """The number of processes that were started."""
        self._due: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._order = count()
        self._worker: Worker | None = None
        self._identity = b""
        self._free_at = 0.0
        """The time at which the worker has finished sleeping."""
        self._up = True

    def run(self) -> list[Result]:
        return list(verdicts(self.rules, self.gateway))

    def now(self) -> float:
        return self.clock

    def receive(self, gateway: PlayedGateway, seconds: float) -> None:
        until = self.clock + seconds
        if self._due and self._due[0][0] <= until:
            when, _, function, arguments = heapq.heappop(self._due)
            self.clock = max(self.clock, when)
            function(*arguments)
        else:
            self.clock = until

    def _later(self, when: float, function: Any, *arguments: Any) -> None:
        heapq.heappush(self._due, (when, next(self._order), function, arguments))

    def start(self, pool: str, token: str, instance: str) -> None:
        self.started += 1
        environment = {"WSRAW_POOL": pool, "WSRAW_TOKEN": token, "WSRAW_INSTANCE": instance}
        self._worker = Worker(self.fault, environment, self._send_to_gateway, self._sleep)
        self._free_at = self.clock
        self._later(self.clock + RECONNECT, self._connect, self._worker)

    def kill(self) -> None:
        self._worker = None

    def send(self, identity: bytes, data: bytes) -> None:
        if self._up and identity == self._identity:
            self._later(self.clock + LINK, self._deliver, self._worker, identity, data)

    def down(self) -> None:
        self._up = False
        self._identity = b""

    def up(self) -> None:
        self._up = True
        self._later(self.clock + RECONNECT, self._connect, self._worker)

    def _connect(self, worker: Worker | None) -> None:
        if worker is None or worker is not self._worker or not self._up:
            return
        if self.fault in ("queues", "stays away") and worker.hellos:
            return
        number = b"%d" % next(self._order)
        self._identity = (b"me" if self.fault == "own routing id" else b"\0") + number
        self._free_at = max(self._free_at, self.clock)
        if self.fault != "no probe":
            self._send_to_gateway([b""])
        worker.start()

    def _deliver(self, worker: Worker | None, identity: bytes, data: bytes) -> None:
        if worker is None or worker is not self._worker or identity != self._identity:
            return
        if self._free_at > self.clock:
            self._later(self._free_at, self._deliver, worker, identity, data)
            return
        self._free_at = self.clock
        try:
            worker.receive(data)
        except End as end:
            self._worker = None
            self._later(self._free_at + 2 * LINK, self._exited, int(str(end)))

    def _exited(self, code: int) -> None:
        self.gateway.exited(code)

    def _sleep(self, seconds: float) -> None:
        self._free_at += seconds

    def _send_to_gateway(self, frames: list[bytes]) -> None:
        self._later(self._free_at + LINK, self._arrive, self._identity, frames)

    def _arrive(self, identity: bytes, frames: list[bytes]) -> None:
        if self._up and identity == self._identity:
            self.gateway.receive(identity, frames)
