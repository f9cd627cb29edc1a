"""Clients and servers at the other side of the gateway, and their sockets without a network."""

from __future__ import annotations

import math

from tests.gateway.model.reference import MARK, Con
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CONNECTING, OPEN, Connection, ConnectionState
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.delivery.read_policy import Reading, is_paused, may_read, must_wait
from wsraw.gateway.delivery.registry import Registry
from wsraw.link.open_options import check
from wsraw.link.records import OnError, OnMessage, Open

OURS = {
    deflate: Settings(deflate=deflate, ping_interval=0.0, max_message_size=1 << 30)
    for deflate in (False, True)
}


class Socket:
    """The endpoint of a connection, with buffers instead of the kernel."""

    def __init__(self, registry: Registry, con: Connection) -> None:
        self.registry = registry
        self.con = con
        con.endpoint = self
        registry.flow.weigh(con)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.peer_closed = False
        self.shut = False
        self.closed = False
        self.reset = False
        self.eof = False
        self.reading = True
        self.lingering = False
        self.linger_until = math.inf

    @property
    def readable(self) -> bool:
        """Whether the loop would call `read`."""
        waiting = bool(self.incoming) or (self.peer_closed and not self.eof)
        if self.closed or not self.reading or not waiting:
            return False
        return not must_wait(self.registry.flow, self.con)

    def read(self, size: int, now: float) -> None:
        """Read once, as recv does."""
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        con = self.con
        if self.lingering:
            if not data:
                self.eof = True
                self.flush(0, now)
        elif data:
            connecting = con.state is CONNECTING
            events = con.receive_data(data, now)
            if connecting and con.state is OPEN:
                self.registry.flow.weigh(con)
            self.registry.take(con, events, now)
            if con.intake.has_more or not (events or con.intake.parsed):
                self.registry.flow.read_part(con, len(data))
            if is_paused(con):
                con.pause(now)
            self._go_on(now)
        else:
            self.eof = True
            self.reading = False
            self.registry.receive_eof(con, now)

    def lost(self, why: str, now: float) -> None:
        """Report that the socket has failed."""
        self.registry.take(self.con, self.con.lost(why, now), now)
        self._close()

    def apply_pause(self, now: float) -> None:
        """Pause reading or resume it."""
        con, flow = self.con, self.registry.flow
        if self.closed or self.lingering:
            return
        if con.entry.pauses:
            con.pause(now)
        elif not (is_paused(con) or (flow.full and must_wait(flow, con))):
            self.registry.take(con, con.resume(now), now)
            self._go_on(now)
        self.update_reading()

    def _go_on(self, now: float) -> None:
        """Run the turns in which nothing else happens."""
        con = self.con
        while con.intake.has_more and not is_paused(con):
            self.registry.take(con, con.resume(now), now)
        self.update_reading()

    def update_reading(self) -> None:
        """Pause or resume as the read policy says."""
        reading = may_read(self.con, eof=self.eof, lingering=self.lingering)
        self.reading = reading is Reading.YES

    def flush(self, size: int, now: float) -> None:
        """Send once; the kernel takes at most `size` bytes. Then do what follows from that."""
        con = self.con
        if self.closed:
            return
        if con.output.size:
            data = bytes(con.output.data_to_send()[:size])
            self.outgoing += data
            self.registry.take(con, con.written(len(data), now), now)
            entry = con.entry
            if entry is not None:
                entry.written += len(data)
                if con.output.size or entry.output_counted or entry.marks:
                    self.registry.wrote(entry)
        if con.state is ConnectionState.CLOSING:
            self._go_on(now)
        if con.state is ConnectionState.CLOSED:
            self._finish(now)
        elif con.state is ConnectionState.CLOSING and not self.reading:
            self.update_reading()

    def handle_timeout(self, now: float) -> None:
        """Handle the connection's deadline."""
        con = self.con
        if self.lingering:
            if now >= self.linger_until:
                self._close()
        elif not self.closed and now >= con.keepalive.deadline:
            self.registry.take(con, con.handle_timeout(now), now)
            if con.state is ConnectionState.CLOSED:
                self.flush(0, now)

    def _finish(self, now: float) -> None:
        con = self.con
        if con.output.reset or (self.eof and not con.output.size):
            self._close()
            return
        if not self.lingering:
            self.lingering = True
            self.update_reading()
            self.linger_until = now + con.settings.close_timeout
        if not con.output.size:
            self.shut = True

    def _close(self) -> None:
        self.closed = True
        self.reset = self.con.output.reset or bool(self.con.output.size)
        self.registry.flow.socket_closed(self.con)


class Peer:
    """A raw or WebSocket peer that sends numbered lines, and keeps what it receives."""

    def __init__(self, reference: Con, socket: Socket, deflate: bool = False) -> None:
        self.reference = reference
        self.socket = socket
        self.left = False
        self.was_reset = False
        self.left_in_peace = False
        self._lines = 0
        self._websocket: Connection | None = None
        if reference.websocket:
            if reference.opened:
                listen = Listen(name="there", protocol="websocket")
                self._websocket = accepted(0, listen, OURS[deflate], {}, 0.0)
            else:
                open_ = check(Open(0, "here:1", "websocket", host="here"))
                self._websocket = dialed(0, open_, OURS[deflate], {}, 0.0)
                self._websocket.connected(0.0)
                self._pass_on(0.0)

    @property
    def gone(self) -> bool:
        """Whether neither side will send more."""
        return self.socket.closed and not self.socket.outgoing

    @property
    def can_say(self) -> bool:
        """Whether the peer has not said goodbye."""
        return (
            not self.left
            and not self.socket.closed
            and (self._websocket is None or self._websocket.state is ConnectionState.OPEN)
        )

    def say(self, padding: int, now: float) -> None:
        """Send one line."""
        self._lines += 1
        line = b"%x%s\n" % (self._lines, b"." * padding)
        self.reference.said += line
        if self._websocket is None:
            self.socket.incoming += line
        else:
            self._websocket.send(line, "binary", True, now)
            self._pass_on(now)

    def leave(self, now: float) -> None:
        """Half-close; a WebSocket sends a close frame."""
        self.left = True
        if self._websocket is None:
            self.socket.peer_closed = True
        else:
            self.left_in_peace = (
                self.reference.received == self.reference.expected
                and MARK.sub(b"", bytes(self.reference.received)) == self.reference.said
            )
            self._websocket.close(1000, "", "peer", now)
            self._pass_on(now)

    def reset(self, now: float) -> None:
        """Reset the connection."""
        self.left = self.was_reset = True
        self.socket.incoming.clear()
        self.socket.outgoing.clear()
        if not self.socket.closed:
            self.socket.lost("connection reset by peer", now)

    def receive(self, now: float) -> None:
        """Receive what the gateway has written."""
        socket = self.socket
        data = bytes(socket.outgoing)
        socket.outgoing.clear()
        if self._websocket is None:
            self.reference.received += data
        else:
            for event in self._websocket.receive_data(data, now) if data else ():
                if type(event) is OnMessage:
                    self.reference.received += event.data
                assert type(event) is not OnError, event
            self._pass_on(now)
        if socket.shut or (
            self._websocket is not None and self._websocket.state is ConnectionState.CLOSED
        ):
            # Both sides have finished, or the WebSocket must not wait for us for ever.
            socket.peer_closed = True
            self.left = True

    def _pass_on(self, now: float) -> None:
        con = self._websocket
        assert con is not None
        while con.output.size:
            data = bytes(con.output.data_to_send())
            self.socket.incoming += data
            con.written(len(data), now)
