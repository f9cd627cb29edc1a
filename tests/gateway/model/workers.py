"""The workers of the model check: they connect and work. faults.py has their faults."""

from __future__ import annotations

from collections.abc import Callable

from tests.gateway.model.handlers import Handler, pick
from tests.gateway.model.processes import Process, Task
from tests.gateway.model.system import TOKEN, System
from wsraw.link.records import Open
from wsraw.link.states import LinkState

MOST_PROCESSES = 4


class Workers:
    """The steps of worker processes."""

    def __init__(self, system: System) -> None:
        self.system = system

    def arrive(self, a: int, b: int) -> None:
        """Let a new worker process connect."""
        if len(self.system.processes) < MOST_PROCESSES:
            self.connect(self.system.config.concurrency, (self.system.config.window, 2)[b % 5 == 4])

    def connect(self, concurrency: int, window: int) -> Process:
        self.system.names += 1
        name, number = f"i{self.system.names}", 0
        # Workers on other machines have a key instead.
        token = "" if self.system.is_remote else TOKEN
        if self.system.config.spawned:
            number, token = self.system.names, f"token {self.system.names}"
            self.system.sessions.tokens.add(token, number)
        process = Process(
            name,
            token,
            concurrency=concurrency,
            window=window,
            number=number,
            starting=self.system.config.spawned and number % 2 == 0,
            room=self.system.config.room,
        )
        process.connect(self.new_identity())
        self.system.processes.append(process)
        return process

    def new_identity(self) -> bytes:
        self.system.names += 1
        return b"id%d" % self.system.names

    def pick_process(self, a: int, useful: Callable[[Process], object]) -> Process | None:
        return pick([process for process in self.system.processes if useful(process)], a)

    def to_worker(self, a: int, b: int = 0) -> None:
        """Let a worker read one batch."""
        process = self.pick_process(a, lambda process: process.inbox)
        if process is not None:
            process.receive()

    def start(self, a: int, b: int) -> None:
        """Let a worker start a handler."""
        process = self.pick_process(a, Process.startable)
        if process is not None:
            task = pick(process.startable(), b // 32)
            assert task is not None
            process.start(task)
            self.handle(process, task, b % 32)

    def finish(self, a: int, b: int) -> None:
        """Let a handler return."""
        process = self.pick_process(a, lambda process: process.running)
        if process is not None:
            task = pick(process.running, b)
            assert task is not None
            self._finish(process, task)

    def fail(self, a: int, b: int) -> None:
        """Let a handler of a new version raise, so that its event goes back to the old version."""
        process = self.pick_process(a, lambda p: p.link.is_shielded and (p.running or p.queue))
        if process is None:
            return
        for task in process.startable()[:1]:
            process.start(task)
            self.handle(process, task, b % 32)
        tasks = [task for task in process.running if not task.flushed]
        task = pick(tasks, b)
        if task is not None and process.fail(task, tells=bool(b & 1)):
            self.system.reference.counts["failures"] += 1

    def _finish(self, process: Process, task: Task) -> None:
        if not process.finish(task):
            self.system.reference.counts["outboxes thrown away"] += 1

    def put(self, a: int, b: int = 0) -> None:
        """Let a worker send a batch."""
        process = self.pick_process(a, lambda process: True)
        if process is not None:
            self.send(process)

    def send(self, process: Process) -> None:
        assert not process.refused or process in self.system.rude, process.refused
        if process.link.state is LinkState.READY:
            process.link.started()
        process.put()
        if not process.alive:
            self.remove(process)

    def remove(self, process: Process) -> None:
        process.alive = False
        self.system.processes.remove(process)
        self.system.late.append((process.identity, process.wire))
        if process.number:
            self.system.exits.append(process)

    def work(self, a: int, b: int) -> None:
        """Let a worker read, handle one event and send."""
        process = self.pick_process(a, lambda p: p.inbox or p.queue or p.running)
        if process is not None:
            while process.inbox:
                process.receive()
            for task in process.startable()[:1]:
                process.start(task)
                self.handle(process, task, b % 32)
            if process.running:
                self._finish(process, process.running[b % len(process.running)])
            self.send(process)

    def flow(self, a: int, b: int) -> None:
        """Deliver what is on its way, in both directions."""
        for peer in self.system.peers:
            if peer.socket.readable:
                peer.socket.read(65536, self.system.now)
            if b & 1:
                peer.socket.flush(65536, self.system.now)
                peer.receive(self.system.now)
        for process in list(self.system.processes):
            while process.wire:
                self.system.receive(process.identity, process.wire.popleft())
        self.system.turn()

    def handle(self, process: Process, task: Task, number: int) -> None:
        action = pick([*self.system.config.actions, ""], number) or ""
        Handler(self.system.reference, process, task, action).run()

    def open_outside(self, a: int, b: int) -> None:
        """Let a timer of a worker open a connection, which ends with the worker's session."""
        process = self.pick_process(a, lambda p: p.link.state is LinkState.READY)
        if process is not None:
            new = process.link.new_id()
            process.heard.add(new)
            process.link.command(Open(new, "there:1"))
            process.states[new] = b""
