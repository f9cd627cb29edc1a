"""Faults in the model check: workers die, lie and lose their links; gateways die."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.gateway.model.handlers import pick
from tests.gateway.model.processes import Process
from tests.gateway.model.reference import Con, Session
from tests.gateway.model.system import TOKEN, System
from tests.gateway.model.workers import Workers
from wsraw.gateway.connection.connection import CLOSING, CONNECTING, OPEN
from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.pools import canary
from wsraw.link import records as rec
from wsraw.link.records import (
    PROTOCOL_VERSION,
    Ack,
    Bye,
    Close,
    Hello,
    Kill,
    Left,
    Mark,
    OnClose,
    Open,
    Part,
    Query,
    Ready,
    Send,
    Splice,
    State,
    encode,
    gateway_decoder,
)
from wsraw.link.states import LinkState


class Faults:
    """All faults that must not break a guarantee."""

    _decoder = gateway_decoder()

    def __init__(self, system: System, workers: Workers) -> None:
        self.system = system
        self.workers = workers

    # --- workers leave ---

    def drain(self, a: int, b: int) -> None:
        """Tell a worker to leave, as the supervisor does."""
        worker = pick(
            [
                w
                for w in self.system.sessions.workers.values()
                if w.session.state is LinkState.READY
            ],
            a,
        )
        if worker is not None:
            self.system.sessions.drain(worker, 30.0)

    def lose(self, a: int, b: int) -> None:
        """Lose the link of a worker, or the worker itself."""
        self.end_lost_sessions()
        process = self.workers.pick_process(a, lambda p: p.running) if b & 32 else None
        process = process or self.workers.pick_process(a, lambda process: True)
        if process is None:
            return
        if b & 1:
            process.put()
        mode = (b >> 1) % 5
        dead = mode < 2
        worker = self.system.sessions.workers.get(process.identity)
        if mode != 4 and worker is not None and not (dead and process.number):
            # In mode 4 the gateway hears of the loss by the hello on the new link. The supervisor
            # reports the death of a spawned worker.
            unsent = self._unsent(process, b >> 6) if mode != 2 else []
            self.end_session(worker, unsent, by_link=mode != 2)
        if dead:
            self.workers.remove(process)
            if mode == 1:
                self.system.late.pop()
        elif mode == 2 and worker is not None:
            pass  # The link stays up: `who` comes on it as soon as the worker sends something.
        else:
            old = process.identity
            self.system.late.append((old, process.connect(self.workers.new_identity())))
        if not dead and b & 32:
            # The worker reconnects at once, while its handlers still run.
            process.wire.append(b"")
            for _ in range(2):
                while process.wire:
                    self.system.receive(process.identity, process.wire.popleft())
                self.system.turn()
                while process.inbox:
                    process.receive()
                process.put()

    def _unsent(self, process: Process, number: int) -> list[bytes]:
        """Batches that have not left the gateway, as the worker's socket had no room for them.
        For workers on other machines libzmq does not report them.
        """
        return [] if self.system.is_remote else list(process.inbox)[number % 2 :]

    def end_session(
        self, worker: Worker, unsent: Sequence[bytes] = (), *, by_link: bool = True
    ) -> None:
        """End a session at the gateway; `by_link` says that its link has ended."""
        session = self.system.reference.session_of(worker.session.identity)
        held = {sent.con for sent in session.sent.values()} if session is not None else set()
        standing = [
            entry.con
            for con in held
            if (entry := self.system.registry.entries.get(con.id)) is not None
            and entry.con.state in (CONNECTING, OPEN)
        ]
        if session is not None:
            self.system.reference.end(session, died=True, unsent=unsent)
        worker.session.take_back(unsent)
        if by_link:
            self.system.sessions.link_lost(worker, self.system.now)
        else:
            self.system.sessions.end(worker, self.system.now, died=True)
        for con in standing:
            if self.system.reference.cons[con.id].bereaved:
                assert con.ending.cause == "worker-died" or con.state is CLOSING, con.ending.cause
        self.system.see_poison()

    def end_lost_sessions(self) -> None:
        """End the sessions of links that are lost; a late hello can begin one, too."""
        identities = {process.identity for process in (*self.system.processes, *self.system.exits)}
        for worker in list(self.system.sessions.workers.values()):
            if worker.session.identity not in identities:
                self.end_session(worker)

    # --- the supervisor ---

    def canary(self, a: int, b: int) -> None:
        """Begin or extend a canary with the workers that come next, or end it."""
        if not self.system.config.spawned:
            return
        known = self.system.registry.pool().canary
        if known is not None and b % 3 == 0:
            self.end_canary()
            return
        next_one = self.system.names + 1
        numbers = sorted({*(known.numbers if known is not None else ()), next_one, next_one + a})
        self.system.reference.on_trial = set(numbers)
        # The supervisor begins a canary with a share of 0. When all its workers are ready, the
        # canary gets its share.
        share = known.share if known is not None and known.share else b % 256 / 255
        shield = self.system.reference.repeats and b % 2 == 1
        canary.change(self.system.registry, rec.Canary("default", numbers, share, shield))

    def end_canary(self) -> None:
        """End the canary: its workers become like the others."""
        canary.change(self.system.registry, rec.Canary("default", []))
        self.system.reference.on_trial = set()
        for con in self.system.reference.cons.values():
            con.given_back = False

    def supervise(self, a: int, b: int) -> None:
        """Act as the supervisor: read reports, kill workers, and report one exit."""
        self.read_reports()
        process = pick(self.system.exits, a)
        if process is not None:
            self.report_exit(process, b, heard_out=bool(b & 1))

    def report_exit(self, process: Process, b: int, *, heard_out: bool) -> None:
        """Report an exit, after which the worker's death is certain, as links.py does."""
        self.system.exits.remove(process)
        self.system.exited.add(process.number)
        worker = self.system.sessions.exited(process.number)
        if heard_out:
            for identity, wire in self.system.late:
                while identity == process.identity and wire:
                    self.system.receive(identity, wire.popleft())
        session = self.system.reference.session_of(process.identity)
        if worker is not None and worker.session.state is not LinkState.GONE:
            self.end_session(worker, self._unsent(process, b >> 1))
        elif session is not None:
            # The worker has sent a hello in its session before it died, so its unacked events are
            # unknown.
            self.system.reference.end(session, died=True)
        assert self.system.reference.session_of(process.identity) is None, (
            "one that is dead has a session"
        )

    def read_reports(self) -> None:
        letters, self.system.sessions.to_supervisor = self.system.sessions.to_supervisor, []
        for letter in letters:
            assert self.system.config.spawned, letter
            if type(letter) is Left:
                session = self.system.unreported[letter.n].popleft()
                assert not session.alive, "it has not left"
                assert letter.acked == session.acked, "wrongly counted"
            elif type(letter) is Ready:
                assert self.system.unreported[letter.n], "ready, and without a session"
            elif type(letter) is Kill:
                self.system.reference.counts["kills"] += 1
                for process in list(self.system.processes):
                    if process.number == letter.n:
                        self.workers.remove(process)

    def impostor(self, a: int, b: int) -> None:
        """Connect with a wrong token, or with a hello that comes after the exit of its process."""
        sessions, now = self.system.sessions, self.system.now
        identity = self.workers.new_identity()
        token = f"token {max(self.system.exited)}" if b & 1 and self.system.exited else "wrong"
        # A gateway that was started after the exit does not know of it.
        is_late = sessions.tokens.gone(token) is not None
        claimed = list(self.system.reference.cons)
        hello = Hello(PROTOCOL_VERSION, "default", token, "test", token, 8, 1, claimed)
        told = len(sessions.replies)
        if b & 2:
            sessions.receive(identity, b"", now)
        # Only an impostor gets an answer and is shut out.
        rest = () if is_late else (b"", encode([1, Bye()]), encode([0, hello]))
        for batch in (encode([0, hello]), *rest):
            sessions.receive(identity, batch, now)
            assert identity not in sessions.workers
        assert len(sessions.replies) == told + (not is_late) + bool(b & 2)

    # --- the gateway dies ---

    def gateway_dies(self, a: int, b: int) -> None:
        """Lose all sockets and everything on its way; the next gateway begins with nothing.

        The supervisor tells the next gateway of its workers, and links reconnect by themselves.
        """
        self.system.reference.gateway_died()
        self.system.new_gateway()
        self.system.has_closed_all = False
        self.system.peers, self.system.dialling, self.system.late = [], [], []
        self.system.watched.clear()
        self.system.unreported.clear()
        self.system.exited.update(process.number for process in self.system.exits)
        self.system.exits.clear()
        for process in self.system.processes:
            if process.number:
                self.system.sessions.tokens.add(process.token, process.number)
            process.connect(self.workers.new_identity())

    def garbage(self, a: int, b: int) -> None:
        """A worker sends invalid data."""
        process = self.workers.pick_process(a, lambda process: True)
        if process is None:
            return
        session = self.system.reference.session_of(process.identity)
        kinds = self._wrong_records(session, b // 16) if session is not None else []
        kind = b % 16
        if kind == 0:
            while process.wire:
                self.system.receive(process.identity, process.wire.popleft())
            process.wire.append(self._no_batch(process, b // 16))
            self._shut_out(process)
        elif session is not None:
            records = kinds[kind % len(kinds)]
            process.wire.append(encode([session.number, *records]))
        self.system.rude.add(process)

    def _no_batch(self, process: Process, number: int) -> bytes:
        """Data that ends the worker's session."""
        kinds = [b"\xc1", b"\x00", b"\x90", b"no batch"]
        session = self.system.reference.session_of(process.identity)
        if session is not None:
            never = Send(min(self.system.reference.cons, default=0), b"<never>")
            acked = max(set(session.sent) - session.unacked, default=0)
            kinds += [encode([session.number, never, Part(seq)]) for seq in (0, acked, 10**6)]
            kinds += [encode([session.number, Bye(), Part(seq)]) for seq in session.unacked]
        return kinds[number % len(kinds)]

    def repeat(self, a: int, b: int) -> None:
        """A worker sends a batch of an earlier session again."""
        process = self.workers.pick_process(a, lambda process: process.sent)
        if process is None or not process.link.session:
            return
        own = (0, process.link.session)
        again = pick([said for said in process.sent if self._session_of(said) not in own], b)
        if again is not None:
            process.wire.append(again)
            self.system.rude.add(process)

    def _session_of(self, batch: bytes) -> int:
        return int(self._decoder.decode(batch)[0])

    def _wrong_records(self, session: Session, number: int) -> list[list[Any]]:
        cons = self.system.reference.cons
        other = pick([con for con in cons if con not in session.known], number) or 0
        elsewhere = pick([con for con in cons.values() if con.outstanding], number)
        if elsewhere is None or elsewhere.outstanding[0].session is session:
            elsewhere = Con(2**50)
        opened = pick([con.id for con in cons.values() if con.opener is session], number) or other
        acked = max(set(session.sent) - session.unacked, default=0)
        unacked = min(session.unacked, default=0)
        never = Send(other, b"<never>")
        return [
            [Ack(acked, acked), never],
            [Ack(1, 2**40), never],
            [Ack(10**6, 10**6), Close(other)],
            [Ack(unacked, unacked), Ack(unacked, unacked), never],
            [Ack(acked + 10**6, 5), never],
            [State(elsewhere.id, b"wrong"), Send(2**50, b"<never>"), Mark(other, 1)],
            [["send", "wrong"], ["no such"], Splice(1, 2)],
            [Part(unacked), Splice(1, 2)],
            [Open(opened, "there:1"), Open(other, "there:1")],
            [Query(1, "ids"), Hello(1, "default", "other", "test", TOKEN, 1, 1)],
            [Bye(), Query(1, "ids"), never],
            [Bye(), Ack(unacked, unacked)] if unacked else [Bye()],
        ]

    def _shut_out(self, process: Process) -> None:
        """The last batch of a process ends its session; nothing more comes from that identity."""
        while process.wire:
            data = process.wire.popleft()
            session = self.system.reference.session_of(process.identity)
            if not process.wire and session is not None:
                self.system.reference.end(session, died=True)
            self.system.receive(process.identity, data)
        assert process.identity not in self.system.sessions.workers
        self.workers.remove(process)

    def lie(self, a: int, b: int) -> None:
        """A worker acks events that it has not handled, in any order."""
        if not self.system.config.lies:
            return
        process = self.workers.pick_process(a, lambda process: process.queue)
        session = process and self.system.reference.session_of(process.identity)
        if process is None or session is None or process.link.session != session.number:
            return
        ends = [task for task in process.queue if type(task.event) is OnClose]
        task = pick((b & 1 and ends) or list(process.queue), b // 2)
        assert task is not None
        for each in process.queue:
            if each.event.con == task.event.con:
                session.sent[each.event.seq].con.spoiled = True
        process.queue.remove(task)
        process.running.append(task)
        process.finish(task)
