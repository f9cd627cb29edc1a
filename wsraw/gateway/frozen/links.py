"""I/O. Endpoints and workers' links to records and back, each with its socket.

Nothing is read or written here, neither in the old gateway nor in the new one: partly written or
read data continues where it was.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.rate_limit import RateLimit
from wsraw.gateway.delivery.entry import PAUSED_RATE, Entry, Worker
from wsraw.gateway.frozen.copying import Clock, Plan
from wsraw.gateway.frozen.delivery import ITS_OWN
from wsraw.gateway.frozen.records import (
    EndpointState,
    FrameState,
    FrozenError,
    LinkState,
    PeerState,
    Shared,
)
from wsraw.gateway.sessions.links import HELD_OPEN_FOR, Links
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.endpoint import Shared as SharedByEndpoints
from wsraw.gateway.sockets.handshake import TlsHandshake
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.gateway.sockets.transport import PlainTransport
from wsraw.link.batches import LARGEST_BATCH
from wsraw.link.states import NEW
from wsraw.link.zmtp import ZmtpPeer, header
from wsraw.runtime.link.connection import JOINED_BELOW, LinkSocket, _Frame
from wsraw.runtime.link.server import Link, LinkServer

HANDSHAKE: Final = "its TLS handshake is not complete"

ENDPOINT: Final = Plan(
    Endpoint,
    EndpointState,
    copied="eof lingering _portion _is_busy",
    translated="_timer_at transport",
    left_out={
        "con": "it comes with it",
        "sock": "it comes with it",
        "shared": ITS_OWN,
        "handshake": HANDSHAKE,
        "reading": "the read policy",
        "watched": "the loop",
        "writing": "its output is written in the first turn",
        "_timer": "the loop",
    },
)
SHARED: Final = Plan(
    SharedByEndpoints,
    EndpointState,
    translated="ended read_queue",
    left_out=dict.fromkeys(("loop", "registry", "settings", "handshakes", "newcomer"), ITS_OWN)
    | {"dirty": "all are looked at in the first turn"},
)
SOCKETS: Final = Plan(
    Sockets,
    Shared,
    translated="endpoints total overdrawn admission",
    left_out=dict.fromkeys(
        ("descriptors", "loop", "registry", "settings", "shared", "handshakes", "holds_off"),
        ITS_OWN,
    )
    | {
        "listeners": "they are handed over by themselves",
        "_contexts": "certificates are read anew",
        "_dialer": "what is not open is dialled anew",
        "_refused": "clients above a limit are not worth it",
    },
)
PEER: Final = Plan(
    ZmtpPeer,
    PeerState,
    copied="limit is_ready why output _greeted _head _size _is_command _longest _frames _skip"
    " _between",
    translated="_part _filled",
    left_out=dict.fromkeys(("_type", "_takes", "_as_server"), "the server")
    | {"_spare": "memory that is kept"},
)
FRAME: Final = Plan(_Frame, FrameState, translated="batch pieces size is_begun")
LINK_SOCKET: Final = Plan(
    LinkSocket,
    LinkState,
    copied="_portion has_more ended why broken",
    translated="_out unsent peer",
    left_out={"_sock": "it comes with it"},
)
LINK: Final = Plan(
    Link,
    LinkState,
    copied="identity pid has_spoken",
    translated="_left _socket",
    left_out={
        "is_admitted": "others are not taken over",
        "_parting": "then it is not admitted any more",
        "_is_paused": "none is, between turns",
        "_server": ITS_OWN,
        "_state": "only open ones are taken over",
        "_watched": "the loop",
    },
)
LINK_SERVER: Final = Plan(
    LinkServer,
    Shared,
    translated="_accepted _links",
    left_out=dict.fromkeys(
        ("loop", "receive", "ended", "readable", "_name", "_stranger_limit", "_said"), ITS_OWN
    )
    | dict.fromkeys(("_greeting", "_silent"), "strangers are not taken over")
    | dict.fromkeys(("_to_read", "_to_free", "_has_chores"), "all are read in the first turn")
    | dict.fromkeys(
        ("endpoint", "_given", "_listen", "_sock"), "the listening socket is handed over by itself"
    ),
)
LINKS: Final = Plan(
    Links,
    Shared,
    translated="_links _behind dying",
    left_out=dict.fromkeys(
        ("_loop", "_registry", "_sessions", "_clock", "remote", "_server", "is_open"), ITS_OWN
    )
    | dict.fromkeys(("ready", "strangers", "_early"), "all are read in the first turn")
    | dict.fromkeys(("_until", "_paused"), "it lives within a turn"),
)


class Ends:
    """The sockets of a gateway: those of its connections, and those of its workers."""

    def __init__(self, sockets: Sockets, links: Links) -> None:
        self._sockets = sockets
        self._links = links
        self.overdrawn = sockets.overdrawn

    # --- to records ---

    def connections(self) -> list[Connection]:
        """All connections that have a socket and are worth moving, the oldest first."""
        refused = self._sockets._refused
        cons = [each.con for each in self._sockets.endpoints if each not in refused]
        return sorted(cons, key=lambda con: con.id)

    def why_unmovable(self, con: Connection) -> str:
        """Why the socket of a connection cannot be handed over now; "" if it can."""
        endpoint = con.endpoint
        if not isinstance(endpoint, Endpoint) or endpoint.handshake is None:
            return ""
        return "" if _is_silent(endpoint) else HANDSHAKE

    def freeze_endpoint(
        self, con: Connection, clock: Clock
    ) -> tuple[EndpointState, socket.socket] | None:
        """The state of an endpoint; None for a connection without a socket."""
        endpoint = con.endpoint
        if not isinstance(endpoint, Endpoint) or endpoint not in self._sockets.endpoints:
            return None
        shared = endpoint.shared
        state = ENDPOINT.freeze(
            endpoint,
            linger_until=clock.since(endpoint._timer_at),
            is_queued=endpoint in shared.read_queue,
            is_ended=endpoint in shared.ended,
            pumped=not isinstance(endpoint.transport, PlainTransport),
            is_silent=_is_silent(endpoint),
        )
        return state, endpoint.sock

    def is_stranger(self, worker: Worker) -> bool:
        """Whether a worker has not said hello: it will do so on a new link."""
        if worker.session.state is not NEW:
            return False
        link = self._links._links.get(worker.session.identity)
        return link is None or not link.is_admitted

    def dying(self, worker: Worker) -> str | None:
        """What was wrong with a link that has ended, while its last batches are being applied."""
        return self._links.dying.get(worker)

    def freeze_link(self, worker: Worker) -> tuple[LinkState, socket.socket] | None:
        """The state of a link; None for a worker without a link on this machine."""
        link = self._links._links.get(worker.session.identity)
        if link is None or link.ended or not link.is_admitted:
            return None
        end = link._socket
        state = LINK.freeze(
            link,
            left=[bytes(batch) for batch in link._left],
            out=[_freeze_frame(frame) for frame in end._out],
            portion=end._portion,
            has_more=end.has_more,
            ended=end.ended,
            why=end.why,
            broken=end.broken,
            peer=_freeze_peer(end.peer),
        )
        return state, end._sock

    def counts(self) -> tuple[int, int]:
        """Numbers of links and connections so far."""
        return self._links._server._accepted, self._sockets.total

    # --- out of records ---

    def listens(self) -> Iterable[Listen]:
        """The present listeners, by name."""
        return [listener.listen for listener in self._sockets.listeners]

    def thaw_endpoint(self, con: Connection, state: EndpointState, sock: object) -> Endpoint:
        """Give a connection its socket; `begin` comes next."""
        if not isinstance(sock, socket.socket):
            raise FrozenError(f"the socket of connection {con.id} has not come")
        sock.setblocking(False)
        endpoint = Endpoint(self._sockets.shared, sock, con)
        ENDPOINT.thaw(state, endpoint)
        self._sockets.endpoints.add(endpoint)
        self._sockets.admission.enter(con.address_key)
        return endpoint

    def begin(self, con: Connection, state: EndpointState, clock: Clock) -> None:
        """All that belongs to a connection exists: watch its socket."""
        endpoint = con.endpoint
        assert isinstance(endpoint, Endpoint)
        sockets, shared = self._sockets, self._sockets.shared
        if state.is_silent:
            self._expect_tls(endpoint)
        if endpoint.lingering:
            endpoint._arm(clock.at(state.linger_until))
        endpoint.update_reading()
        if state.is_queued:
            shared.read_queue[endpoint] = None
        if state.is_ended:
            shared.ended.append(endpoint)
        shared.dirty[con] = None
        entry = con.entry
        if isinstance(entry, Entry) and entry.pauses & PAUSED_RATE:
            when = clock.now + _debt(con.rate_limit, clock.now)
            sockets.loop.call_at(when, partial(sockets._resume, entry))

    def _expect_tls(self, endpoint: Endpoint) -> None:
        """Let the first bytes of a client decide, by the present settings of its listener."""
        name = endpoint.con.about.get("listener")
        if all(name != listener.listen.name for listener in self._sockets.listeners):
            endpoint.lost("its listener was removed before it had said anything")
        elif name in self._sockets._contexts:
            endpoint.handshake = TlsHandshake(endpoint, self._sockets._contexts[name])

    def thaw_link(self, worker: Worker, state: LinkState, sock: object) -> None:
        """Give a worker its link."""
        if not isinstance(sock, socket.socket):
            raise FrozenError(f"the link of {worker.name} has not come")
        links, server = self._links, self._links._server
        sock.setblocking(False)
        number = int.from_bytes(state.identity, "big")
        link = Link(server, sock, LARGEST_BATCH, number, state.pid)
        LINK.thaw(state, link)
        link.is_admitted = True
        link._left = list(state.left)
        end = link._socket
        LINK_SOCKET.thaw(state, end)
        _thaw_peer(state.peer, end.peer)
        end._out.clear()
        end.unsent = 0
        for frame in state.out:
            end._queue(_thaw_frame(frame))
        server._links[link] = None
        links._links[link.identity] = link
        link._watch()
        if end.unsent:
            links._fell_short(link)
        server._read_later(link)

    def thaw_dying(self, worker: Worker, fault: str) -> None:
        """Restore a worker whose link has ended, and whose last batches are being applied."""
        self._links.dying[worker] = fault

    def exited(self, worker: Worker) -> None:
        """The exit of a worker's process was reported: its link must end."""
        links = self._links
        self._sockets.loop.call_later(HELD_OPEN_FOR, partial(links._end_exited, worker))

    def thaw_counts(self, state: Shared) -> None:
        """Restore the numbers of links and connections so far."""
        self._links._server._accepted = max(self._links._server._accepted, state.links)
        self._sockets.total += state.accepted


def _debt(limit: RateLimit | None, now: float) -> float:
    """Seconds until a connection may send again."""
    if limit is None:
        return 0.0
    buckets = [each for each in (limit._messages, limit._bytes) if each is not None]
    return max([bucket.take(0.0, now) for bucket in buckets], default=0.0)


def _freeze_frame(frame: _Frame) -> FrameState:
    if frame.batch is None:
        return FrameState(b"".join(frame.pieces), False, 0)
    whole = len(header(len(frame.batch))) + len(frame.batch)
    return FrameState(frame.batch, True, whole - frame.size)


def _thaw_frame(state: FrameState) -> _Frame:
    if not state.is_batch:
        return _Frame(None, [memoryview(state.data)])
    head = header(len(state.data))
    if len(state.data) >= JOINED_BELOW:
        pieces = [memoryview(head), memoryview(state.data)]
    else:
        pieces = [memoryview(head + state.data)]
    frame = _Frame(state.data, pieces)
    if not 0 <= state.sent < frame.size:
        raise FrozenError("more of a batch is sent than there is")
    if state.sent:
        frame.sent(state.sent)
    return frame


def _freeze_peer(peer: ZmtpPeer) -> PeerState:
    part = peer._part
    return PEER.freeze(peer, part=bytes(part[: peer._filled]) if part is not None else None)


def _thaw_peer(state: PeerState, peer: ZmtpPeer) -> None:
    PEER.thaw(state, peer)
    if state.part is not None:
        peer._part = bytearray(state.part)
        peer._filled = len(state.part)
        # The next frames need room.
        peer._grow(min(peer._filled + 1, peer._size))


def _is_silent(endpoint: Endpoint) -> bool:
    """Whether a client that may begin with TLS has sent nothing."""
    handshake = endpoint.handshake
    return (
        isinstance(handshake, TlsHandshake)
        and not handshake._has_begun()
        and endpoint not in endpoint.shared.handshakes.waiting
    )
