"""A driver of `wsraw conform` in memory: no process, no socket, and a clock that jumps."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.tools.conform.faulty import End, Worker
from wsraw.tools.conform.played_gateway import PlayedGateway
from wsraw.tools.conform.rules import Rule
from wsraw.tools.conform.script_runner import Result, ScriptRunner

LINK = 0.0005
"""Seconds that a message is on its way."""

TIMEOUT = 5.0

RECONNECT = 0.1


class MemoryDriver:
    """Runs the rules against a worker in memory that has this fault."""

    def __init__(self, rules: Sequence[Rule], fault: str = "") -> None:
        secrets = count()
        gateway = PlayedGateway(self, "p", lambda: f"secret{next(secrets)}", TIMEOUT)
        self.runner = ScriptRunner(rules, gateway)
        self.fault = fault
        self.now = 100.0
        self.started = 0
        """How many processes."""
        self._due: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._order = count()
        self._worker: Worker | None = None
        self._identity = b""
        self._free_at = 0.0
        """When the worker has slept."""
        self._up = True

    def run(self) -> list[Result]:
        runner = self.runner
        runner.advance(self.now)
        while not runner.over:
            if self._due and self._due[0][0] <= runner.wake_at:
                when, _, function, arguments = heapq.heappop(self._due)
                self.now = max(self.now, when)
                function(*arguments)
            else:
                self.now = runner.wake_at
            runner.advance(self.now)
        return runner.results

    def _later(self, when: float, function: Any, *arguments: Any) -> None:
        heapq.heappush(self._due, (when, next(self._order), function, arguments))

    def start(self, pool: str, token: str, instance: str) -> None:
        self.started += 1
        environment = {"WSRAW_POOL": pool, "WSRAW_TOKEN": token, "WSRAW_INSTANCE": instance}
        self._worker = Worker(self.fault, environment, self._send_to_gateway, self._sleep)
        self._free_at = self.now
        self._later(self.now + RECONNECT, self._connect, self._worker)

    def kill(self) -> None:
        self._worker = None

    def send(self, identity: bytes, data: bytes) -> None:
        if self._up and identity == self._identity:
            self._later(self.now + LINK, self._deliver, self._worker, identity, data)

    def down(self) -> None:
        self._up = False
        self._identity = b""

    def up(self) -> None:
        self._up = True
        self._later(self.now + RECONNECT, self._connect, self._worker)

    def _connect(self, worker: Worker | None) -> None:
        if worker is None or worker is not self._worker or not self._up:
            return
        if self.fault in ("queues", "stays away") and worker.hellos:
            return
        number = b"%d" % next(self._order)
        self._identity = (b"me" if self.fault == "own routing id" else b"\0") + number
        self._free_at = max(self._free_at, self.now)
        if self.fault != "no probe":
            self._send_to_gateway([b""])
        worker.start()

    def _deliver(self, worker: Worker | None, identity: bytes, data: bytes) -> None:
        if worker is None or worker is not self._worker or identity != self._identity:
            return
        if self._free_at > self.now:
            self._later(self._free_at, self._deliver, worker, identity, data)
            return
        self._free_at = self.now
        try:
            worker.receive(data)
        except End as end:
            self._worker = None
            self._later(self._free_at + 2 * LINK, self._exited, int(str(end)))

    def _exited(self, code: int) -> None:
        self.runner.exited(code, self.now)

    def _sleep(self, seconds: float) -> None:
        self._free_at += seconds

    def _send_to_gateway(self, frames: list[bytes]) -> None:
        self._later(self._free_at + LINK, self._arrive, self._identity, frames)

    def _arrive(self, identity: bytes, frames: list[bytes]) -> None:
        if self._up and identity == self._identity:
            self.runner.receive(identity, frames, self.now)
