"""A play without sockets and without waiting: its worker in memory, and a clock that jumps."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Any

from conform.faulty import End, Worker

from wsraw.tools.conform.play import Play
from wsraw.tools.conform.stage import Down, Kill, Send, Start, Up

LINK = 0.0005
"""Seconds that a message is on its way."""

RECONNECT = 0.1


class Theatre:
    """Plays to the end; `play.results` has what came of it."""

    def __init__(self, play: Play, fault: str = "") -> None:
        self.play = play
        self.fault = fault
        self.now = 100.0
        self.started = 0
        self._due: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._order = count()
        self._worker: Worker | None = None
        self._identity = b""
        self._free_at = 0.0
        """When the worker has slept."""
        self._up = True

    def run(self) -> Play:
        play = self.play
        play.advance(self.now)
        while not play.over:
            self._act()
            if self._due and self._due[0][0] <= play.wake_at:
                when, _, function, arguments = heapq.heappop(self._due)
                self.now = max(self.now, when)
                function(*arguments)
            else:
                self.now = play.wake_at
            play.advance(self.now)
        self._act()
        return play

    def _later(self, when: float, function: Any, *arguments: Any) -> None:
        heapq.heappush(self._due, (when, next(self._order), function, arguments))

    def _act(self) -> None:
        actions = self.play.actions
        while actions:
            match actions.popleft():
                case Start(pool, token, instance):
                    self.started += 1
                    environment = {
                        "WSRAW_POOL": pool, "WSRAW_TOKEN": token, "WSRAW_INSTANCE": instance
                    }  # fmt: skip
                    self._worker = Worker(self.fault, environment, self._heard, self._sleep)
                    self._free_at = self.now
                    self._later(self.now + RECONNECT, self._connect, self._worker)
                case Kill():
                    self._worker = None
                case Send(identity, data) if self._up and identity == self._identity:
                    self._later(self.now + LINK, self._deliver, self._worker, identity, data)
                case Down():
                    self._up = False
                    self._identity = b""
                case Up():
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
            self._heard([b""])
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
            self._later(self._free_at + 2 * LINK, self.play.stage.exited, int(str(end)))

    def _sleep(self, seconds: float) -> None:
        self._free_at += seconds

    def _heard(self, frames: list[bytes]) -> None:
        self._later(self._free_at + LINK, self._arrive, self._identity, frames)

    def _arrive(self, identity: bytes, frames: list[bytes]) -> None:
        if self._up and identity == self._identity:
            self.play.receive(identity, frames, self.now)
