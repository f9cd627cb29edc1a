"""What goes wrong in the model check: workers die, lie and get lost; gateways die."""

from __future__ import annotations

from typing import Any

from tests.gateway.crew import Crew
from tests.gateway.ground import TOKEN
from tests.gateway.habits import pick
from tests.gateway.page import Con, Session
from tests.pairs import Process
from wsraw.gateway.connection.connection import CLOSING, CONNECTING, OPEN
from wsraw.gateway.delivery.entry import Worker
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
    Query,
    Ready,
    Send,
    Splice,
    State,
    encode,
    gateway_decoder,
)
from wsraw.link.states import LinkState


class Trouble(Crew):
    """Everything that must not break a promise."""

    _has_said_goodbye = False
    """Stopping, the gateway has closed what stood."""

    _decoder = gateway_decoder()

    # --- workers leave ---

    def drain(self, a: int, b: int) -> None:
        """The supervisor wants a worker to leave."""
        worker = pick(
            [w for w in self.sessions.workers.values() if w.session.state is LinkState.READY], a
        )
        if worker is not None:
            self.sessions.drain(worker, 30.0)

    def lose(self, a: int, b: int) -> None:
        """The link of a worker is lost, or the worker is."""
        self._bury()
        process = self._pick_process(a, lambda p: p.running) if b & 32 else None
        process = process or self._pick_process(a, lambda process: True)
        if process is None:
            return
        if b & 1:
            process.put()
        mode = (b >> 1) % 5
        dead = mode < 2
        worker = self.sessions.workers.get(process.identity)
        if mode != 4 and worker is not None and not (dead and process.number):
            # In mode 4 the gateway hears of it by the hello on the new link; and of the death of
            # those that were spawned the supervisor tells.
            self._end(worker, died=True)
        if dead:
            self._gone(process)
            if mode == 1:
                self.late.pop()
        elif mode == 2 and worker is not None:
            pass  # The link stays up: `who` comes back on it as soon as the worker says something.
        else:
            old = process.identity
            self.late.append((old, process.connect(self._new_identity())))
        if not dead and b & 32:
            # And back at once, while its handlers still run.
            process.wire.append(b"")
            for _ in range(2):
                while process.wire:
                    self._receive(process.identity, process.wire.popleft())
                self.turn()
                while process.inbox:
                    process.receive()
                process.put()

    def _end(self, worker: Worker, died: bool) -> None:
        """The gateway takes a session for over."""
        session = self.page.session_of(worker.session.identity)
        held = {sent.con for sent in session.sent.values()} if session is not None else set()
        standing = [
            entry.con
            for con in held
            if (entry := self.registry.entries.get(con.id)) is not None
            and entry.con.state in (CONNECTING, OPEN)
        ]
        if session is not None:
            self.page.end(session, died=died)
        self.sessions.end(worker, self.now, died=died)
        for con in standing:
            if self.page.cons[con.id].bereaved:
                assert con.ending.cause == "worker-died" or con.state is CLOSING, con.ending.cause
        self._see_poison()

    def _bury(self) -> None:
        """Sessions whose other end is gone; a late hello can begin one, too."""
        identities = {process.identity for process in (*self.processes, *self.exits)}
        for worker in list(self.sessions.workers.values()):
            if worker.session.identity not in identities:
                self._end(worker, died=True)

    # --- the supervisor ---

    def supervise(self, a: int, b: int) -> None:
        """The supervisor reads its letters, kills, and reports one exit."""
        self._read_letters()
        process = pick(self.exits, a)
        if process is not None:
            self._report_exit(process, heard_out=bool(b & 1))

    def _report_exit(self, process: Process, heard_out: bool) -> None:
        """As links.py does: an exit is told, and then its death becomes certain."""
        self.exits.remove(process)
        self.exited.add(process.number)
        worker = self.sessions.numbered(process.number)
        self.sessions.tokens.remove(process.number)
        if heard_out:
            for identity, wire in self.late:
                while identity == process.identity and wire:
                    self._receive(identity, wire.popleft())
        if worker is not None and worker.session.state is not LinkState.GONE:
            self._end(worker, died=True)
        assert self.page.session_of(process.identity) is None, "one that is dead has a session"

    def _read_letters(self) -> None:
        letters, self.sessions.to_supervisor = self.sessions.to_supervisor, []
        for letter in letters:
            assert self.config.spawned, letter
            if type(letter) is Left:
                session = self._letters[letter.n].popleft()
                assert not session.alive, "it has not left"
                assert letter.acked == session.acked, "wrongly counted"
            elif type(letter) is Ready:
                assert self._letters[letter.n], "ready, and without a session"
            elif type(letter) is Kill:
                self.page.counts["kills"] += 1
                for process in list(self.processes):
                    if process.number == letter.n:
                        self._gone(process)

    def impostor(self, a: int, b: int) -> None:
        """Somebody with a wrong token, or with that of a process that is dead."""
        identity, token = self._new_identity(), "wrong"
        if b & 1 and self.exited:
            token = f"token {max(self.exited)}"
        claimed = list(self.page.cons)
        hello = Hello(PROTOCOL_VERSION, "default", token, "test", token, 8, 1, claimed)
        told = len(self.sessions.replies)
        if b & 2:
            self.sessions.receive(identity, b"", self.now)
        for said in (encode([0, hello]), b"", encode([1, Bye()]), encode([0, hello])):
            self.sessions.receive(identity, said, self.now)
            assert identity not in self.sessions.workers
        assert len(self.sessions.replies) == told + 1 + bool(b & 2), "it is told, and told once"

    # --- the gateway dies ---

    def gateway_dies(self, a: int, b: int) -> None:
        """All sockets are gone, and all that was on its way; the next gateway begins with nothing.

        Its supervisor tells it of the workers that it has, and links connect anew by themselves.
        """
        self.page.gateway_died()
        self._new_gateway()
        self._has_said_goodbye = False
        self.peers, self.dialling, self.late = [], [], []
        self._watched.clear()
        self._letters.clear()
        self.exited.update(process.number for process in self.exits)
        self.exits.clear()
        for process in self.processes:
            if process.number:
                self.sessions.tokens.add(process.token, process.number)
            process.connect(self._new_identity())

    def garbage(self, a: int, b: int) -> None:
        """A worker sends what no worker should."""
        process = self._pick_process(a, lambda process: True)
        if process is None:
            return
        session = self.page.session_of(process.identity)
        kinds = self._wrong_records(session, b // 16) if session is not None else []
        kind = b % 16
        if kind == 0:
            process.wire.append((b"\xc1", b"\x00", b"\x90", b"no batch")[b // 16 % 4])
            self._shut_out(process)
        elif session is not None:
            records = kinds[kind % len(kinds)]
            process.wire.append(encode([session.number, *records]))
        self._rude.add(process)

    def repeat(self, a: int, b: int) -> None:
        """A worker sends again what it has sent in another session."""
        process = self._pick_process(a, lambda process: process.sent)
        if process is None or not process.link.session:
            return
        own = (0, process.link.session)
        again = pick([said for said in process.sent if self._session_of(said) not in own], b)
        if again is not None:
            process.wire.append(again)
            self._rude.add(process)

    def _session_of(self, batch: bytes) -> int:
        return int(self._decoder.decode(batch)[0])

    def _wrong_records(self, session: Session, number: int) -> list[list[Any]]:
        cons = self.page.cons
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
            [Open(opened, "there:1"), Open(other, "there:1")],
            [Query(1, "ids"), Hello(1, "default", "other", "test", TOKEN, 1, 1)],
            [Bye(), Query(1, "ids"), never],
            [Bye(), Ack(unacked, unacked)] if unacked else [Bye()],
        ]

    def _shut_out(self, process: Process) -> None:
        """Its last batch ends the session; nothing of that identity is heard again."""
        while process.wire:
            data = process.wire.popleft()
            session = self.page.session_of(process.identity)
            if not process.wire and session is not None:
                self.page.end(session, died=True)
            self._receive(process.identity, data)
        assert process.identity not in self.sessions.workers
        self._gone(process)

    def lie(self, a: int, b: int) -> None:
        """A worker acks what it has not handled, in an order of its own."""
        if not self.config.lies:
            return
        process = self._pick_process(a, lambda process: process.queue)
        session = process and self.page.session_of(process.identity)
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
