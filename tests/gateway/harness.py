"""A gateway with workers and connections, all in one thread and without a network.

Time is a number. Batches of the gateway arrive at workers with `turn`, batches of workers arrive at
once; model/processes.py has a wire with delays.
"""

from __future__ import annotations

import itertools
from typing import Any

from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import Hello, Record, Refused, encode
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd

TOKEN = "token"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def hello(**changes: Any) -> Hello:
    asked: dict[str, Any] = {
        "version": 1, "pool": "default", "instance": "x", "language": "test", "token": TOKEN,
        "window": 100, "concurrency": 1,
    }  # fmt: skip
    return Hello(**{**asked, **changes})


class LinkedWorker:
    """A worker: its end of the link, and the records that it has received."""

    def __init__(self, harness: Harness, link: WorkerEnd, identity: bytes) -> None:
        self.harness = harness
        self.link = link
        self.identity = identity
        self.heard: list[Any] = []

    @property
    def worker(self) -> Worker:
        """The gateway's end of the same link."""
        return self.harness.sessions.workers[self.identity]

    @property
    def events(self) -> list[Any]:
        """The events that the worker has received and not acked, in order."""
        return [record for record in self.heard if hasattr(record, "seq")]

    def take(self, kind: type[Any]) -> list[Any]:
        """Return all records of that type, and remove them from `heard`."""
        taken = [record for record in self.heard if type(record) is kind]
        self.heard = [record for record in self.heard if type(record) is not kind]
        return taken

    def ack(self, *events: Any, commands: tuple[Record, ...] = ()) -> None:
        """The handlers of these events return (of all events, if none is given)."""
        done = [*events] or self.events
        for event in done:
            self.heard.remove(event)
            outbox = self.link.outbox(event)
            outbox.records.extend(commands)
            commands = ()
            assert self.link.done(outbox)
        self.flush()

    def give_back(self, event: Any) -> None:
        """Give an event back, as its handler has failed behind a shield; later events of its
        connection are not handled.
        """
        self.heard = [
            each
            for each in self.heard
            if not (hasattr(each, "seq") and each.con == event.con and each.seq >= event.seq)
        ]
        assert self.link.give_back(self.link.outbox(event))
        self.flush()
        self.flush()

    def work(self) -> list[Any]:
        """Ack everything until nothing more comes; returns all records in order."""
        seen = []
        self.harness.turn()
        while events := self.events:
            seen += events
            self.ack()
            self.harness.turn()
        return seen

    def say(self, *records: Record) -> None:
        """Send commands that belong to no event."""
        for record in records:
            assert self.link.command(record)
        self.flush()

    def say_raw(self, *records: Any) -> None:
        """Send a batch of this session with any content."""
        self.harness.receive(self.identity, encode([self.link.session, *records]))

    def refused(self, record: Any) -> str:
        """Send one record; returns why it was refused, or ""."""
        self.say_raw(record)
        self.harness.turn()
        return " ".join(refused.why for refused in self.take(Refused))

    def flush(self) -> None:
        """Pass the data of this end of the link to the gateway."""
        data = self.link.data_to_send()
        if data is not None:
            self.harness.receive(self.identity, data)


class Harness:
    """The core of a gateway and its surroundings."""

    def __init__(self, memory_limit: int = 1 << 30, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.registry = Registry(self.settings, 1, memory_limit)
        self.sessions = Sessions(self.registry)
        self.deadlines = Deadlines(self.registry)
        self.sessions.tokens.add(TOKEN, 0)
        self.now = 0.0
        self.linked_workers: list[LinkedWorker] = []
        self._identities = itertools.count(1)

    # --- workers ---

    def worker(self, **changes: Any) -> LinkedWorker:
        """A worker that has sent its hello and received the welcome."""
        n = next(self._identities)
        asked: dict[str, Any] = {
            "pool": "default", "token": TOKEN, "instance": f"i{n}", "language": "test",
        }  # fmt: skip
        linked = LinkedWorker(self, WorkerEnd(**{**asked, **changes}), b"\0%d" % n)
        self.linked_workers.append(linked)
        self.receive(linked.identity, b"")
        self.turn()
        self.turn()
        return linked

    def reconnect(self, instance: str, n: int) -> LinkedWorker:
        """A process on a new link, after ZeroMQ has cut the old one."""
        link = WorkerEnd(pool="default", token=TOKEN, instance=instance, language="test")
        worker = LinkedWorker(self, link, b"\0again%d" % n)
        self.linked_workers.append(worker)
        self.receive(worker.identity, b"")
        self.turn()
        self.turn()
        return worker

    def receive(self, identity: bytes, data: bytes) -> None:
        """Receive a message of a worker, and apply it in as many turns as it takes."""
        self.sessions.receive(identity, data, self.now)
        while self.sessions.backlog.go_on(self.now):
            pass

    def turn(self) -> None:
        """End a turn: batches and replies are sent, and arrive at once."""
        self.sessions.backlog.go_on(self.now)
        self.registry.outgoing.close_overflowing(self.now)
        out = [
            (worker.session.identity, batch) for worker, batch in self.sessions.batches(self.now)
        ]
        out += self.sessions.replies
        out += [(cut.identity, cut.last) for cut in self.sessions.cuts if cut.last]
        self.sessions.replies = []
        self.sessions.cuts = []
        for identity, batch in out:
            for linked in self.linked_workers:
                if linked.identity == identity:
                    linked.heard += linked.link.receive(batch)
                    linked.flush()

    def run(self, seconds: float) -> None:
        """Let time pass, with the checks of every second."""
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            self.registry.flow.now = self.now
            self.tick()
        self.turn()

    def tick(self) -> None:
        """Do the checks of one second, in as many turns as they take."""
        self.sessions.tick(self.now)
        self.deadlines.tick(self.now)
        while self.deadlines.late:
            self.deadlines.end_late(self.now)

    # --- connections ---

    def raw(self, data: bytes = b"hello", **listen: Any) -> Connection:
        """An accepted raw connection, after its first data."""
        con = accepted(
            self.registry.ids.new(),
            Listen(name="test", **listen),
            self.settings,
            {},
            self.now,
            self.registry.policy,
        )
        self.registry.take(con, con.first_events(self.now), self.now)
        if data:
            self.say(con, data)
        return con

    def websocket(self) -> Connection:
        """An accepted WebSocket, after its 101 was written."""
        con = self.raw(HANDSHAKE)
        assert con.kind == "websocket"
        self.write(con)
        return con

    def say(self, con: Connection, data: bytes) -> None:
        """Send data as the peer."""
        self.registry.take(con, con.receive_data(data, self.now), self.now)

    def hang_up(self, con: Connection) -> None:
        """Reset the connection as the peer."""
        self.registry.take(con, con.lost("connection reset by peer", self.now), self.now)

    def write(self, con: Connection, size: int | None = None) -> bytes:
        """Let the socket take this much of the output, or all, as the gateway's endpoint does."""
        taken = bytearray()
        while con.output.size and (size is None or len(taken) < size):
            chunk = bytes(con.output.data_to_send())
            if size is not None:
                chunk = chunk[: size - len(taken)]
            taken += chunk
            self.registry.take(con, con.written(len(chunk), self.now), self.now)
            con.entry.written += len(chunk)
        if con.entry is not None:
            self.registry.wrote(con.entry)
        return bytes(taken)


def entry_of(con: Connection) -> Entry:
    """The gateway's entry of a connection."""
    entry = con.entry
    assert isinstance(entry, Entry)
    return entry


def is_over(linked: LinkedWorker) -> bool:
    """Whether the gateway has ended the worker's session."""
    return (
        linked.identity not in linked.harness.sessions.workers
        or linked.worker.session.state is LinkState.NEW
    )
