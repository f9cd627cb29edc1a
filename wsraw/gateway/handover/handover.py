"""I/O. A gateway's part in an upgrade: what it gives to its successor, and what it takes from its
predecessor. The dialog is in giving.py and taking.py."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any, Final, Protocol

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.registry import RESTART, UPGRADE, Registry
from wsraw.gateway.handover.channel import LAST, OWN, RECORD, Frame, pair
from wsraw.gateway.handover.dialog import ENDED
from wsraw.gateway.handover.giving import Giving, Piece
from wsraw.gateway.handover.pump import Pumped
from wsraw.gateway.handover.pumps import Pumps
from wsraw.gateway.handover.taking import Taking
from wsraw.gateway.sessions.links import Links
from wsraw.gateway.sessions.orphans import Orphans
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.gateway.sockets.transport import PumpedTransport, TlsTransport
from wsraw.gateway.stop import GracefulStop
from wsraw.gateway.tls.marks import PUMP_BUFFER
from wsraw.link import records as rec
from wsraw.runtime.clock import monotonic
from wsraw.runtime.loop import Loop

log = logging.getLogger("wsraw.gateway")

VERSION: Final = 1
"""Version of the dialog and of the process's data. The state has a version of its own."""

OFFER: Final = b"U"
"""The byte with which the supervisor sends the two descriptors of an offer."""


class StateTaker(Protocol):
    """What takes the state of another gateway: the `Thawing` of gateway/frozen/."""

    def take(self, data: bytes, sockets: list[Any]) -> None: ...
    def finish(self) -> None: ...


class GatewayState(Protocol):
    """The state of a gateway, as the `Parts` of gateway/frozen/ make records with sockets of it."""

    def why_not(self) -> str: ...
    def unmovable(self) -> list[tuple[Connection, str]]: ...
    def freeze(self, now: float) -> Iterator[tuple[bytes, list[Any]]]: ...
    def thawing(self, now: float) -> StateTaker: ...


class Handover:
    """Both sides of a handover, as the gateway's loop uses them."""

    def __init__(
        self,
        loop: Loop,
        state: GatewayState,
        registry: Registry,
        sessions: Sessions,
        sockets: Sockets,
        links: Links,
        stopping: GracefulStop,
    ) -> None:
        self._loop = loop
        self._state = state
        self._sessions = sessions
        self._sockets = sockets
        self._links = links
        self.spawned = Orphans()
        """Processes that the supervisor has started."""
        self._stopping = stopping
        settings = registry.settings
        self.pumps = Pumps(
            registry, sockets.endpoints, settings.upgrade_linger, settings.upgrade_spread
        )
        self._timeout = settings.upgrade_timeout
        self._intake: socket.socket | None = None
        self.giving: Giving | None = None
        """The offer that is not answered yet. If it is due, `advance` must be called at the end of
        the turn."""
        self.has_left = False
        """Whether the successor has everything."""
        self.pumped: list[Pumped] = []
        """The connections that are left after the handover."""
        self._left_out: list[tuple[Connection, str]] = []
        """Connections that cannot move, each with the reason."""
        self._pairs: dict[Endpoint, tuple[socket.socket, socket.socket]] = {}

    # --- the old gateway ---

    def listen(self, intake: socket.socket) -> None:
        """Listen for offers on a socket of the supervisor."""
        self._intake = intake
        intake.setblocking(False)
        self._loop.watch(intake, self._hear, read=True)

    def _hear(self, readable: bool, writable: bool) -> None:
        assert self._intake is not None
        try:
            data, numbers, _, _ = socket.recv_fds(self._intake, 16, 2)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, numbers = b"", []
        if not data:
            self._loop.unwatch(self._intake)
        ends = [socket.socket(fileno=number) for number in numbers]
        for end in ends:
            end.setblocking(False)
            end.set_inheritable(False)
        if data != OFFER or len(ends) != 2:
            for end in ends:
                end.close()
            return
        if self.giving is not None:
            self.giving.abandon("")
        self.giving = Giving(self._loop, ends[0], ends[1], self._timeout)
        if self._stopping.phases:
            self.stop()

    def stop(self) -> None:
        """The run is stopping: refuse an offer that is not answered yet."""
        if self.giving is not None:
            why = "the run is stopping"
            self.giving.abandon(why)
            self.giving = None
            self._sockets.holds_off = False
            self._sessions.to_supervisor.append(rec.Kept(why))

    def advance(self, now: float) -> None:
        """Hand over, or wait a little for connections that cannot move yet."""
        giving = self.giving
        assert giving is not None
        if self._must_settle(giving, now):
            return
        self.giving = None
        self._sockets.holds_off = False
        if giving.run(self._pieces(giving, now)):
            self.has_left = True
            self._leave()
            return
        self._take_back()
        # The supervisor knows better why a process has ended.
        why = "" if giving.why == ENDED else giving.why
        log.warning("the upgrade has failed, this gateway goes on: %s", giving.why)
        self._sessions.to_supervisor.append(rec.Kept(why))

    def _must_settle(self, giving: Giving, now: float) -> bool:
        """Whether a connection that cannot move now may be able to in a moment."""
        self._sockets.holds_off = giving.holds_off(now)
        why = self._state.why_not()
        self._left_out = self._state.unmovable()
        if (why or self._left_out) and giving.has_time(now):
            return True
        if why:
            giving.giver.fail(why)
        return False

    def _pieces(self, giving: Giving, now: float) -> Iterator[Piece]:
        """All frames for the successor, made while they are sent."""
        tls = {
            endpoint.sock: endpoint
            for endpoint in self._sockets.endpoints
            if isinstance(endpoint.transport, TlsTransport)
        }
        for data, sockets in self._state.freeze(now):
            moving = [self._end_of(tls[each]) if each in tls else each for each in sockets]
            yield Piece(RECORD, data, moving)
        sock, path = self._links.listener()
        yield Piece(OWN, json.dumps(self._own(giving, path)).encode(), [sock])
        yield Piece(LAST, b"")

    def _own(self, giving: Giving, path: str) -> dict[str, Any]:
        """The data of the process that is not part of the state."""
        ids = [endpoint.con.id for endpoint in self._pairs]
        mine = [(os.getpid(), giving.stopped_at, ids)] if ids else []
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "stopped_at": giving.stopped_at,
            "link": path,
            "accepted": {each.listen.name: each.accepted for each in self._sockets.listeners},
            "spawned": self.spawned.told(),
            "pumps": [*self.pumps.told(), *mine],
            "lost": {
                str(endpoint.con.id): endpoint.transport.lost
                for endpoint in self._sockets.endpoints
                if isinstance(endpoint.transport, PumpedTransport) and endpoint.transport.lost
            },
            "connections": len(self._sockets.endpoints),
            "workers": len(self._sessions.workers),
        }

    def _end_of(self, endpoint: Endpoint) -> socket.socket:
        """What moves of a TLS connection: one end of a socketpair, whose other end the pump keeps.
        Raises OSError."""
        self._pairs[endpoint] = pair(PUMP_BUFFER)
        return self._pairs[endpoint][1]

    def _take_back(self) -> None:
        """Continue as before."""
        for ours, theirs in self._pairs.values():
            ours.close()
            theirs.close()
        self._pairs.clear()
        self._loop.skip()

    def _leave(self) -> None:
        """Keep what only this process can do, and nothing else."""
        for endpoint, (ours, theirs) in self._pairs.items():
            theirs.close()
            transport = endpoint.transport
            assert isinstance(transport, TlsTransport)
            self._loop.unwatch(endpoint.sock)
            self.pumped.append(
                Pumped(
                    endpoint.sock,
                    ours,
                    transport.engine,
                    transport.unsent,
                    endpoint.con.kind == "websocket",
                )
            )
        self._pairs.clear()
        for con, why in self._left_out:
            self._close(con, why)
        if self._links.remote is not None:
            # The addresses for workers on other machines are for the successor.
            self._links.remote.close()
        self._loop.stop()

    def _close(self, con: Connection, why: str) -> None:
        """Close a connection that has not moved; the successor handles its on_close."""
        text = "connection %d could not move to the new gateway: %s"
        log.warning(text, con.id, why, extra=con.subject.extra())
        endpoint = con.endpoint
        if not isinstance(endpoint, Endpoint):
            return
        try:
            con.close(RESTART, "wsraw was upgraded; connect again", UPGRADE, self._loop.now)
            if endpoint.transport.established:
                endpoint.transport.write(con.output)
                endpoint.transport.finish()
        except OSError:
            pass
        endpoint.sock.close()

    # --- the new gateway ---

    def take(self, words: socket.socket, records: socket.socket) -> dict[str, Any] | str:
        """Take over what the old gateway has. Blocks. Returns data for its report; a text says why
        this gateway must not serve."""
        thawing = self._state.thawing(self._loop.now)
        own: dict[str, Any] = {}
        links: list[socket.socket] = []

        def take(frame: Frame) -> None:
            if frame.kind == RECORD:
                thawing.take(frame.data, frame.sockets)
            elif frame.kind == OWN:
                own.update(json.loads(frame.data))
                links.extend(frame.sockets)
            else:
                raise ValueError(
                    f"the old gateway has sent a frame of the unknown kind {frame.kind}"
                )

        def finish() -> dict[str, Any]:
            thawing.finish()
            if own.get("version") != VERSION or len(links) != 1:
                raise ValueError("the old gateway speaks another version of the handover")
            self._take_own(own, links[0])
            return {"connections": len(self._sockets.endpoints)}

        # What was restored stays: searching it for garbage would double the pause.
        gc.disable()
        taking = Taking(words, records, take, finish)
        try:
            serves = taking.run({"version": VERSION, "pid": os.getpid()})
        finally:
            gc.enable()
        self._loop.skip()
        if not serves:
            return taking.why
        return {
            "pause": monotonic() - own["stopped_at"],
            "connections": own["connections"],
            "moved": len(self._sockets.endpoints),
            "workers": own["workers"],
            "pumped": sum(len(ids) for pid, _, ids in own["pumps"] if pid == own["pid"]),
            "pid": own["pid"],
        }

    def _take_own(self, own: dict[str, Any], link: socket.socket) -> None:
        self._links.take_over(link, own["link"])
        for listener in self._sockets.listeners:
            listener.accepted = own["accepted"].get(listener.listen.name, 0)
        for n, pid in own["spawned"]:
            self.spawned.add(n, pid)
        by_id = {endpoint.con.id: endpoint for endpoint in self._sockets.endpoints}
        for pid, since, ids in own["pumps"]:
            those = [by_id[con] for con in ids if con in by_id]
            for endpoint in those:
                lost = own["lost"].get(str(endpoint.con.id), "")
                endpoint.transport = PumpedTransport(endpoint.sock, lost)
            self.pumps.add(pid, since, those)
