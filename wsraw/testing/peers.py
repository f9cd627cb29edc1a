"""Sans-I/O. Clients, and servers that handlers connect to, at the other end of a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, OPEN, Connection
from wsraw.gateway.connection.dialing import dialed
from wsraw.link.open_options import check
from wsraw.link.records import OnClose, OnConnect, OnMessage, Open
from wsraw.testing.pipe import Pipe
from wsraw.workers.connection import Message, parse_message
from wsraw.workers.request import Inf

OURS = Settings(ping_interval=0.0, max_message_size=1 << 30, messages="whole", deflate=False)


class PeerOwner(Protocol):
    """The part of an App that peers use."""

    now: float

    def settle(self, wait: bool = True) -> None:
        """The same as `App.settle`."""


class Peer:
    """The other end of one connection of the gateway: a RawPeer or a WebSocketPeer."""

    def __init__(self, app: PeerOwner, pipe: Pipe) -> None:
        self.received: list[Any] = []
        """Received data, in order: text as `str`, everything else as bytes. May be cleared."""
        self._app = app
        self._pipe = pipe

    @property
    def id(self) -> int:
        """The `con.id` of the handlers."""
        return self._pipe.con.id

    @property
    def target(self) -> str:
        """The target that a handler has opened; else empty."""
        return self._pipe.con.target

    @property
    def closed(self) -> bool:
        """Whether the connection is over."""
        return self._pipe.closed or self._pipe.shut

    @property
    def was_reset(self) -> bool:
        """Whether the gateway has ended it with a reset."""
        return self._pipe.was_reset

    def send_bytes(self, data: bytes, *, wait: bool = True) -> None:
        """Send bytes as they are, even invalid ones."""
        self._write(data)
        self._app.settle(wait)

    def reset(self, *, wait: bool = True) -> None:
        """Lose the connection, so that handlers see the cause `lost`."""
        self._pipe.lost("connection reset by peer", self._app.now)
        self._app.settle(wait)

    def stop_reading(self) -> None:
        """Become a slow reader: messages to this peer wait in the gateway, up to `output_limit`."""
        self._pipe.blocked = True

    def resume_reading(self, *, wait: bool = True) -> None:
        self._pipe.blocked = False
        self._app.settle(wait)

    @property
    def is_done(self) -> bool:
        """Whether nothing more can arrive; for the app."""
        return self._pipe.closed and not self._pipe.outgoing

    def _write(self, data: bytes) -> None:
        if self._pipe.peer_closed or self._pipe.closed:
            raise ConnectionError("this connection is over; nothing can be sent to it")
        self._pipe.incoming += data

    def step(self) -> bool:
        """Read what the gateway has written; returns whether there was anything. For the app."""
        pipe = self._pipe
        data = bytes(pipe.outgoing)
        pipe.outgoing.clear()
        if data:
            self._receive(data)
        if pipe.shut and not pipe.peer_closed:
            pipe.peer_closed = True
            return True
        return bool(data)

    def _receive(self, data: bytes) -> None:
        raise NotImplementedError


class RawPeer(Peer):
    """A raw peer, which sends and receives bytes."""

    @property
    def data(self) -> bytes:
        """All received data, joined."""
        return b"".join(self.received)

    def send(self, data: bytes | str, *, wait: bool = True) -> None:
        """Send bytes (text as UTF-8) and run the handlers; see `App.settle`."""
        self.send_bytes(data.encode() if isinstance(data, str) else data, wait=wait)

    def close(self, *, wait: bool = True) -> None:
        """Send no more data; earlier data is still handled and answered."""
        self._pipe.peer_closed = True
        self._app.settle(wait)

    def _receive(self, data: bytes) -> None:
        self.received.append(data)


class WebSocketPeer(Peer):
    """A WebSocket peer: a client, or the server of a connection that handlers have opened."""

    def __init__(self, app: PeerOwner, pipe: Pipe, own: Connection) -> None:
        super().__init__(app, pipe)
        self.close_code = 0
        """The code of the received close frame; 1006 after an end without one, 0 before the end."""
        self.close_reason = ""
        self.inf = Inf()
        """The headers of the response, or of the request for a server."""
        self.status = 0
        """For a client: the HTTP status of the response, 101 if the client was accepted."""
        self.body = b""
        """For a client that was refused: the body of the response."""
        self._own = own
        self._head: bytes | None = b""

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol."""
        return self.inf.get("Sec-WebSocket-Protocol")

    def send(
        self,
        msg: Message,
        type: str | None = None,
        final: bool | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Send text (`str`), binary (bytes) or a mapping, as ``con.send`` takes them, and run
        the handlers; see `App.settle`."""
        if self._own.state is not OPEN:
            raise ConnectionError("this WebSocket is not open; nothing can be sent to it")
        data, type, final = parse_message(msg, type, final)
        why = self._own.send(data, type, final, self._app.now)
        if why is not None:
            raise ValueError(why)
        self.write_output()
        self._app.settle(wait)

    def close(self, code: int = 1000, reason: str = "", *, wait: bool = True) -> None:
        """Send a close frame."""
        self._own.close(code, reason, "peer", self._app.now)
        self.write_output()
        self._app.settle(wait)

    def _receive(self, data: bytes) -> None:
        self._read_response(data)
        for event in self._own.receive_data(data, self._app.now):
            if isinstance(event, OnMessage):
                text = event.type == "text"
                self.received.append(event.data.decode() if text else event.data)
            elif isinstance(event, OnConnect):
                self.inf = Inf(event.inf)
            elif isinstance(event, OnClose):
                self.close_code, self.close_reason = event.code, event.reason
        self.write_output()
        if self._own.state is CLOSED:
            self._pipe.peer_closed = True

    def _read_response(self, data: bytes) -> None:
        if not self._own.opened or self._head is None:
            return
        self._head += data
        head, separator, rest = self._head.partition(b"\r\n\r\n")
        if separator:
            self.status = int(head.split(b" ", 2)[1])
            if self.status == 101:
                self._head = None
            else:
                self.body = rest

    def step(self) -> bool:
        moved = super().step()
        if self.closed and not self.close_code:
            self.close_code = 1006
        return moved

    def write_output(self) -> None:
        """Send the output of this end."""
        own = self._own
        while own.output.size:
            data = bytes(own.output.data_to_send())
            if not self._pipe.peer_closed:
                self._pipe.incoming += data
            own.written(len(data), self._app.now)


def client(
    app: PeerOwner,
    pipe: Pipe,
    url: str,
    host: str,
    headers: Mapping[str, str],
    subprotocols: Iterable[str],
) -> WebSocketPeer:
    """Make a WebSocket client and send its request."""
    options: dict[str, Any] = {"headers": dict(headers)} if headers else {}
    if subprotocols:
        options["subprotocols"] = list(subprotocols)
    open_ = Open(0, "app:80", "websocket", url=url, host=host, options=options)
    own = dialed(0, check(open_), OURS, {}, app.now)
    own.connected(app.now)
    peer = WebSocketPeer(app, pipe, own)
    peer.write_output()
    return peer


def server(app: PeerOwner, pipe: Pipe) -> Peer:
    """Make the other end of a connection that a handler has opened."""
    if pipe.con.kind != "websocket":
        return RawPeer(app, pipe)
    listen = Listen(name="test", protocol="websocket")
    return WebSocketPeer(app, pipe, accepted(0, listen, OURS, {}, app.now))
