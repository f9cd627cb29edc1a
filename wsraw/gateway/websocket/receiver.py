"""Sans-I/O. What is received: the library's parser for what whole_frames.py leaves to it, and
frames that become data frames, checked in order.

websockets' core parses and answers control frames. What it leaves to its user is done here: joining
a frame to its message, UTF-8 over the whole message, the size of a message, and three of its own
ways that are not ours: it answers a close frame inside a fragmented message with 1002 (RFC 6455
allows it, section 5.4), it counts a ping against the size of the message around it, and it answers
every ping of a flood. (A pong that comes alone is not seen here: whole_frames.py.)

The number of fragments in a message has no limit: each is counted in bytes, here if messages are
joined, and in the connection's account if they are not.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Final

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    PayloadTooBig,
    ProtocolError,
    StatusLineTooLong,
)
from websockets.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    TEXT,
    CloseCode,
    Frame,
)
from websockets.http11 import Response
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from wsraw.config.settings import Settings
from wsraw.gateway.websocket import deflate
from wsraw.gateway.websocket.compression import DeflateExtension
from wsraw.gateway.websocket.request import MOST_BODY
from wsraw.gateway.websocket.whole_frames import MAX_CONTROL

MOST_PARSED: Final = 32
"""Frames that the library parses at a time; each takes it 6 to 10 µs. What stands behind them is
for the next time, whatever kind they are: pings and empty fragments are no events, but work."""

DataFrame = tuple[bytes, str, bool]
"""Data, type (`text` or `binary`, that of its message) and whether it is the message's last."""


class Receiver(Protocol):
    """Mixed into websockets' two protocols: data frames become `frames`, checked in order."""

    # In the instance's dict they would be too many for Python to share its keys: 1.2 KiB each.
    __slots__ = (
        "_deflate",
        "_limit",
        "_packed",
        "_size",
        "_tail",
        "_type",
        "_whole",
        "between_frames",
        "ended",
        "failure",
        "frame_limit",
        "frames",
        "held_pong",
        "hold_pongs",
        "later",
        "left",
        "skips_data",
        "too_big",
    )

    def begin(self, settings: Settings) -> None:
        """The library's constructor is its own; this is ours."""
        self.frames: list[DataFrame] = []
        self.ended = False
        self.failure: tuple[int, str] | None = None
        self.too_big = ""
        """The setting whose bound was passed."""
        self.hold_pongs = False
        self.held_pong: bytes | None = None
        self.between_frames = False
        """All that was received has become frames, and no message is under way."""
        self.later = b""
        """What has come behind a compressed frame that is not inflated yet, or behind as many
        frames as are parsed at a time."""
        self.left = MOST_PARSED
        """Frames that may still be parsed this time."""
        self.skips_data = False
        """Of all frames only control frames are of interest."""
        self._packed: Frame | None = None
        self._deflate: DeflateExtension | None = None
        self._limit = settings.max_message_size
        self.frame_limit = settings.frame_limit
        self._whole: bytearray | None = bytearray() if settings.messages == "whole" else None
        self._type = ""
        self._size = 0
        self._tail = b""
        # Each frame by itself; the message is counted by us. Left to it, the library would count
        # control frames, too.
        self.max_message_size = None
        self.max_fragment_size = max(self.frame_limit, MAX_CONTROL)

    def inflates(self, extension: DeflateExtension) -> None:
        """Frames may be compressed: what does not shrink grows a little (zlib's deflateBound)."""
        self._deflate = extension
        limit = self.frame_limit
        self.max_fragment_size = max(limit + (limit >> 3) + 64, MAX_CONTROL)

    def recv_frame(self, frame: Frame) -> None:
        """One parsed frame. The exceptions are for the caller, `parse`: it fails the connection."""
        self.left -= 1
        if self._deflate is not None and self._deflate.begun:
            self._deflate.begun = False
            if self.skips_data:
                self._deflate.codec.skip()
                self._type = "" if frame.fin else self._type or "binary"
            else:
                self._packed = frame
                self._keep_rest()
                return
        else:
            self._take(frame)
        if self.left <= 0 and not self.ended:
            self._keep_rest()
        self.between_frames = not (self.reader.buffer or self._type or self.ended or self.later)

    def _keep_rest(self) -> None:
        """`go_on` gives it to the library; until then this is all that has come, to its parser."""
        self.later = bytes(self.reader.buffer)
        self.reader.buffer.clear()

    def _take(self, frame: Frame) -> None:
        """A frame that is complete, and inflated."""
        opcode = frame.opcode
        if opcode is TEXT or opcode is BINARY:
            if self._type:
                raise ProtocolError("expected a continuation frame")
            data = bytes(frame.data)
            if len(data) > self.frame_limit:
                raise PayloadTooBig(len(data), self.frame_limit)
            if not frame.fin:
                self._type = "text" if opcode is TEXT else "binary"
                self._receive_fragment(data, False)
            elif opcode is TEXT:
                if not data.isascii():
                    data.decode()
                self.frames.append((data, "text", True))
            else:
                self.frames.append((data, "binary", True))
        elif opcode is CONT:
            if not self._type:
                raise ProtocolError("unexpected continuation frame")
            self._receive_fragment(bytes(frame.data), frame.fin)
        elif opcode is PING and self.hold_pongs:
            # Of several pings only the latest must be answered (RFC 6455, section 5.5.3).
            self.held_pong = bytes(frame.data)
        else:
            super().recv_frame(frame)
            self.events.pop()
            if opcode is CLOSE:
                self.ended = True

    @property
    def busy(self) -> bool:
        """There is more to inflate, or to parse: `go_on`."""
        return self._packed is not None or bool(self.later)

    def go_on(self) -> None:
        """Inflate one step, and parse what stands behind the frames that are complete then."""
        room = deflate.STEP
        while True:
            if self._packed is not None:
                if room <= 0 or self._deflate is None:
                    return
                size = self._inflate(self._deflate, self._packed, room)
                room -= size
                if self._packed is not None or self.ended:
                    return
            if not self.later or self.left <= 0:
                return
            later, self.later = self.later, b""
            self.between_frames = False
            self.receive_data(later)

    def _inflate(self, extension: DeflateExtension, frame: Frame, most: int) -> int:
        """Some of the frame that was begun; how many bytes it gave."""
        try:
            size, data = extension.inflate(most)
            if data is None:
                return size
            self._packed = None
            frame.data = data
            self._take(frame)
        except (ProtocolError, PayloadTooBig, UnicodeDecodeError) as error:
            # As the library's `parse` does with what its frames raise.
            self._packed = None
            self.later = b""
            code, reason = _failure_of(error)
            self.fail(code, reason)
            return 0
        self.between_frames = not (self._type or self.ended or self.later)
        return size

    def skip_data(self) -> None:
        """From here on data frames are read over, also the one that is being inflated."""
        self.skips_data = True
        frame, self._packed = self._packed, None
        if frame is not None and self._deflate is not None:
            self._deflate.codec.skip()
            self._type = "" if frame.fin else self._type or "binary"

    def _receive_fragment(self, data: bytes, final: bool) -> None:
        if len(data) > self.frame_limit:
            raise PayloadTooBig(len(data), self.frame_limit)
        self._size += len(data)
        if self._size > self._limit:
            raise PayloadTooBig(self._size, self._limit)
        kind = self._type
        if kind == "text":
            # A code point cut by the border of a frame waits for its other half.
            data = self._tail + data
            used = utf_8_decode(data, "strict", final)[1]
            data, self._tail = data[:used], data[used:]
        if final:
            self._type = ""
            self._size = 0
        if self._whole is None:
            self.frames.append((data, kind, final))
            return
        self._whole += data
        if final:
            self.frames.append((bytes(self._whole), kind, True))
            self._whole.clear()

    def fail(self, code: int, reason: str = "") -> None:
        """The peer has done something wrong. Called by us and by the library's parser."""
        if code == 1009:
            # The library speaks of what it was told last, and knows of frames only.
            one = self.frame_limit < self._limit and self._size <= self._limit
            limit = self.frame_limit if one else self._limit
            self.too_big = "max_frame_size" if one else "max_message_size"
            reason = f"{'frame' if one else 'message'} of more than {limit} bytes"
        self.ended = True
        self.failure = int(code), reason
        super().fail(code, reason)


def _failure_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, PayloadTooBig):
        return CloseCode.MESSAGE_TOO_BIG, str(error)
    if isinstance(error, UnicodeDecodeError):
        return CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}"
    return CloseCode.PROTOCOL_ERROR, str(error)


_MAY_BE_EMPTY: Final = frozenset(("sec-websocket-protocol", "sec-websocket-extensions"))
MOST_INTERIM: Final = 16
"""Answers that are read in front of the one that counts: 103, for example."""

MOST_CHUNKS: Final = 1000
"""Chunks of a refusal's body that are read; each takes some µs."""

LONGEST_CHUNK_LINE: Final = 256
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(?=[;\s])")
_BARE_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] [0-9]{3}\r\n")


def _without_empty(message: Any) -> Any:
    """A request or a response in which fields that list nothing are left out: others send them,
    and the library takes them for wrong ones."""
    fields = message.headers.raw_items()
    kept = [(n, v) for n, v in fields if v.strip(" \t,") or n.lower() not in _MAY_BE_EMPTY]
    return replace(message, headers=Headers(kept))


class ServerReceiver(Receiver, ServerProtocol):
    """Of a client's frames, and its handshake."""

    def process_request(self, request: Any) -> Any:
        """What the request asks for."""
        return super().process_request(_without_empty(request))

    def select_subprotocol(self, subprotocols: Sequence[Any]) -> Any:
        """None for now: which are ours is known when the request is read (`WebSocket.choose`)."""
        return None

    def begin_frames(self) -> None:
        """The handshake is done, and nothing behind it was read: the library's parser, a generator,
        would hold the request for as long as the connection stands, 2 KiB."""
        self.state = State.OPEN
        self.parser.close()
        self.parser = Protocol.parse(self)
        next(self.parser)


class _AnswerReader(StreamReader):
    """Reads a server's answer as RFC 9112 lets us: a lone LF ends a line (section 2.2), and nobody
    needs the space in front of a reason that is not there (section 4)."""

    is_old = False
    """The last status line was one of HTTP/1.0."""

    def read_line(self, *args: Any) -> Generator[None, None, bytearray]:
        """A line, with CRLF at its end."""
        line = yield from super().read_line(*args)
        if line.startswith(b"HTTP/1."):
            self.is_old = line.startswith(b"HTTP/1.0 ")
        if not line.endswith(b"\r\n"):
            line[-1:] = b"\r\n"
        if _BARE_STATUS.fullmatch(line):
            line[-2:] = b" \r\n"
        return line


class ClientReceiver(Receiver, ClientProtocol):
    """Of a server's frames, and its handshake."""

    def begin(self, settings: Settings) -> None:
        """As that of both roles; and read the answer in our way."""
        super().begin(settings)
        self.parser.close()
        self.reader = _AnswerReader()
        self.parser = self.parse()
        next(self.parser)

    def parse(self) -> Generator[None]:
        """As the library does it, but for what `_read_answer` does."""
        if self.state is State.CONNECTING:
            try:
                response = yield from _read_answer(self.reader)
            except Exception as error:
                why: Exception = error
                if not isinstance(error, StatusLineTooLong):
                    why = InvalidMessage("did not receive a valid HTTP response")
                    why.__cause__ = error
                yield from self._give_up(why)
                return
            try:
                self.process_response(response)
            except InvalidHandshake as error:
                self.events.append(response)
                yield from self._give_up(error)
                return
            self.state = State.OPEN
            self.events.append(response)
        yield from Protocol.parse(self)

    def _give_up(self, why: Exception) -> Generator[None]:
        self.handshake_exc = why
        self.send_eof()
        self.parser = self.discard()
        next(self.parser)
        yield

    def process_response(self, response: Any) -> None:
        """A good answer. Frames may stand right behind it, and are parsed at once."""
        super().process_response(_without_empty(response))
        for extension in self.extensions:
            assert isinstance(extension, DeflateExtension)
            self.inflates(extension)


def _read_answer(reader: StreamReader) -> Generator[None, None, Response]:
    """The answer that counts, behind interim ones (RFC 9110, section 15.2). Of the body as much as
    handlers get: the library wants all of it, a server need not ever finish it, and its chunks cost
    the square of their number."""
    lines = reader.read_line, reader.read_exact, reader.read_to_eof
    for _ in range(MOST_INTERIM):
        # Of a proxy it leaves the body alone.
        response = yield from Response.parse(*lines, proxy=True)
        if response.status_code == 101 and isinstance(reader, _AnswerReader) and reader.is_old:
            raise ValueError("unsupported protocol; expected HTTP/1.1: HTTP/1.0")
        if response.status_code == 101 or response.status_code >= 200:
            break
    headers = response.headers
    length = headers.get("Content-Length", "")
    if response.status_code < 200 or response.status_code in (204, 304):
        return response
    if "Transfer-Encoding" in headers:
        response.body = yield from _read_chunks(reader)
    else:
        most = int(length) if length.isascii() and length.isdigit() else MOST_BODY
        response.body = yield from _read_some(reader, min(most, MOST_BODY))
    return response


def _read_some(reader: StreamReader, size: int) -> Generator[None, None, bytes]:
    """So many bytes, or those that come before the end."""
    while len(reader.buffer) < size and not reader.eof:
        yield
    data = bytes(reader.buffer[:size])
    del reader.buffer[:size]
    return data


def _read_chunks(reader: StreamReader) -> Generator[None, None, bytes]:
    """A body in chunks (RFC 9112, section 7.1), as far as they are right."""
    body = bytearray()
    for _ in range(MOST_CHUNKS):
        try:
            line = yield from reader.read_line(LONGEST_CHUNK_LINE)
        except (EOFError, RuntimeError):
            break
        size = _CHUNK_SIZE.match(line)
        if size is None:
            break
        left = min(int(size[0], 16), MOST_BODY - len(body))
        body += yield from _read_some(reader, left)
        if not left or (yield from _read_some(reader, 2)) != b"\r\n":
            break
    return bytes(body)
