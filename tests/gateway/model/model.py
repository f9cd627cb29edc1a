"""The model check as a whole, and the end of a history: everything is handled, or the gateway
stops.
"""

from __future__ import annotations

from tests.gateway.model.faults import Faults
from tests.gateway.model.peers import Peer
from tests.gateway.model.processes import Process
from tests.gateway.model.reference import MARK, Con
from tests.gateway.model.system import Config, System
from tests.gateway.model.upgrades import Upgrades
from tests.gateway.model.workers import Workers
from wsraw.gateway.connection.connection import CONNECTING, OPEN
from wsraw.gateway.delivery.entry import Entry
from wsraw.link.records import Close
from wsraw.link.states import LinkState


class Model:
    """The system, workers and faults, with all steps that they can take."""

    def __init__(self, config: Config) -> None:
        self.system = System(config)
        self.workers = Workers(self.system)
        self.faults = Faults(self.system, self.workers)
        self.upgrades = Upgrades(self.system)

    def step(self, name: str, a: int, b: int) -> None:
        """Take one step if it is possible, and check everything."""
        self.system.now += 0.0002
        for part in (self.system, self.workers, self.faults, self.upgrades):
            if hasattr(part, name):
                getattr(part, name)(a, b)
                break
        else:
            raise LookupError(name)
        self.system.check()

    def finish_all(self) -> None:
        """Deliver late batches and add a good worker: all guarantees must hold in the end."""
        for process in list(self.system.processes):
            if self.system.config.survivors and process not in self.system.rude:
                continue
            worker = self.system.sessions.workers.get(process.identity)
            if worker is not None and not process.number:
                self.faults.end_session(worker)
            self.workers.remove(process)
        self.faults.end_canary()
        self.workers.connect(1, 100)
        everyone = {peer.reference: peer for peer in self.system.peers}
        quiet = 0
        while quiet < 60:
            before = self._progress()
            self._let_flow()
            if self.system.config.stops:
                self._stop()
            everyone.update((peer.reference, peer) for peer in self.system.peers)
            quiet = 0 if self._progress() != before else quiet + 1
            if (
                not self.system.registry.entries
                and not self.system.peers
                and not self.system.dialling
            ):
                break
            if quiet > 10:
                self.system.now += 1
                self.system.pass_time(0, 0)
        if self.system.config.stops:
            for _ in range(10):
                self._stop()
                self._let_flow()
            sessions = [
                w
                for w in self.system.sessions.workers.values()
                if w.session.state is not LinkState.NEW
            ]
            assert not sessions, "stopped, and a worker has not left"
        self._check_end(everyone)

    def _progress(self) -> tuple[int, ...]:
        received = sum(len(peer.reference.received) for peer in self.system.peers)
        return (
            self.system.reference.counts["acks"],
            received,
            len(self.system.peers),
            len(self.system.registry.entries),
        )

    def _let_flow(self) -> None:
        self.system.now += 0.01
        for process in list(self.system.exits):
            self.faults.report_exit(process, 0, heard_out=True)
        self.faults.read_reports()
        while any(entry.dial_at <= self.system.now for entry in self.system.dialling):
            self.system.dialled(0, 1)
        for peer in self.system.peers:
            while peer.socket.readable:
                peer.socket.read(65536, self.system.now)
            peer.socket.flush(65536, self.system.now)
            peer.receive(self.system.now)
            if peer.can_say and self._is_done(peer):
                peer.leave(self.system.now)
        self.system.turn()
        for process in list(self.system.processes):
            while process.inbox:
                process.receive()
            for task in list(process.running):
                process.finish(task)
            for _ in range(20):
                if process.startable():
                    task = process.startable()[0]
                    process.start(task)
                    self.workers.handle(process, task, -1)
                    process.finish(task)
            if not self.system.registry.stopping:
                self._end_reconnects(process)
            self.workers.send(process)
        for identity, wire in [
            *self.system.late,
            *((p.identity, p.wire) for p in self.system.processes),
        ]:
            while wire:
                self.system.receive(identity, wire.popleft())
        self.faults.end_lost_sessions()
        self.system.check()

    def _end_reconnects(self, process: Process) -> None:
        """Close connections that reconnect by themselves, which only a handler or a stop can
        end.
        """
        if process.link.state is LinkState.READY:
            for entry in self.system.registry.entries.values():
                if entry.reopening is not None and entry.con.state in (CONNECTING, OPEN):
                    process.link.command(Close(entry.id))

    def _stop(self) -> None:
        """Stop the gateway in the phases of stop.py."""
        registry = self.system.registry
        sessions = self.system.sessions
        if not registry.stopping:
            registry.stop()
            self.system.reference.counts["stops"] += 1
        elif not self.system.has_closed_all:
            if sessions.is_quiet():
                self.system.has_closed_all = True
                for con in self.system.reference.cons.values():
                    assert not con.outstanding, "stopped before it was handled"
                for peer in self.system.peers:
                    if peer.socket.con.entry is None:
                        peer.reset(self.system.now)
                registry.close_all(self.system.now)
        elif not registry.is_waited_for():
            for worker in list(sessions.workers.values()):
                if worker.session.state is LinkState.READY:
                    sessions.drain(worker, 30.0)

    def _is_done(self, peer: Peer) -> bool:
        """Whether a peer may say goodbye: after that a WebSocket receives nothing."""
        con = peer.reference
        if not con.websocket or con.spoiled:
            return True
        return len(con.received) >= len(con.expected) and con.offset == len(con.said)

    def _check_end(self, everyone: dict[Con, Peer]) -> None:
        registry = self.system.registry
        sessions = self.system.sessions
        assert not registry.entries, f"left over: {[dump(r) for r in registry.entries.values()]}"
        assert not registry.flow.accounted
        assert not any(worker.window.in_flight for worker in sessions.workers.values())
        assert not registry.flow.paused
        for con in self.system.reference.cons.values():
            assert not con.outstanding
            if con.before:
                # No worker that is left has heard of the connection.
                assert con.closes <= 1
                continue
            told = bool(con.seen) or con.opened
            told = told and not con.buried
            assert con.closes == told, f"{con.id} was closed {con.closes} times"
            peer = everyone.get(con)
            if peer is None or con.spoiled or con.was_closed or con.bereaved:
                continue
            # After a WebSocket's goodbye, data in both directions may be lost.
            if peer.socket.con.ending.cause == "eof" or peer.left_in_peace:
                echoed = MARK.sub(b"", bytes(con.received))
                assert echoed == con.said, f"{con.id} was not echoed all that it had said"


def dump(entry: Entry) -> str:
    """The state of a connection that did not end, for the report."""
    return str({name: getattr(entry, name) for name in Entry.__slots__})
