"""I/O. The drill's clients: one that is verified, a witness of all ends, and one that hangs
workers."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Final, Protocol

from wsraw.runtime.loop import Loop
from wsraw.tools.drill.figures import Pause
from wsraw.tools.drill.load import stream
from wsraw.tools.drill.load.record import Checker
from wsraw.tools.drill.load.stream import BINARY, CLOSE, PING, PONG, TEXT
from wsraw.tools.drill.target.echo import HANG, WATCH
from wsraw.tools.drill.target.ends import Told

RECEIVE: Final = 1 << 16

Address = tuple[str, int]


class Owner(Protocol):
    """Who is told what becomes of a client."""

    loop: Loop

    def handle_stands(self, client: Any) -> None:
        """It can carry data."""

    def handle_end(self, client: Any, how: str) -> None:
        """It is over; `how` in words."""


class Client:
    """One connection to the server, raw or WebSocket. It can be opened again after its end."""

    def __init__(self, owner: Owner, address: Address, kind: str) -> None:
        self.kind = kind
        self.stands = False
        self.stood = False
        """Whether it has been able to carry data."""
        self.closing = False
        """We have asked the server to end it."""
        self.name = ""
        """Our address, as the server should see it."""
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
        """Connect; `handle_stands` or `handle_end` follows, not before the next turn."""
        self.stands = self.stood = self.closing = self._connected = False
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
        """Ask the server to end it."""
        if self._sock is None or self.closing:
            return
        self.closing = True
        if self.kind == "websocket":
            self.send_frame(CLOSE, (1000).to_bytes(2, "big"))
        elif not self._output:
            self._half_close()

    @property
    def closed_in_order(self) -> bool:
        """Whether it ended as we asked it to."""
        wanted = "1000" if self.kind == "websocket" else "eof"
        return self.closing and self._ended == wanted

    def abort(self) -> None:
        """Free the socket; nobody is told."""
        if self._sock is not None:
            self._owner.loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None
        self.stands = False

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """One WebSocket frame."""
        self.write(stream.frame(opcode, payload, self._key[:4]))

    def write(self, data: bytes) -> None:
        """Send, or keep what the socket does not take yet."""
        if self._output or self._sock is None:
            self._output += data
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # Reading tells how it ended, and that may be more: a close frame that came before.
            return
        if sent < len(data):
            self._output += data[sent:]
            self._owner.loop.watch(self._sock, self._handle, read=True, write=True)

    # --- what a kind of client does with it ---

    def handle_record(self, opcode: int, data: bytes) -> None:
        """A data frame; opcode 0: raw data as it has come."""

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
            self._stand()

    def _stand(self) -> None:
        self.stands = self.stood = True
        self._owner.handle_stands(self)

    def _receive(self, data: bytes) -> None:
        if self.kind == "raw":
            self.handle_record(0, data)
            return
        if not self.stands:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            stream.check_response(head, self._key)
            self._stand()
        for opcode, payload in self._frames.receive(data):
            if opcode < CLOSE:
                self.handle_record(opcode, payload)
            elif opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                self._ended = stream.close_in_words(payload)
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
            # Gone already; reading says how.
            pass

    def _end(self, how: str) -> None:
        self.abort()
        self._owner.handle_end(self, how)


class Verified(Client):
    """One that sends records and checks what comes back."""

    checker: Checker

    def __init__(self, owner: Board, address: Address, kind: str, number: int, size: int) -> None:
        super().__init__(owner, address, kind)
        self.number = number
        self.pause = Pause()
        self._board = owner
        self._opcode = TEXT if number % 2 else BINARY
        self._size = size
        self._records = stream.Records(size)

    def begin(self, checker: Checker) -> None:
        """A new life, with a checker of its own."""
        self.checker = checker
        self._records = stream.Records(self._size)

    def send_next(self, due: float) -> None:
        """The next record, which was due then."""
        record = self.checker.send()
        self.pause.due(due)
        if self.kind == "raw":
            self.write(record)
        else:
            self.send_frame(self._opcode, record)

    def handle_record(self, opcode: int, data: bytes) -> None:
        """Check what has come, and for how long it was waited for."""
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
            self._board.handle_answer(self, number, now)


class Board(Owner, Protocol):
    """Who keeps the score."""

    def handle_answer(self, client: Verified, number: int, now: float) -> None:
        """The record of that round has come back."""


class Witness(Client):
    """It is told of the end of every connection, by the handlers of echo.py."""

    def __init__(self, owner: Owner, address: Address) -> None:
        super().__init__(owner, address, "websocket")
        self.watching = ""
        """What the server calls us; empty until it has answered."""
        self.answered = False
        self.told: list[Told] = []

    def watch(self) -> None:
        """Ask to be told."""
        self.send_frame(TEXT, WATCH.encode())

    def handle_record(self, opcode: int, data: bytes) -> None:
        """The answer to `watch`, then an end each."""
        text = data.decode("utf-8", "backslashreplace")
        if text.startswith(WATCH):
            self.answered = True
            self.watching = text.removeprefix(WATCH).strip()
        else:
            parts = (text.split(maxsplit=3) + [""] * 4)[:4]
            self.told.append(Told(*parts))


class Hanger(Client):
    """It hangs the worker that gets its message."""

    def __init__(self, owner: Owner, address: Address) -> None:
        super().__init__(owner, address, "websocket")
        self.sent = 0
        self.busy = False

    def hang(self) -> None:
        """One more message that is never answered, if the last one is over."""
        if self.stands and not self.busy:
            self.busy = True
            self.sent += 1
            self.send_frame(TEXT, HANG.encode())
