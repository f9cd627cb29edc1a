"""The model check: the router and workers at the other ends of their links, against page.py.

A step is a name and two numbers, which choose among what is possible at that moment; any list of
steps is a valid history, so that a failing one can be made short by leaving steps out. hypothesis
does that in test_model.py; ``python -m tests.gateway.model`` makes long random histories.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from tests.gateway.page import MARK, Con, Page, Sent
from tests.gateway.peers import Peer, Socket
from tests.pairs import Process, Task
from wsraw import link
from wsraw import messages as m
from wsraw.gateway.connection import Connection
from wsraw.gateway.route import Route, Worker
from wsraw.gateway.router import Router
from wsraw.link import LinkState
from wsraw.settings import Listen, Settings

T = TypeVar("T")
Step = tuple[str, int, int]

TOKEN = "token"
MOST_PEERS = 6
MOST_PROCESSES = 4

STEPS = {
    "accept": 4,
    "say": 30,
    "half_close": 1,
    "reset": 1,
    "read": 8,
    "write": 6,
    "turn": 14,
    "to_worker": 10,
    "start": 14,
    "finish": 14,
    "put": 10,
    "to_gateway": 12,
    "flow": 24,
    "work": 34,
    "arrive": 2,
    "lose": 2,
    "drain": 1,
    "dialled": 2,
    "open_outside": 1,
    "garbage": 1,
    "lie": 1,
    "pass_time": 2,
}
"""What can happen, and how often it does."""


HARM = {"half_close", "reset", "lose", "drain", "open_outside", "garbage", "lie", "pass_time"}
"""What some histories do without."""


HABITS = (
    "flush",
    "fragments here",
    "fragments here flushed",
    "fragments there",
    "fragments there flushed",
    "send there",
    "join",
    "leave",
    "publish",
    "open",
    "open named",
    "open websocket",
    "close",
)
"""What handlers do beside their echo."""


class Config(NamedTuple):
    """What a history runs with."""

    sticky: bool = False
    concurrency: int = 1
    window: int = 8
    window_bytes: int = 4096
    high_water_mark: int = 3000
    output_limit: int = 6000
    memory_limit: int = 1_000_000
    habits: tuple[str, ...] = ()
    lies: bool = False
    """Whether workers ack what they have not handled."""
    survivors: bool = False
    """Whether the workers that stand at the end must see everything through by themselves."""


class World:
    """A gateway without sockets, some workers, some peers; and what must be true of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.settings = Settings(
            dispatch="sticky" if config.sticky else "any",
            high_water_mark=config.high_water_mark,
            low_water_mark=config.high_water_mark // 4,
            output_limit=config.output_limit,
            deflate=False,
        )
        self._window_bytes = link.WINDOW_BYTES
        link.WINDOW_BYTES = config.window_bytes  # type: ignore[misc]
        self.now = 1000.0
        self.router = Router(self.settings, 1, config.memory_limit)
        self.router.spawned(m.Spawned(0, TOKEN, 0))
        self.page = Page()
        self.peers: list[Peer] = []
        self.dialling: list[Route] = []
        self.processes: list[Process] = []
        self.late: list[tuple[bytes, deque[bytes]]] = []
        self.steps = 0
        self._names = 0
        self._watched: set[Worker] = set()
        self._rude: set[Process] = set()

    def close(self) -> None:
        """Give back what was borrowed."""
        link.WINDOW_BYTES = self._window_bytes  # type: ignore[misc]

    def step(self, name: str, a: int, b: int) -> None:
        """Let one thing happen, if it can, and look at everything."""
        self.steps += 1
        self.now += 0.0002
        getattr(self, name)(a, b)
        self.check()

    # --- peers ---

    def accept(self, a: int, b: int) -> None:
        """A client connects."""
        if sum(not peer.gone for peer in self.peers) >= MOST_PEERS:
            return
        listen = Listen(name="here", protocol=("any", "any", "raw")[b % 3])
        con = Connection.accepted(self.router.new_id(), listen, self.settings, {}, self.now)
        page_con = self.page.cons[con.id] = Con(con.id, websocket=a % 2 == 0 and b % 3 != 2)
        self.peers.append(Peer(page_con, Socket(self.router, con)))
        self.router.take(con, con.opened_events(self.now), self.now)
        if page_con.websocket:
            # Its handshake at once: one that is late is none, and its bytes are data.
            self.peers[-1].socket.read(65536, self.now)

    def say(self, a: int, b: int) -> None:
        """A peer sends something."""
        peer = pick([peer for peer in self.peers if peer.can_say], a)
        if peer is not None:
            peer.say((0, 0, 30, 700)[b % 4], self.now)

    def half_close(self, a: int, b: int) -> None:
        """A peer has said everything."""
        peer = pick([peer for peer in self.peers if peer.can_say], a)
        if peer is not None:
            peer.leave(self.now)

    def reset(self, a: int, b: int) -> None:
        """A peer is gone without a word."""
        peer = pick([peer for peer in self.peers if not peer.gone], a)
        if peer is not None:
            peer.reset(self.now)

    def read(self, a: int, b: int) -> None:
        """The gateway reads from a socket."""
        peer = pick([peer for peer in self.peers if peer.socket.readable], a)
        if peer is not None:
            peer.socket.read((1, 7, 400, 65536)[b % 4], self.now)

    def write(self, a: int, b: int) -> None:
        """The gateway writes to a socket."""
        peer = pick([peer for peer in self.peers if not peer.gone], a)
        if peer is not None:
            peer.socket.flush((3, 100, 65536)[b % 3], self.now)
            peer.receive(self.now)

    # --- the gateway ---

    def turn(self, a: int = 0, b: int = 0) -> None:
        """The end of a turn, in the gateway's order."""
        router = self.router
        router.flow.now = self.now
        self.dialling += router.to_dial
        router.to_dial.clear()
        for route in list(router.flow.changed):
            router.flow.changed.discard(route)
            if route.con.shell is not None:
                route.con.shell.judge_pause(self.now)
        for worker, data in router.batches(self.now):
            self.page.leaves(worker.identity, data)
            self._to_process(worker.identity, data)
        for identity, data in router.replies:
            self._to_process(identity, data)
        router.replies.clear()
        router.dirty.clear()
        self._check_nobody_starves()

    def _to_process(self, identity: bytes, data: bytes) -> None:
        for process in self.processes:
            if process.identity == identity and process.alive:
                process.inbox.append(data)

    def to_gateway(self, a: int, b: int = 0) -> None:
        """One batch of some wire reaches the gateway, late ones included."""
        wires = [(p.identity, p.wire) for p in self.processes] + self.late
        chosen = pick([wire for wire in wires if wire[1]], a)
        if chosen is not None:
            self._receive(chosen[0], chosen[1].popleft())

    def _receive(self, identity: bytes, data: bytes) -> None:
        router, page = self.router, self.page
        opened = page.reaches(identity, data)
        router.receive(identity, data, self.now)
        worker = router.workers.get(identity)
        if worker is not None and worker not in self._watched:
            self._watch(worker)
        if worker is not None and worker.session and worker.session not in page.sessions:
            page.begin(worker.session, identity, worker.instance)
        for open_ in opened:
            if open_.con not in router.routes:
                # One of that name stands already.
                del page.cons[open_.con]
                for session in page.sessions.values():
                    session.known.discard(open_.con)

    def _watch(self, worker: Worker) -> None:
        """Look at each delivery as it is made: the window is right only at that moment."""
        self._watched.add(worker)
        deliver = worker.deliver

        def checked(event: Any, route: Any, size: int, now: float) -> None:
            count = len(worker.in_flight)
            assert worker.state is LinkState.READY, "an event for one that takes none"
            assert count < worker.window <= worker.largest, "more than the window"
            assert not count or worker.in_flight_bytes + size <= link.WINDOW_BYTES
            before = route.in_flight - 1
            assert not before or 2 * before < worker.window, "more than half a window"
            assert before == sum(entry.owner is route for entry in worker.in_flight.values())
            deliver(event, route, size, now)

        worker.deliver = checked  # type: ignore[method-assign]

    def dialled(self, a: int, b: int) -> None:
        """A connection that a worker has opened stands, or fails."""
        route = pick(self.dialling, a)
        if route is None:
            return
        self.dialling.remove(route)
        con = route.con
        if b % 4 == 0:
            self.router.take(con, con.connect_failed("refused", self.now), self.now)
        elif route.id in self.page.cons:
            peer = Peer(self.page.cons[route.id], Socket(self.router, con))
            self.peers.append(peer)
            self.router.take(con, con.connected(self.now), self.now)
            if peer.page.websocket:
                for _ in range(3):
                    peer.socket.flush(65536, self.now)
                    peer.receive(self.now)
                    if peer.socket.readable:
                        peer.socket.read(65536, self.now)

    def pass_time(self, a: int, b: int) -> None:
        """Nothing happens for a while."""
        self.now += (0.001, 0.03, 1.0, 9.0, 31.0, 125.0)[b % 6]
        for peer in self.peers:
            peer.socket.handle_timeout(self.now)
        for route in list(self.dialling):
            if route.con.deadline <= self.now:
                self.dialling.remove(route)
                self.router.take(
                    route.con, route.con.connect_failed("timed out", self.now), self.now
                )
        self.router.tick(self.now)

    # --- workers ---

    def arrive(self, a: int, b: int) -> None:
        """A new worker process connects."""
        if len(self.processes) < MOST_PROCESSES:
            self._arrive(self.config.concurrency, (self.config.window, 2)[b % 5 == 4])

    def _arrive(self, concurrency: int, window: int) -> Process:
        self._names += 1
        process = Process(f"i{self._names}", TOKEN, concurrency=concurrency, window=window)
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
            process.finish(task)

    def put(self, a: int, b: int = 0) -> None:
        """A worker sends what it has."""
        process = self._pick_process(a, lambda process: True)
        if process is not None:
            self._put(process)

    def _put(self, process: Process) -> None:
        assert not process.refused or process in self._rude, process.refused
        process.put()
        if not process.alive:
            self._gone(process)

    def _gone(self, process: Process) -> None:
        process.alive = False
        self.processes.remove(process)
        self.late.append((process.identity, process.wire))

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
                process.finish(process.running[b % len(process.running)])
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

    def _handle(self, process: Process, task: Task, b: int) -> None:
        """The handler: echo, count in the state, and sometimes more."""
        event, outbox = task.event, task.outbox
        habit = pick([*self.config.habits, ""], b) or ""
        session = self.page.sessions.get(outbox.session)
        if session is None or event.seq not in session.sent:
            return
        sent = session.sent[event.seq]
        con = sent.con
        if event.con in process.deaf and type(event) is m.OnMessage:
            return
        self._count(process, task, sent)
        # Handlers that run side by side in a session share its fragmented messages, and must not.
        alone = process.concurrency == 1
        mark = b"%d.%d.%d" % (con.id & 0xFFFFFF, sent.rank, sent.offset)
        if habit == "flush":
            outbox.records.append(m.Send(con.id, b"<f" + mark + b">"))
            self._flush(process, outbox)
        elif "there" in habit:
            # Before the echo, as a flush may repeat all that stands before it.
            self._send_there(process, task, mark, habit)
        if type(event) is m.OnMessage:
            if habit.startswith("fragments here") and con.websocket:
                # The first half goes ahead: a batch of others can come between.
                half = len(event.data) // 2
                outbox.records.append(m.Send(con.id, event.data[:half], "binary", False))
                if habit.endswith("flushed") and alone:
                    self._flush(process, outbox)
                outbox.records.append(m.Send(con.id, event.data[half:]))
            else:
                outbox.records.append(m.Send(con.id, event.data))
        if habit == "join":
            outbox.records.append(m.Join(con.id, "room"))
        elif habit == "leave":
            outbox.records.append(m.Leave(con.id, "room"))
        elif habit == "publish":
            outbox.records.append(m.Publish("room", b"<p" + mark + b">"))
        elif habit.startswith("open"):
            self._open(process, task, b"<" + mark + b">", habit)
        elif habit == "close":
            if outbox.session == process.link.session:
                process.deaf.add(con.id)
            con.was_closed = True
            outbox.records.append(m.Close(con.id))

    def _flush(self, process: Process, outbox: link.Outbox) -> None:
        process.link.flush(outbox)
        process.put()

    def _send_there(self, process: Process, task: Task, mark: bytes, habit: str) -> None:
        """To another connection, whoever serves it."""
        heard = [c for c in self.page.cons.values() if c.seen and not c.opened and not c.closes]
        con = pick(heard, task.event.seq)
        outbox = task.outbox
        if con is None:
            return
        if habit == "send there":
            outbox.records.append(m.Send(con.id, b"<s" + mark + b">"))
        elif con.websocket:
            outbox.records.append(m.Send(con.id, b"<f", "binary", False))
            if habit.endswith("flushed") and process.concurrency == 1:
                self._flush(process, outbox)
            outbox.records.append(m.Send(con.id, mark + b">"))

    def _count(self, process: Process, task: Task, sent: Sent) -> None:
        con = sent.con
        state = process.states.get(con.id, b"")
        seen = int(state or b"0")
        if not con.was_closed and not con.spoiled and task.outbox.session == process.link.session:
            assert seen == con.base + sent.place, (
                f"{con.id}: event {sent.place} of base {con.base} was given the state {seen}"
            )
        task.state = b"%d" % (seen + 1)

    def _open(self, process: Process, task: Task, greeting: bytes, habit: str) -> None:
        try:
            new = process.link.new_id()
        except LookupError:
            return
        options: dict[str, Any] = {"during": task.event.con}
        protocol = "websocket" if habit == "open websocket" else "raw"
        records = task.outbox.records
        if habit == "open named":
            options["name"] = "feed"
            records.append(m.Open(new, "there:1", options=options))
        else:
            records.append(m.Open(new, "there:1", protocol, options=options))
            records.append(m.Send(new, greeting))
            records.append(m.State(new, b"1000"))
            process.states[new] = b"1000"

    def open_outside(self, a: int, b: int) -> None:
        """A timer of a worker opens a connection: it ends with its session."""
        process = self._pick_process(a, lambda p: p.link.state is LinkState.READY)
        if process is not None:
            new = process.link.new_id()
            process.link.command(m.Open(new, "there:1"))
            process.states[new] = b""

    # --- workers leave ---

    def drain(self, a: int, b: int) -> None:
        """The supervisor wants a worker to leave."""
        worker = pick([w for w in self.router.workers.values() if w.state is LinkState.READY], a)
        if worker is not None:
            self.router.drain(worker, 30.0)

    def lose(self, a: int, b: int) -> None:
        """The link of a worker is lost, or the worker is."""
        self._bury()
        process = self._pick_process(a, lambda process: True)
        if process is None:
            return
        if b & 1:
            process.put()
        mode = (b >> 1) % 5
        dead = mode < 2
        worker = self.router.workers.get(process.identity)
        session = self.page.session_of(process.identity)
        if mode != 4 and worker is not None:
            # In mode 4 the gateway hears of it by the hello on the new link.
            if session is not None:
                self.page.end(session, died=dead)
            self.router.end_session(worker, self.now, died=dead)
        if dead:
            self._gone(process)
            if mode == 1:
                self.late.pop()
        elif mode == 2 and worker is not None:
            pass  # The link stays up: `who` comes back on it as soon as the worker says something.
        else:
            old = process.identity
            self.late.append((old, process.connect(self._new_identity())))

    def _bury(self) -> None:
        """Sessions whose other end is gone; a late hello can begin one, too."""
        identities = {process.identity for process in self.processes}
        for worker in list(self.router.workers.values()):
            if worker.identity not in identities:
                session = self.page.session_of(worker.identity)
                if session is not None:
                    self.page.end(session)
                self.router.end_session(worker, self.now)

    def garbage(self, a: int, b: int) -> None:
        """A worker sends what no worker should."""
        process = self._pick_process(a, lambda process: True)
        if process is None:
            return
        session = self.page.session_of(process.identity)
        kind = b % 10
        if kind == 0:
            process.wire.append((b"\xc1", b"\x00", b"\x90", b"no batch")[b // 8 % 4])
            self._shut_out(process)
        elif session is not None:
            others = [c for c in self.page.cons if c not in session.known]
            other = pick(others, b // 8) or 0
            elsewhere = pick([c for c in self.page.cons.values() if c.outstanding], b // 8)
            if elsewhere is None or elsewhere.outstanding[0].session is session:
                elsewhere = Con(2**50)
            seqs = sorted(set(session.sent) - session.unacked) or [0]
            records: list[Any] = [
                [m.Ack(seqs[-1], seqs[-1]), m.Send(other, b"<never>")],
                [m.Ack(1, 2**40), m.Send(other, b"<never>")],
                [m.Ack(10**6, 10**6), m.Close(other)],
                [m.State(elsewhere.id, b"wrong"), m.Send(2**50, b"<never>"), m.Mark(other, 1)],
                [["send", "wrong"], ["no such"], m.Open(other, "there:1"), m.Splice(1, 2)],
                [m.Send(other, b"<never>"), m.Ack(seqs[-1] + 10**6, 5)],
                [m.Query(1, "ids"), m.Hello(1, "default", "other", "test", TOKEN, 1, 1)],
                [m.Bye(), m.Query(1, "ids"), m.Send(other, b"<never>")],
                [m.Bye(), *(m.Ack(seq, seq) for seq in sorted(session.unacked)[:1])],
            ][kind - 1]
            process.wire.append(m.encode([session.number, *records]))
            self._rude.add(process)

    def _shut_out(self, process: Process) -> None:
        """Its last batch ends the session; nothing of that identity is heard again."""
        while process.wire:
            data = process.wire.popleft()
            session = self.page.session_of(process.identity)
            if not process.wire and session is not None:
                self.page.end(session)
            self._receive(process.identity, data)
        assert process.identity not in self.router.workers
        self._gone(process)

    def lie(self, a: int, b: int) -> None:
        """A worker acks what it has not handled, in an order of its own."""
        if not self.config.lies:
            return
        process = self._pick_process(a, lambda process: process.queue)
        session = process and self.page.session_of(process.identity)
        if process is None or session is None or process.link.session != session.number:
            return
        task = process.queue[-1 - b % len(process.queue)]
        for each in process.queue:
            if each.event.con == task.event.con:
                session.sent[each.event.seq].con.spoiled = True
        process.queue.remove(task)
        process.running.append(task)
        process.finish(task)

    # --- what must be true at any time ---

    def check(self) -> None:
        """The accounts are right, and nobody has received what was not for him."""
        flow, total = self.router.flow, 0
        in_flight: Counter[Any] = Counter()
        for worker in self.router.workers.values():
            size = 0
            for entry in worker.in_flight.values():
                size += entry.size
                if not entry.owner.gone:
                    in_flight[entry.owner] += 1
                    assert entry.owner.holder is worker
                else:
                    # Its on_close was acked before.
                    assert self.page.cons[entry.owner.id].spoiled, "in flight, and yet forgotten"
            assert worker.in_flight_bytes == size
        for route in self.router.routes.values():
            assert route.in_flight == in_flight.pop(route, 0)
            assert not route.gone
            assert route.held >= 0 <= route.output_counted
            total += route.held + route.output_counted
        assert not in_flight
        assert flow.total == total, f"{flow.total} bytes in all, not {total}"
        standing = {s.identity for s in self.page.sessions.values() if s.alive}
        with_session = {
            w.identity for w in self.router.workers.values() if w.state is not LinkState.NEW
        }
        assert standing == with_session
        for peer in self.peers:
            con = peer.page
            con.check_received()
            if peer.socket.con.close_cause == "handler" and not con.was_closed:
                assert con.fragment, f"{con.id} was closed, and no handler has asked for it"
                con.was_closed = True
        self.peers = [peer for peer in self.peers if not peer.gone]

    def _check_nobody_starves(self) -> None:
        """After a turn no connection waits while one who could serve it has nothing to do."""
        idle = [w for pool in self.router.pools.values() for w in pool.workers if not w.in_flight]
        for route in self.router.routes.values():
            if route.parked and not route.in_flight:
                assert route.queue is not None, f"{route.id} waits for nobody"
                holder = route.holder
                bound = self.config.sticky and holder is not None
                bound = bound and holder in route.pool.workers
                assert holder not in idle if bound else not idle, f"{route.id} waits for nothing"

    # --- the end: everything flows ---

    def finish_all(self) -> None:
        """Late batches, and a good worker more: every promise is kept in the end."""
        for process in list(self.processes):
            if self.config.survivors and process not in self._rude:
                continue
            session = self.page.session_of(process.identity)
            worker = self.router.workers.get(process.identity)
            if worker is not None:
                if session is not None:
                    self.page.end(session)
                self.router.end_session(worker, self.now)
            self._gone(process)
        self._arrive(1, 100)
        everyone = {peer.page: peer for peer in self.peers}
        quiet = 0
        while quiet < 60:
            before = self._progress()
            self._let_flow()
            everyone.update((peer.page, peer) for peer in self.peers)
            quiet = 0 if self._progress() != before else quiet + 1
            if not self.router.routes and not self.peers and not self.dialling:
                break
            if quiet > 10:
                self.now += 1
                self.pass_time(0, 0)
        self._check_end(everyone)

    def _progress(self) -> tuple[int, ...]:
        received = sum(len(peer.page.received) for peer in self.peers)
        return self.page.counts["acks"], received, len(self.peers), len(self.router.routes)

    def _let_flow(self) -> None:
        self.now += 0.01
        while self.dialling:
            self.dialled(0, 1)
        for peer in self.peers:
            while peer.socket.readable:
                peer.socket.read(65536, self.now)
            peer.socket.flush(65536, self.now)
            peer.receive(self.now)
            if peer.can_say and self._is_done(peer):
                peer.leave(self.now)
        self.turn()
        for process in list(self.processes):
            while process.inbox:
                process.receive()
            for task in list(process.running):
                process.finish(task)
            for _ in range(20):
                if process.startable():
                    task = process.startable()[0]
                    process.start(task)
                    self._handle(process, task, -1)
                    process.finish(task)
            self._put(process)
        for identity, wire in [*self.late, *((p.identity, p.wire) for p in self.processes)]:
            while wire:
                self._receive(identity, wire.popleft())
        self._bury()
        self.check()

    def _is_done(self, peer: Peer) -> bool:
        """Whether a peer may say goodbye: a WebSocket that does so hears no more."""
        con = peer.page
        if not con.websocket or con.spoiled:
            return True
        return len(con.received) >= len(con.expected) and con.offset == len(con.said)

    def _check_end(self, everyone: dict[Con, Peer]) -> None:
        router = self.router
        assert not router.routes, f"left over: {[dump(r) for r in router.routes.values()]}"
        assert not router.flow.total
        assert not any(worker.in_flight for worker in router.workers.values())
        assert not router.flow.paused
        for con in self.page.cons.values():
            assert not con.outstanding
            told = bool(con.seen) or con.opened
            assert con.closes == told, f"{con.id} was closed {con.closes} times"
            peer = everyone.get(con)
            if peer is None or con.spoiled or con.was_closed:
                continue
            # What a WebSocket says or is sent after it has said goodbye may be lost.
            if peer.socket.con.close_cause == "eof" or peer.left_in_peace:
                echoed = MARK.sub(b"", bytes(con.received))
                assert echoed == con.said, f"{con.id} was not echoed all that it had said"


def dump(route: Route) -> str:
    """What there is to know of a connection that did not end."""
    return str({name: getattr(route, name) for name in Route.__slots__})


def pick(choices: list[T], number: int) -> T | None:
    """One of them, or None if there are none."""
    return choices[number % len(choices)] if choices else None


# --- long runs ---


def random_config(choose: random.Random) -> Config:
    """One of the ways to run."""
    return Config(
        sticky=choose.random() < 0.3,
        concurrency=choose.choice((1, 1, 3)),
        window=choose.choice((1, 2, 4, 8, 64)),
        window_bytes=choose.choice((600, 4096, 1 << 20)),
        high_water_mark=choose.choice((1200, 3000, 100_000)),
        output_limit=choose.choice((2000, 6000, 1_000_000)),
        memory_limit=choose.choice((15_000, 1_000_000)),
        habits=tuple(choose.choices(HABITS, k=choose.choice((0, 2, 2, 6)))),
        lies=choose.random() < 0.2,
        survivors=choose.random() < 0.5,
    )


def random_steps(choose: random.Random, count: int) -> Iterator[Step]:
    """A history. Each has its own taste: some things happen often in it, some never."""
    weights = [
        weight * (choose.choice((0, 0.3, 1)) if name in HARM else choose.uniform(0.3, 2))
        for name, weight in STEPS.items()
    ]
    yield "arrive", 0, 0
    for name in choose.choices(list(STEPS), weights, k=count - 1):
        yield name, choose.randrange(64), choose.randrange(4096)


def run(config: Config, steps: list[Step]) -> World:
    """Run one history to its end. Raises AssertionError where a promise is broken."""
    world = World(config)
    try:
        for step in steps:
            world.step(*step)
        world.finish_all()
    finally:
        world.close()
    return world


def shorten(config: Config, steps: list[Step]) -> list[Step]:
    """Leave out what the failure does not need."""
    wanted = failure(config, steps)
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if failure(config, shorter) == wanted:
                steps = shorter
            else:
                start += size
        size //= 2
    return steps


def failure(config: Config, steps: list[Step]) -> tuple[str, int] | None:
    """Where a history fails."""
    try:
        run(config, steps)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return frame.filename, frame.lineno or 0
    return None


def main() -> int:
    """Run until so many steps are done, or a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--length", type=int, default=500, help="steps of one history")
    given = parser.parse_args()
    logging.disable()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    counts: Counter[str] = Counter()
    began = time.monotonic()
    while counts["steps"] < given.steps:
        choose = random.Random(f"{seed}.{counts['histories']}")
        config = random_config(choose)
        steps = list(random_steps(choose, given.length))
        try:
            world = run(config, steps)
        except Exception:
            print(f"seed {seed}, history {counts['histories']}: {config}")
            steps = shorten(config, steps)
            for step in steps:
                print(f"    {step},")
            try:
                run(config, steps)
            except Exception:
                traceback.print_exc(file=sys.stdout)
            return 1
        counts.update(world.page.counts)
        counts.update(histories=1, steps=len(steps))
    spent = time.monotonic() - began
    print(f"seed {seed}: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    print(f"{spent:.1f} s, {counts['steps'] / spent:.0f} steps/s: every promise kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
