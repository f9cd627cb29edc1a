"""Upgrades in the model check: the core is frozen, and thawed in another gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gateway.model.peers import Socket
from tests.gateway.model.system import System
from wsraw.config.addresses import Listen
from wsraw.gateway.connection.connection import CONNECTING, Connection
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.gateway import Parts
from wsraw.gateway.frozen.records import EndpointState, LinkState, Shared

SUMS = ("total", "kept", "shared", "weighed", "crowded", "full")


class Ends:
    """Sockets without a network, in place of the gateway's."""

    def __init__(self, system: System) -> None:
        self.overdrawn: dict[int, None] = {}
        self._system = system

    def connections(self) -> list[Connection]:
        sockets = [peer.socket for peer in self._system.peers]
        return [socket.con for socket in sockets if not socket.closed]

    def why_unmovable(self, con: Connection) -> str:
        return ""

    def freeze_endpoint(self, con: Connection, clock: Clock) -> tuple[EndpointState, Any] | None:
        if con.endpoint is None:
            return None
        return EndpointState(False, False, 0.0, 0, False, False, False, False), con.endpoint

    def is_stranger(self, worker: Worker) -> bool:
        return False

    def dying(self, worker: Worker) -> str | None:
        return None

    def freeze_link(self, worker: Worker) -> tuple[LinkState, Any] | None:
        return None

    def counts(self) -> tuple[int, int]:
        return 0, 0

    def listens(self) -> Iterable[Listen]:
        return ()

    def thaw_endpoint(self, con: Connection, state: EndpointState, sock: object) -> object:
        assert isinstance(sock, Socket)
        sock.con, sock.registry = con, self._system.registry
        con.endpoint = sock
        return sock

    def begin(self, con: Connection, state: EndpointState, clock: Clock) -> None:
        pass

    def thaw_link(self, worker: Worker, state: LinkState, sock: object) -> None:
        raise AssertionError

    def thaw_dying(self, worker: Worker, fault: str) -> None:
        raise AssertionError

    def exited(self, worker: Worker) -> None:
        pass

    def thaw_counts(self, state: Shared) -> None:
        pass


class Upgrades:
    """The step, and the model's references to objects of the core."""

    def __init__(self, system: System) -> None:
        self.system = system

    def upgrade(self, a: int, b: int) -> None:
        """Let another gateway take over at any moment. Neither clients nor workers may notice,
        which all other steps check.
        """
        system = self.system
        if system.registry.stopping or system.registry.pool().canary is not None:
            # In these states the gateway does not begin an upgrade.
            return
        if system.is_remote:
            for session in list(system.reference.sessions.values()):
                if session.alive:
                    system.reference.end(session, died=True)
        ends = Ends(system)
        old = Parts(system.registry, system.sessions, system.deadlines, ends)
        assert not old.unmovable()
        to_dial = {entry.id for entry in old.registry.to_dial}
        records = list(old.freeze(system.now))
        before = [getattr(old.registry.flow, name) for name in SUMS]
        assert [frozen.data for frozen in old.freeze(system.now)] == [r.data for r in records]
        system.new_gateway()
        new = Parts(system.registry, system.sessions, system.deadlines, ends)
        thawing = new.thawing(system.now)
        for frozen in records:
            thawing.take(frozen.data, frozen.sockets)
        thawing.finish()
        if not system.is_remote:
            after = [getattr(new.registry.flow, name) for name in SUMS]
            # Inflated input takes more room; it is counted again within a second.
            assert after[:3] == before[:3] and after[4:] == before[4:]
        for name in ("replies", "to_supervisor", "dead_letters", "cuts", "left"):
            setattr(
                new.sessions, name, [*getattr(old.sessions, name), *getattr(new.sessions, name)]
            )
        self._find_again(to_dial)
        system.reference.counts["upgrades"] += 1

    def _find_again(self, to_dial: set[int]) -> None:
        """Update the model's lists of entries and workers."""
        system, registry = self.system, self.system.registry
        for peer in system.peers:
            con = peer.socket.con
            if con.phase.opening is not None and not peer.socket.closed:
                # The server loses the connection that was being opened, and gets another one.
                peer.socket.closed = True
                peer.socket.outgoing.clear()
                system.dialling.append(registry.entries[con.id])
        known: list[Entry] = []
        for entry in system.dialling:
            again = registry.entries.get(entry.id)
            if again is not None and again.con.state is CONNECTING and again not in known:
                known.append(again)
        system.dialling = known
        registry.to_dial = [entry for entry in registry.to_dial if entry.id in to_dial]
        waited = {entry.id for entry in system._waited}
        system._waited = {entry for entry in registry.entries.values() if entry.id in waited}
        system.watched.clear()
        for worker in system.sessions.workers.values():
            system._watch(worker)
