"""A worker process without sockets: two ends of a link, and a fake wire between them.

The wire only keeps the order of each link. The test chooses how long a batch takes, and whether it
arrives at all after the link was lost.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from wsraw.link.batches import RECORD_COST
from wsraw.link.records import (
    Attach,
    Detach,
    Drain,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Opened,
    Record,
    Refused,
    State,
    Stats,
    session_of,
)
from wsraw.link.states import LinkState
from wsraw.link.worker_end import Outbox, WorkerEnd

EVENTS = (OnConnect, OnMessage, OnError, OnClose)


class Task:
    """A handler that runs or will run: its event, its outbox, and the state that it will set."""

    def __init__(self, event: Any, outbox: Outbox, room: int) -> None:
        self.event = event
        self.outbox = outbox
        self.state: bytes | None = None
        self.flushed = False
        self._room = room

    def command(self, record: Record) -> None:
        """Add a command of the handler, as the runtime does."""
        size = len(getattr(record, "data", b"")) + RECORD_COST
        if self.outbox.records:
            self.outbox.cut(size, self._room)
        self.outbox.size += size
        self.outbox.records.append(record)


class Process:
    """A worker process: its end of the link, and the duties of a runtime."""

    def __init__(
        self,
        instance: str,
        token: str,
        *,
        concurrency: int = 1,
        window: int = 8,
        number: int = 0,
        starting: bool = False,
        room: int = 0,
    ) -> None:
        self.link = WorkerEnd(
            pool="default",
            token=token,
            instance=instance,
            language="test",
            concurrency=concurrency,
            window=window,
            starting=starting,
        )
        self.token = token
        self.room = room
        """Bytes of commands in one batch; 0 means as many as a gateway takes."""
        self.number = number
        """The supervisor's number of the worker; 0 if it was started by hand."""
        self.instance = instance
        self.concurrency = concurrency
        self.identity = b""
        self.inbox: deque[bytes] = deque()
        """Batches that the gateway has sent and this process has not read."""
        self.wire: deque[bytes] = deque()
        """Batches that this process has sent and the gateway has not read."""
        self.sent: list[bytes] = []
        """All batches that this process has sent."""
        self.queue: deque[Task] = deque()
        self.running: list[Task] = []
        self.states: dict[int, bytes] = {}
        self.deaf: set[int] = set()
        self.given_back: set[int] = set()
        """Connections whose next events another version handles."""
        self.heard: set[int] = set()
        """Connections that the process knows and whose end it has not seen, across sessions."""
        self.heard_at: dict[bytes, set[int]] = {}
        """The same set for each hello, when that was sent."""
        self.refused: list[Refused] = []
        self.draining = False
        self.alive = True

    def connect(self, identity: bytes) -> deque[bytes]:
        """Connect again, as after a network failure. Returns the batches that were on the old wire.

        A ROUTER first receives an empty message on a new link (PROBE_ROUTER).
        """
        late, self.wire = self.wire, deque([b""])
        self.inbox = deque()
        self.identity = identity
        return late

    def receive(self) -> list[Any]:
        """Read one batch of the inbox; returns its records."""
        session = self.link.session
        records = self.link.receive(self.inbox.popleft())
        if self.link.session != session:
            # The gateway sends the events of the old session again, to workers of its choice,
            # together with what was known of their connections.
            self.queue.clear()
            self.states.clear()
            self.deaf.clear()
            self.given_back.clear()
        if self.room:
            self.link.room = self.room
        for record in records:
            if isinstance(record, EVENTS):
                self.states.setdefault(record.con, b"")
                # The first event of a reopened connection that cannot connect is its error.
                if type(record) is not OnMessage:
                    self.heard.add(record.con)
                if record.con in self.given_back:
                    self.link.not_ours(record.seq)
                    continue
                self.queue.append(Task(record, self.link.outbox(record), self.link.room))
            elif type(record) is Attach:
                self.states[record.con] = record.state
                self.heard.add(record.con)
                self.deaf.discard(record.con)
                self.given_back.discard(record.con)
            elif type(record) is Detach:
                self.states.pop(record.con, None)
                self.deaf.discard(record.con)
                self.given_back.discard(record.con)
                self.heard.discard(record.con)
            elif type(record) is Opened:
                # A connection of that name is open, so the new one was never made.
                self.states.pop(record.asked, None)
                self.link.held.discard(record.asked)
                self.heard.discard(record.asked)
            elif type(record) is Refused:
                self.refused.append(record)
            elif type(record) is Drain:
                self.draining = True
        return records

    def startable(self) -> list[Task]:
        """Tasks that may start: one at a time or, with concurrency, one for each connection."""
        if len(self.running) >= self.concurrency:
            return []
        busy = {task.event.con for task in self.running}
        found = []
        for task in self.queue:
            if task.event.con not in busy:
                found.append(task)
            busy.add(task.event.con)
            if self.concurrency == 1:
                break
        return found

    def start(self, task: Task) -> None:
        """Start the task's handler."""
        self.queue.remove(task)
        self.running.append(task)

    def finish(self, task: Task) -> bool:
        """The handler returns. False if its session is over, so that the task does not count."""
        self.running.remove(task)
        if task.state is not None:
            task.command(State(task.event.con, task.state))
        commands = [record for records, _ in task.outbox.pieces() for record in records]
        if not self.link.done(task.outbox):
            self._undo(commands)
            return False
        if type(task.event) is OnClose:
            self.heard.discard(task.event.con)
        if task.state is not None:
            self.states[task.event.con] = task.state
        return True

    def _undo(self, commands: list[Record]) -> None:
        for record in commands:
            if type(record) is Open:
                self.link.held.discard(record.con)
                self.heard.discard(record.con)

    def fail(self, task: Task, *, tells: bool) -> bool:
        """The handler raises in a new version, so that the old version must handle the event.
        `tells` says that the gateway is told of the exception. False if the session is over.
        """
        self.running.remove(task)
        self._undo([record for records, _ in task.outbox.pieces() for record in records])
        task.outbox.clear()
        con = task.event.con
        if not self.link.give_back(task.outbox):
            return False
        if tells:
            self.link.command(Stats("on_message", 0, 0.0, 1))
        self.given_back.add(con)
        for other in [each for each in self.queue if each.event.con == con]:
            self.link.not_ours(other.event.seq)
            self.queue.remove(other)
        return True

    def put(self) -> bool:
        """Put a batch on the wire, if there is one; after a drain put all of them, with the bye
        last.
        """
        if (
            self.draining
            and self.link.state is LinkState.DRAINING
            and not self.queue
            and not self.running
        ):
            self.link.bye()
        data = self.link.data_to_send()
        if data is None:
            return False
        if not session_of(data):
            self.heard_at[data] = set(self.heard)
        while data is not None:
            self.wire.append(data)
            self.sent.append(data)
            is_gone = self.link.state is LinkState.GONE
            data = self.link.data_to_send() if is_gone else None
        self.alive = not is_gone
        return True
