"""Two ends of a link and a fake wire between them: a worker process without sockets.

The wire keeps the order of each link and nothing else: how long a batch takes, and whether it
arrives at all after the link was lost, is the test's choice.
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
    """A handler that runs, or will: its event, its outbox, and what it is about to remember."""

    def __init__(self, event: Any, outbox: Outbox, room: int) -> None:
        self.event = event
        self.outbox = outbox
        self.state: bytes | None = None
        self.flushed = False
        self._room = room

    def command(self, record: Record) -> None:
        """What its handler commands; as the runtime does it."""
        size = len(getattr(record, "data", b"")) + RECORD_COST
        if self.outbox.records:
            self.outbox.cut(size, self._room)
        self.outbox.size += size
        self.outbox.records.append(record)


class Process:
    """A worker process: its end of the link, and what a runtime around it must do."""

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
        """Bytes of commands in a batch of it; 0: as many as a gateway takes."""
        self.number = number
        """What the supervisor calls it; 0 if it was started by hand."""
        self.instance = instance
        self.concurrency = concurrency
        self.identity = b""
        self.inbox: deque[bytes] = deque()
        """What the gateway has sent and this process has not read."""
        self.wire: deque[bytes] = deque()
        """What this process has sent and the gateway has not read."""
        self.sent: list[bytes] = []
        """All it has ever sent."""
        self.queue: deque[Task] = deque()
        self.running: list[Task] = []
        self.states: dict[int, bytes] = {}
        self.deaf: set[int] = set()
        self.given_back: set[int] = set()
        """Connections of which another version is to handle what comes."""
        self.heard: set[int] = set()
        """Connections it knows of and has not seen the end of, through all sessions."""
        self.heard_at: dict[bytes, set[int]] = {}
        """The same for each hello, at the moment it was sent."""
        self.refused: list[Refused] = []
        self.draining = False
        self.alive = True

    def connect(self, identity: bytes) -> deque[bytes]:
        """A fresh link, as after a network break. Gives what was still on the old wire.

        The first thing a ROUTER hears of it is an empty message (PROBE_ROUTER).
        """
        late, self.wire = self.wire, deque([b""])
        self.inbox = deque()
        self.identity = identity
        return late

    def receive(self) -> list[Any]:
        """Read one batch of the inbox; gives its records."""
        session = self.link.session
        records = self.link.receive(self.inbox.popleft())
        if self.link.session != session:
            # Events of a session that is over come again, to whom the gateway chooses; and what
            # was known of connections comes with them.
            self.queue.clear()
            self.states.clear()
            self.deaf.clear()
            self.given_back.clear()
        if self.room:
            self.link.room = self.room
        for record in records:
            if isinstance(record, EVENTS):
                self.states.setdefault(record.con, b"")
                # Of a successor that cannot connect the first event is its error.
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
                # One of that name stands: the one it asked for never was.
                self.states.pop(record.asked, None)
                self.link.held.discard(record.asked)
                self.heard.discard(record.asked)
            elif type(record) is Refused:
                self.refused.append(record)
            elif type(record) is Drain:
                self.draining = True
        return records

    def startable(self) -> list[Task]:
        """Events whose handler may start: one at a time, or with concurrency one a connection."""
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
        """Its handler runs from here on."""
        self.queue.remove(task)
        self.running.append(task)

    def finish(self, task: Task) -> bool:
        """Its handler returns. False if its session is over, and nothing of it counts."""
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
        """Its handler raises in a new version, and the old one is to handle the event. `tells`: the
        gateway hears of the exception. False if its session is over."""
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
        """Put a batch on the wire, if there is one; after a drain, all there is, the bye last."""
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
