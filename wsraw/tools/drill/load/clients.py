"""I/O. The drill's clients: those that are verified, and one that hangs workers."""

from __future__ import annotations

import math
import os
import socket
import time
from typing import Any, Final, Protocol

from wsraw.runtime.loop import Loop
from wsraw.tools.drill.figures import Pause
from wsraw.tools.drill.load import stream
from wsraw.tools.drill.load.record import Checker
from wsraw.tools.drill.load.stream import BINARY, CLOSE, PING, PONG, TEXT
from wsraw.tools.drill.target.echo import HANG

RECEIVE: Final = 1 << 16

Address = tuple[str, int]


class Owner(Protocol):
    """What a client reports to."""

    loop: Loop

    def handle_open(self, client: Any) -> None:
        """The client can carry data."""

    def handle_end(self, client: Any, how: str) -> None:
        """The client is closed; `how` as text."""


class Client:
    """One connection to the server, raw or WebSocket. A closed one can be opened again."""

    def __init__(self, owner: Owner, address: Address, kind: str) -> None:
        self.kind = kind
        self.is_open = False
        self.was_open = False
        """Whether the connection could carry data since `open`."""
        self.closing = False
        """The drill has asked the server to close."""
        self.name = ""
        """The client's address, as the server should see it."""
        self._owner = owner
        self._address = address
        self._sock: socket.socket | None = None
        self._connected = False
        self._output = bytearray()
        self._head = b""
        self._key = b""
        self._frames = stream.Frames()
        self._ended = ""

    def open(self) -> None:
        """Connect; `handle_open` or `handle_end` follows in a later turn."""
        self.is_open = self.was_open = self.closing = self._connected = False
        self._output.clear()
        self._head = b""
        self._frames = stream.Frames()
        self._ended = ""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.connect_ex(self._address)
        self._owner.loop.watch(self._sock, self._handle, write=True)

    def close(self) -> None:
        """Ask the server to close."""
        if self._sock is None or self.closing:
            return
        self.closing = True
        if self.kind == "websocket":
            self.send_frame(CLOSE, (1000).to_bytes(2, "big"))
        elif not self._output:
            self._half_close()

    @property
    def closed_in_order(self) -> bool:
        """Whether the server closed as asked."""
        wanted = "1000" if self.kind == "websocket" else "eof"
        return self.closing and self._ended == wanted

    def abort(self) -> None:
        """Close the socket without a report."""
        if self._sock is not None:
            self._owner.loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None
        self.is_open = False

    def send_frame(self, opcode: int, payload: bytes) -> None:
        self.write(stream.frame(opcode, payload, self._key[:4]))

    def write(self, data: bytes) -> None:
        """Send, or queue what the socket does not take yet."""
        if self._output or self._sock is None:
            self._output += data
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # Reading shows more about the end: a close frame may have come before.
            return
        if sent < len(data):
            self._output += data[sent:]
            self._owner.loop.watch(self._sock, self._handle, read=True, write=True)

    def handle_record(self, opcode: int, data: bytes) -> None:
        """Take a data frame, or with opcode 0 raw data in any pieces; for subclasses."""

    # --- the socket ---

    def _handle(self, readable: bool, writable: bool) -> None:
        assert self._sock is not None
        if not self._connected:
            self._handle_connected()
            return
        if readable:
            try:
                data = self._sock.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(self._ended or (error.strerror or str(error)).lower())
                return
            if not data:
                self._ended = self._ended or "eof"
                self._end(self._ended)
                return
            try:
                self._receive(data)
            except stream.StreamError as error:
                self._end(str(error))
                return
        if writable and self._output:
            self._flush()

    def _handle_connected(self) -> None:
        assert self._sock is not None
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(f"connect: {os.strerror(error).lower()}")
            return
        self._connected = True
        host, port = self._sock.getsockname()[:2]
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._owner.loop.watch(self._sock, self._handle, read=True)
        if self.kind == "websocket":
            self._key = os.urandom(16)
            self.write(stream.request(f"{self._address[0]}:{self._address[1]}", self._key))
        else:
            self._opened()

    def _opened(self) -> None:
        self.is_open = self.was_open = True
        self._owner.handle_open(self)

    def _receive(self, data: bytes) -> None:
        if self.kind == "raw":
            self.handle_record(0, data)
            return
        if not self.is_open:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            stream.check_response(head, self._key)
            self._opened()
        for opcode, payload in self._frames.receive(data):
            if opcode < CLOSE:
                self.handle_record(opcode, payload)
            elif opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                self._ended = stream.close_text(payload)
                if not self.closing:
                    self.send_frame(CLOSE, payload[:2])

    def _flush(self) -> None:
        assert self._sock is not None
        try:
            del self._output[: self._sock.send(self._output)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._output.clear()
        if not self._output:
            self._owner.loop.watch(self._sock, self._handle, read=True)
            if self.closing and self.kind == "raw":
                self._half_close()

    def _half_close(self) -> None:
        assert self._sock is not None
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            # Already closed; reading shows how.
            pass

    def _end(self, how: str) -> None:
        self.abort()
        self._owner.handle_end(self, how)


class VerifiedClient(Client):
    """A client that sends records and checks what comes back."""

    checker: Checker

    def __init__(self, owner: Load, address: Address, kind: str, number: int, size: int) -> None:
        super().__init__(owner, address, kind)
        self.number = number
        self.pause = Pause()
        self._load = owner
        self._opcode = TEXT if number % 2 else BINARY
        self._size = size
        self._records = stream.Records(size)

    def begin(self, checker: Checker) -> None:
        """Begin with a fresh checker after a connect."""
        self.checker = checker
        self._records = stream.Records(self._size)

    def send_next(self, due: float) -> None:
        """Send the next record, which was due then."""
        record = self.checker.send()
        self.pause.due(due)
        if self.kind == "raw":
            self.write(record)
        else:
            self.send_frame(self._opcode, record)

    def handle_record(self, opcode: int, data: bytes) -> None:
        now = time.monotonic()
        if opcode:
            self._check(opcode, data, now)
        else:
            for record in self._records.receive(data):
                self._check(0, record, now)
        self.pause.arrived(now, self.checker.waiting)

    def _check(self, opcode: int, record: bytes, now: float) -> None:
        if opcode and opcode != self._opcode:
            record = b""
        number = self.checker.receive(record)
        if number is not None:
            self._load.handle_answer(self, number, now)


class Load(Owner, Protocol):
    """What a verified client reports to."""

    def handle_answer(self, client: VerifiedClient, number: int, now: float) -> None:
        """The record of that round has come back."""


class HangClient(Client):
    """A client whose messages hang the worker that handles them."""

    def __init__(self, owner: Owner, address: Address, every: float) -> None:
        super().__init__(owner, address, "websocket")
        self.busy = False
        """A message hangs."""
        self._every = every
        self._due = math.inf

    def start(self, now: float) -> None:
        self._due = now + self._every

    def hang(self, now: float) -> bool:
        """Send a message if one is due and the last one is over; returns whether it was sent."""
        if now < self._due:
            return False
        self._due += self._every
        if not self.is_open or self.busy:
            return False
        self.busy = True
        self.send_frame(TEXT, HANG.encode())
        return True
