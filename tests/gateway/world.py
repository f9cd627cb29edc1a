"""The whole of the model check, and its end: everything flows, or the gateway stops."""

from __future__ import annotations

from tests.gateway.page import MARK, Con
from tests.gateway.peers import Peer
from tests.gateway.trouble import Trouble
from tests.pairs import Process
from wsraw.gateway.connection.connection import CONNECTING, OPEN
from wsraw.gateway.delivery.entry import Entry
from wsraw.link.records import Close
from wsraw.link.states import LinkState


class World(Trouble):
    """Everything, and every step that it can take."""

    def finish_all(self) -> None:
        """Late batches, and a good worker more: every promise is kept in the end."""
        for process in list(self.processes):
            if self.config.survivors and process not in self._rude:
                continue
            worker = self.sessions.workers.get(process.identity)
            if worker is not None and not process.number:
                self._end(worker, died=True)
            self._gone(process)
        self._arrive(1, 100)
        everyone = {peer.page: peer for peer in self.peers}
        quiet = 0
        while quiet < 60:
            before = self._progress()
            self._let_flow()
            if self.config.stops:
                self._stop()
            everyone.update((peer.page, peer) for peer in self.peers)
            quiet = 0 if self._progress() != before else quiet + 1
            if not self.registry.entries and not self.peers and not self.dialling:
                break
            if quiet > 10:
                self.now += 1
                self.pass_time(0, 0)
        if self.config.stops:
            for _ in range(10):
                self._stop()
                self._let_flow()
            sessions = [
                w for w in self.sessions.workers.values() if w.session.state is not LinkState.NEW
            ]
            assert not sessions, "stopped, and a worker has not left"
        self._check_end(everyone)

    def _progress(self) -> tuple[int, ...]:
        received = sum(len(peer.page.received) for peer in self.peers)
        return self.page.counts["acks"], received, len(self.peers), len(self.registry.entries)

    def _let_flow(self) -> None:
        self.now += 0.01
        for process in list(self.exits):
            self._report_exit(process, heard_out=True)
        self._read_letters()
        while any(entry.dial_at <= self.now for entry in self.dialling):
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
            if not self.registry.stopping:
                self._end_reconnects(process)
            self._put(process)
        for identity, wire in [*self.late, *((p.identity, p.wire) for p in self.processes)]:
            while wire:
                self._receive(identity, wire.popleft())
        self._bury()
        self.check()

    def _end_reconnects(self, process: Process) -> None:
        """Only a handler, or a stop, ends those that come back by themselves."""
        if process.link.state is LinkState.READY:
            for entry in self.registry.entries.values():
                if entry.reopening is not None and entry.con.state in (CONNECTING, OPEN):
                    process.link.command(Close(entry.id))

    def _stop(self) -> None:
        """As stop.py does it, phase by phase."""
        registry = self.registry
        sessions = self.sessions
        if not registry.stopping:
            registry.stop()
            self.page.counts["stops"] += 1
        elif not self._has_said_goodbye:
            if sessions.is_quiet():
                self._has_said_goodbye = True
                for con in self.page.cons.values():
                    assert not con.outstanding, "stopped before it was handled"
                for peer in self.peers:
                    if peer.socket.con.entry is None:
                        peer.reset(self.now)
                registry.close_all(self.now)
        elif not registry.is_waited_for():
            for worker in list(sessions.workers.values()):
                if worker.session.state is LinkState.READY:
                    sessions.drain(worker, 30.0)

    def _is_done(self, peer: Peer) -> bool:
        """Whether a peer may say goodbye: a WebSocket that does so hears no more."""
        con = peer.page
        if not con.websocket or con.spoiled:
            return True
        return len(con.received) >= len(con.expected) and con.offset == len(con.said)

    def _check_end(self, everyone: dict[Con, Peer]) -> None:
        registry = self.registry
        sessions = self.sessions
        assert not registry.entries, f"left over: {[dump(r) for r in registry.entries.values()]}"
        assert not registry.flow.accounted
        assert not any(worker.window.in_flight for worker in sessions.workers.values())
        assert not registry.flow.paused
        for con in self.page.cons.values():
            assert not con.outstanding
            if con.before:
                # Nobody who is left has heard of it.
                assert con.closes <= 1
                continue
            told = bool(con.seen) or con.opened
            told = told and not con.buried
            assert con.closes == told, f"{con.id} was closed {con.closes} times"
            peer = everyone.get(con)
            if peer is None or con.spoiled or con.was_closed or con.bereaved:
                continue
            # What a WebSocket says or is sent after it has said goodbye may be lost.
            if peer.socket.con.ending.cause == "eof" or peer.left_in_peace:
                echoed = MARK.sub(b"", bytes(con.received))
                assert echoed == con.said, f"{con.id} was not echoed all that it had said"


def dump(entry: Entry) -> str:
    """What there is to know of a connection that did not end."""
    return str({name: getattr(entry, name) for name in Entry.__slots__})
