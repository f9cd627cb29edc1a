"""I/O. The drill's clients: those that are verified, and one that hangs workers.

Their side of the WebSocket protocol is that of the websockets library, which shares no parser with
the gateway. So a mistake that the gateway makes in both directions does not cancel out.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Final

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import WebSocketURI

from wsraw.runtime.clock import monotonic
from wsraw.runtime.sockets import strerror
from wsraw.tools.drill.figures import Figures, Pause
from wsraw.tools.drill.load.record import HEADER, Checker, Records
from wsraw.tools.drill.load.schedule import Schedule
from wsraw.tools.drill.target.close_records import ConnectionEnd
from wsraw.tools.drill.target.echo import HANG

Address = tuple[str, int]

NOT_CLOSED: Final = "it did not close"


class Client(asyncio.Protocol):
    """A connection to the server, raw or WebSocket. A closed one can be connected again."""

    def __init__(self, address: Address, kind: str) -> None:
        self.kind = kind
        self.connected = False
        """The connection was opened, and has not ended."""
        self.name = ""
        """The client's address, as the server should see it."""
        self.ended: asyncio.Future[str]
        """How the connection has ended; since the last `connect`."""
        self._address = address
        self._opened: asyncio.Future[str]
        self._transport: asyncio.Transport
        self._protocol: ClientProtocol
        self._failure = ""
        self._closing = False

    async def connect(self) -> str:
        """Open the connection; return why that failed, or ""."""
        loop = asyncio.get_running_loop()
        self._opened, self.ended = loop.create_future(), loop.create_future()
        self._failure, self._closing = "", False
        host, port = self._address
        self._protocol = ClientProtocol(WebSocketURI(False, host, port, "/", ""), max_size=None)
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, self._address)
            await loop.create_connection(lambda: self, sock=sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                return f"connect: {_text(error)}"
            raise
        try:
            return await self._opened
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    @property
    def is_open(self) -> bool:
        """Whether the connection can carry data."""
        return self.connected and (self.kind == "raw" or self._protocol.state is OPEN)

    def send(self, data: bytes, *, is_text: bool = False) -> None:
        if self.kind == "raw":
            self._transport.write(data)
            return
        if is_text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._flush()

    def close(self) -> None:
        """Ask the server to close."""
        if self._closing or not self.is_open:
            return
        self._closing = True
        if self.kind == "raw":
            self._transport.write_eof()
        else:
            self._protocol.send_close(1000)
            self._flush()

    def abort(self) -> None:
        """Close the socket at once, if it is open."""
        if self.connected:
            self._transport.abort()

    @property
    def closed_in_order(self) -> bool:
        """Whether the server closed as asked."""
        wanted = "eof" if self.kind == "raw" else "1000"
        return self._closing and self.ended.result() == wanted

    # --- for subclasses ---

    def handle_open(self) -> None:
        """Handle that the connection can carry data."""

    def handle_data(self, data: bytes, is_text: bool) -> None:
        """Take a message, or raw data in any pieces."""

    def end(self, how: str, looks_lost: bool) -> ConnectionEnd:
        """The record of how the connection has ended: `how` as text, empty if the drill closed it.
        `looks_lost`: a client whose gateway has died would see this."""
        raise NotImplementedError

    # --- the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self.kind == "raw":
            self._handle_open()
        else:
            self._protocol.send_request(self._protocol.connect())
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self.kind == "raw":
            self.handle_data(data, False)
            return
        protocol = self._protocol
        protocol.receive_data(data)
        events = protocol.events_received()
        error = protocol.parser_exc
        if protocol.handshake_exc is not None:
            error = ValueError(f"handshake: {protocol.handshake_exc}")
        # A close frame may have come with the response.
        if error is None and not self._opened.done() and protocol.state is not CONNECTING:
            self._handle_open()
        for frame in events:
            if not isinstance(frame, Frame) or frame.opcode not in (0, 1, 2):
                continue
            if frame.opcode == 0 or not frame.fin:
                error = ValueError("messages must not be fragmented")
                break
            self.handle_data(bytes(frame.data), frame.opcode == 1)
        if error is not None:
            self._failure = f"the server broke the protocol: {error}"
            self._transport.abort()
        else:
            self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        how = "eof" if error is None else _text(error)
        closed = self._protocol.close_rcvd
        if closed is not None:
            how = f"{closed.code:d} {closed.reason}".strip()
        self.connected = False
        if not self.ended.done():
            # Otherwise the future is not used any more: the connection did not close in time.
            self.ended.set_result(self._failure or how)
        if not self._opened.done():
            self._opened.set_result(self._failure or how)

    def _handle_open(self) -> None:
        self.connected = True
        self._opened.set_result("")
        self.handle_open()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)


def _text(error: Exception) -> str:
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        # Windows has several numbers for it, and asyncio one more.
        return "connection reset by peer"
    if isinstance(error, ConnectionRefusedError):
        # asyncio's number there is that of an invalid argument.
        return "connection refused"
    number = getattr(error, "errno", None)
    return (strerror(number) if number else str(error)).lower()


class VerifiedClient(Client):
    """A client that sends records and checks what comes back."""

    checker: Checker
    """The checker of the records since the last connect."""

    def __init__(
        self,
        address: Address,
        kind: str,
        number: int,
        size: int,
        schedule: Schedule,
        figures: Figures,
    ) -> None:
        super().__init__(address, kind)
        self.number = number
        self.pause = Pause()
        self._is_text = kind != "raw" and number % 2 == 1
        self._size = size
        self._schedule = schedule
        self._figures = figures
        self._records: Records

    def handle_open(self) -> None:
        first = self._schedule.next_round(self.number)
        self.checker = Checker(self.number, self._size, first, self._figures)
        self._records = Records(self._size)

    def send_next(self, due: float) -> None:
        """Send the next record, which was due at that time."""
        figures = self._figures
        figures.sent += 1
        figures.outstanding += 1
        for pause in (figures.pause, self.pause):
            pause.due(due)
        self.send(self.checker.send(), is_text=self._is_text)

    def handle_data(self, data: bytes, is_text: bool) -> None:
        now = monotonic()
        for record in self._records.receive(data) if self.kind == "raw" else (data,):
            self._check(record if is_text == self._is_text else b"", now)
        self.pause.arrived(now, self.checker.waiting)

    def _check(self, record: bytes, now: float) -> None:
        number = self.checker.receive(record)
        if number is not None:
            figures = self._figures
            figures.latency.add(now - self._schedule.due_in_round(self.number, number))
            figures.outstanding -= 1
            figures.pause.arrived(now, figures.outstanding > 0)

    def end(self, how: str, looks_lost: bool) -> ConnectionEnd:
        checker, figures = self.checker, self._figures
        answered = checker.expected > checker.first
        sent = checker.next > checker.first
        header = checker.record(checker.first)[:HEADER].decode() if answered else ""
        # Messages that were lost with a gateway had perhaps not reached a worker. Nor has a client
        # that sent none, if it left while there was no worker.
        is_known = answered if looks_lost else sent
        # After a disconnection, only records that a later one has overtaken are lost.
        lost = checker.overtaken if how and how != NOT_CLOSED else checker.outstanding
        figures.lost += lost
        figures.cut_off += checker.outstanding - lost
        figures.outstanding -= checker.outstanding
        self.pause.arrived(monotonic(), False)
        return ConnectionEnd(self.kind, self.name, header, is_known, how)


class HangClient(Client):
    """A client whose messages hang the worker that handles them."""

    def __init__(self, address: Address, every: float) -> None:
        super().__init__(address, "websocket")
        self.busy = False
        """A message hangs."""
        self._sent = False
        """A message was sent on this connection."""
        self._every = every
        self._due = math.inf

    def start(self, now: float) -> None:
        self._due = now + self._every

    def hang(self, now: float) -> bool:
        """Send a message if one is due and the last one is over; return whether it was sent."""
        if now < self._due:
            return False
        self._due += self._every
        if not self.is_open or self.busy:
            return False
        self.busy = self._sent = True
        self.send(HANG.encode(), is_text=True)
        return True

    def end(self, how: str, looks_lost: bool) -> ConnectionEnd:
        sent, self._sent, self.busy = self._sent, False, False
        return ConnectionEnd("hang", self.name, is_known=sent, how=how)
