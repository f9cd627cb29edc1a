"""The workers' side of the model check: they come and work. trouble.py has what happens to them."""

from __future__ import annotations

from collections.abc import Callable

from tests.gateway.ground import TOKEN, Ground
from tests.gateway.habits import Handler, pick
from tests.pairs import Process, Task
from wsraw.link.records import Open
from wsraw.link.states import LinkState

MOST_PROCESSES = 4


class Crew(Ground):
    """Workers that do their work."""

    def arrive(self, a: int, b: int) -> None:
        """A new worker process connects."""
        if len(self.processes) < MOST_PROCESSES:
            self._arrive(self.config.concurrency, (self.config.window, 2)[b % 5 == 4])

    def _arrive(self, concurrency: int, window: int) -> Process:
        self._names += 1
        name, number, token = f"i{self._names}", 0, TOKEN
        if self.config.spawned:
            number, token = self._names, f"token {self._names}"
            self.sessions.tokens.add(token, number)
        process = Process(
            name,
            token,
            concurrency=concurrency,
            window=window,
            number=number,
            starting=self.config.spawned and number % 2 == 0,
        )
        process.connect(self._new_identity())
        self.processes.append(process)
        return process

    def _new_identity(self) -> bytes:
        self._names += 1
        return b"id%d" % self._names

    def _pick_process(self, a: int, useful: Callable[[Process], object]) -> Process | None:
        return pick([process for process in self.processes if useful(process)], a)

    def to_worker(self, a: int, b: int = 0) -> None:
        """A worker reads one batch."""
        process = self._pick_process(a, lambda process: process.inbox)
        if process is not None:
            process.receive()

    def start(self, a: int, b: int) -> None:
        """A worker starts a handler."""
        process = self._pick_process(a, Process.startable)
        if process is not None:
            task = pick(process.startable(), b // 32)
            assert task is not None
            process.start(task)
            self._handle(process, task, b % 32)

    def finish(self, a: int, b: int) -> None:
        """A handler returns."""
        process = self._pick_process(a, lambda process: process.running)
        if process is not None:
            task = pick(process.running, b)
            assert task is not None
            self._finish(process, task)

    def _finish(self, process: Process, task: Task) -> None:
        if not process.finish(task):
            self.page.counts["outboxes thrown away"] += 1

    def put(self, a: int, b: int = 0) -> None:
        """A worker sends what it has."""
        process = self._pick_process(a, lambda process: True)
        if process is not None:
            self._put(process)

    def _put(self, process: Process) -> None:
        assert not process.refused or process in self._rude, process.refused
        if process.link.state is LinkState.READY:
            process.link.started()
        process.put()
        if not process.alive:
            self._gone(process)

    def _gone(self, process: Process) -> None:
        process.alive = False
        self.processes.remove(process)
        self.late.append((process.identity, process.wire))
        if process.number:
            self.exits.append(process)

    def work(self, a: int, b: int) -> None:
        """A worker reads, handles one event and sends."""
        process = self._pick_process(a, lambda p: p.inbox or p.queue or p.running)
        if process is not None:
            while process.inbox:
                process.receive()
            for task in process.startable()[:1]:
                process.start(task)
                self._handle(process, task, b % 32)
            if process.running:
                self._finish(process, process.running[b % len(process.running)])
            self._put(process)

    def flow(self, a: int, b: int) -> None:
        """What is on the way arrives, in both directions."""
        for peer in self.peers:
            if peer.socket.readable:
                peer.socket.read(65536, self.now)
            if b & 1:
                peer.socket.flush(65536, self.now)
                peer.receive(self.now)
        for process in list(self.processes):
            while process.wire:
                self._receive(process.identity, process.wire.popleft())
        self.turn()

    def _handle(self, process: Process, task: Task, number: int) -> None:
        habit = pick([*self.config.habits, ""], number) or ""
        Handler(self.page, process, task, habit).run()

    def open_outside(self, a: int, b: int) -> None:
        """A timer of a worker opens a connection: it ends with its session."""
        process = self._pick_process(a, lambda p: p.link.state is LinkState.READY)
        if process is not None:
            new = process.link.new_id()
            process.heard.add(new)
            process.link.command(Open(new, "there:1"))
            process.states[new] = b""
