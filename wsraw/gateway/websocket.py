"""Sans-I/O. WebSocket bytes ↔ frames, server or client side; the only importer of websockets.

websockets' core parses and answers control frames. What it leaves to its user is done here: joining
a frame to its message, UTF-8 over the whole message, the size of a message, and three of its own
ways that are not ours: it answers a close frame inside a fragmented message with 1002 (RFC 6455
allows it, section 5.4), it counts a ping against the size of the message around it, and it answers
every ping of a flood.

Nothing that a peer sends raises: it ends in `ended`, `failure` and what stands in `output`.
"""

from __future__ import annotations

import logging
import re
from codecs import utf_8_decode
from collections.abc import Mapping, Sequence
from typing import Any, Final

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import BINARY, CLOSE, CONT, EXTERNAL_CLOSE_CODES, PING, TEXT, Frame, Opcode
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from wsraw.gateway.http import TOKEN, VALUE, http_answer
from wsraw.gateway.output import Framed
from wsraw.messages import Open
from wsraw.settings import Settings

MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload at most (RFC 6455, section 5.5)."""

MAX_REASON: Final = MAX_CONTROL - 2

COMPRESS_FROM: Final = 1024
"""Messages shorter than this go out as they are: without context they hardly shrink (npm's ws
draws the line here too)."""

_NONE: Final[Mapping[str, str]] = {}

PLAIN_KEY: Final = 0
RAW_KEY: Final = -1
"""The framing key of raw connections; other keys are window sizes of deflate, 9 to 15 bits."""

# The library's info lines, one at each open and close, are ours to write.
_log = logging.getLogger("wsraw.gateway.websocket")
_log.setLevel(logging.WARNING)

# No context takeover in either direction: a context costs up to 300 KiB for each connection, from
# the handshake on (RFC 7692, section 7.1.1). The small window and memLevel keep the compressor,
# made anew for each message, at 32 KiB.
_COMPRESS: Final[dict[str, Any]] = {"memLevel": 5}
_SERVER_EXTENSIONS: Final = (
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        compress_settings=_COMPRESS,
    ),
)
_CLIENT_EXTENSIONS: Final = (
    ClientPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        client_max_window_bits=True,
        compress_settings=_COMPRESS,
    ),
)

DataFrame = tuple[bytes, str, bool]
"""Data, type (`text` or `binary`, that of its message) and whether it is the message's last."""


class RefusedError(ValueError):
    """What we are asked to send cannot be sent; our side's mistake, and nothing was queued."""


# --- receiving ---


class _Receiver(Protocol):
    """Mixed into websockets' two protocols: data frames become `frames`, checked in order."""

    def begin(self, limit: int, whole: bool) -> None:
        self.frames: list[DataFrame] = []
        self.ended = False
        self.failure: tuple[int, str] | None = None
        self.hold_pongs = False
        self.held_pong: bytes | None = None
        self._limit = limit
        self._whole: bytearray | None = bytearray() if whole else None
        self._type = ""
        self._size = 0
        self._tail = b""

    def recv_frame(self, frame: Frame) -> None:
        """One parsed frame. The exceptions are for the caller, `parse`: it fails the connection."""
        opcode = frame.opcode
        if opcode is TEXT or opcode is BINARY:
            if self._type:
                raise ProtocolError("expected a continuation frame")
            data = bytes(frame.data)
            if len(data) > self._limit:
                raise PayloadTooBig(len(data), self._limit)
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

    def _receive_fragment(self, data: bytes, final: bool) -> None:
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
        if code == 1009:
            # The library knows of frames only.
            reason = f"message of more than {self._limit} bytes"
        self.ended = True
        self.failure = int(code), reason
        super().fail(code, reason)


class _Server(_Receiver, ServerProtocol):
    def select_subprotocol(self, subprotocols: Sequence[Any]) -> Any:
        """The first of ours that the client offers; none is no reason to refuse it."""
        ours = self.available_subprotocols or ()
        return next((name for name in ours if name in subprotocols), None)


class _Client(_Receiver, ClientProtocol):
    pass


class WebSocket:
    """One connection's WebSocket, from its handshake to its close frame."""

    __slots__ = (
        "_compressing",
        "_framing_key",
        "_masks",
        "_protocol",
        "_request",
        "_response",
        "_tail",
        "_unfinished",
        "close_code",
        "close_reason",
        "deflates",
        "ended",
        "error",
        "inf",
        "offered",
        "opened",
        "output",
        "subprotocol",
    )

    def __init__(self, protocol: _Server | _Client, settings: Settings, masks: bool) -> None:
        protocol.begin(settings.max_message_size, settings.messages == "whole")
        self._protocol = protocol
        self._masks = masks
        self._framing_key: int | None = None
        self._request = b""
        self._response: Any = None
        self._unfinished = ""
        self._tail = b""
        self._compressing = False
        self.output = protocol.writes
        """What is to be written, in order; whoever takes it clears it. May hold empty chunks."""
        self.opened = False
        self.ended = False
        """Nothing more will be received: the peer has closed, or failed."""
        self.deflates = False
        self.error = ""
        """What was wrong with the peer's bytes; empty for a proper close."""
        self.close_code = 1006
        self.close_reason = ""
        self.inf: dict[str, str] = {}
        self.subprotocol: str | None = None
        self.offered: list[str] = []
        """The subprotocols that a client speaks."""

    # --- server handshake ---

    @classmethod
    def server(cls, settings: Settings, subprotocols: Sequence[str] = ()) -> WebSocket:
        """The accepting side; `accept` comes next, or `receive_head`."""
        protocol = _Server(
            extensions=_SERVER_EXTENSIONS if settings.deflate else None,
            subprotocols=subprotocols,  # type: ignore[arg-type]
            max_size=_frame_limit(settings),
            logger=_log,
        )
        return cls(protocol, settings, masks=False)

    def accept(self, head: bytes) -> None:
        """Answer a complete request head: with the 101 (`opened`), or with an error (`error`)."""
        if self.receive_head(head):
            self.let_in()

    def receive_head(self, head: bytes) -> bool:
        """Read a complete request head. True: `let_in` may come next; else it was answered with an
        `error`.

        Frames glued behind the head are for `receive_data`: until the answer is made nobody knows
        how they are to be read.
        """
        protocol = self._protocol
        assert isinstance(protocol, _Server)
        # The library asks for CRLF where RFC 9112, section 2.2, lets us take a lone LF.
        protocol.receive_data(re.sub(rb"\r?\n", b"\r\n", head))
        if protocol.handshake_exc is not None:
            self.error = _explain(protocol.handshake_exc)
            if not any(self.output):
                self.output[:] = [http_answer(400, self.error)]
            return False
        request: Any = protocol.events.pop()
        headers = request.headers
        self.inf = _inf({"method": request.method, "url": request.path}, headers)
        self.inf["Protocol"] = "websocket server"
        if len(headers.get_all("Host")) != 1:
            # RFC 6455, section 4.2.1, and RFC 9112, section 3.2.
            self._refuse(400, "exactly one Host header is needed")
            return False
        versions = headers.get_all("Sec-WebSocket-Version")
        if versions and versions != ["13"]:
            # RFC 6455, section 4.4: say which version we speak.
            self._refuse(426, "only version 13 is spoken", ("Sec-WebSocket-Version", "13"))
            return False
        # The list may name other protocols beside ours; the library wants ours alone.
        del headers["Upgrade"]
        headers["Upgrade"] = "websocket"
        response = protocol.accept(request)
        if response.status_code != 101:
            protocol.send_response(response)
            self.error = _explain(protocol.handshake_exc)
            return False
        self.offered = [
            name.strip()
            for value in headers.get_all("Sec-WebSocket-Protocol")
            for name in value.split(",")
        ]
        self._response = response
        return True

    def let_in(self, subprotocol: str | None = None, headers: Mapping[str, str] = _NONE) -> None:
        """Answer with the 101 (`opened`). `subprotocol`: one of those `offered`, "" for none; None
        for the first of ours."""
        protocol, response = self._protocol, self._response
        assert isinstance(protocol, _Server)
        if subprotocol is not None:
            response.headers.pop("Sec-WebSocket-Protocol", None)
            protocol.subprotocol = None
            if subprotocol:
                response.headers["Sec-WebSocket-Protocol"] = subprotocol
                protocol.subprotocol = subprotocol  # type: ignore[assignment]
        for name, value in headers.items():
            response.headers[name] = value
        protocol.send_response(response)
        self._response = None
        self._open()

    def _refuse(self, status: int, why: str, *headers: tuple[str, str]) -> None:
        self.error = why
        self.output.append(http_answer(status, why, *headers))

    # --- client handshake ---

    @classmethod
    def client(cls, settings: Settings, open_: Open) -> WebSocket:
        """The opening side; `connect` comes next. Raises ValueError for options that cannot be."""
        subprotocols = open_.options.get("subprotocols") or None
        if subprotocols is not None and not _are_tokens(subprotocols):
            raise ValueError("the option subprotocols must be a list of names")
        place, path = _split_target(open_.target)
        # The library builds its request from this; host and path are then said in our own words.
        uri = WebSocketURI(secure=False, host="localhost", port=80, path="/", query="")
        protocol = _Client(
            uri,
            extensions=_CLIENT_EXTENSIONS if settings.deflate else None,
            subprotocols=subprotocols,
            max_size=_frame_limit(settings),
            logger=_log,
        )
        self = cls(protocol, settings, masks=True)
        request = protocol.connect()
        request.path = open_.url if open_.url not in ("", "/") else path
        if not _TARGET.fullmatch(request.path):
            raise ValueError(f"{request.path!r} is no url; it begins with / and is plain ASCII")
        _replace(request.headers, "Host", open_.host or place)
        if open_.orig:
            _replace(request.headers, "Origin", open_.orig)
        extra = open_.options.get("headers") or {}
        if not isinstance(extra, dict):
            raise ValueError("the option headers must map names to values")
        for name, value in extra.items():
            _replace(request.headers, name, value)
        self._request = request.serialize()
        return self

    def connect(self) -> None:
        """The TCP connection stands: queue the request."""
        self.output.append(self._request)
        self._request = b""

    def _look_at_response(self) -> None:
        protocol = self._protocol
        if protocol.handshake_exc is not None:
            self.error = _explain(protocol.handshake_exc)
            self.ended = True
        elif protocol.events:
            response: Any = protocol.events.pop()
            self.inf = _inf({}, response.headers)
            self.inf["Protocol"] = "websocket client"
            self._open()

    def _open(self) -> None:
        protocol = self._protocol
        self.opened = True
        self.subprotocol = protocol.subprotocol
        self.deflates = bool(protocol.extensions)
        if not self._masks:
            self._framing_key = PLAIN_KEY
            for extension in protocol.extensions:
                assert isinstance(extension, PerMessageDeflate)
                self._framing_key = extension.local_max_window_bits

    # --- receiving ---

    def receive_data(self, data: bytes) -> list[DataFrame]:
        """Data frames, in order. What else came of it: see `output`, `ended`, and `opened`."""
        if self.ended:
            return []
        protocol = self._protocol
        protocol.receive_data(data)
        if not self.opened:
            self._look_at_response()
        if protocol.ended:
            self._end()
        frames = protocol.frames
        if frames:
            protocol.frames = []
        return frames

    def receive_eof(self) -> None:
        """The peer will send no more. Sets `ended`; without a close frame the code is 1006."""
        if not self.opened and not self.ended:
            # The answer of a server that refuses us may end only here.
            self._protocol.receive_eof()
            self._look_at_response()
            self.error = self.error or "the connection was closed during the handshake"
        self.ended = True

    def _end(self) -> None:
        protocol = self._protocol
        self.ended = True
        if protocol.failure is not None:
            self.close_code, self.close_reason = protocol.failure
            self.error = self.close_reason or "an error of our own"
        elif protocol.close_rcvd is not None:
            self.close_code = int(protocol.close_rcvd.code)
            self.close_reason = protocol.close_rcvd.reason

    @property
    def unfinished(self) -> int:
        """Bytes of a frame, or of a message to be joined, that are not complete yet."""
        protocol = self._protocol
        return len(protocol.reader.buffer) + len(protocol._whole or b"")

    def release(self) -> None:
        """Nothing more will be received. Frees at once what was, with the half of a message in it.

        The library's protocol, its parser and its exceptions hold each other. The collector counts
        objects, not bytes: until it comes, a few hundred clients that leave in the middle of a
        message can hold hundreds of megabytes.
        """
        protocol = self._protocol
        self.ended = True
        protocol.parser.close()
        protocol.reader.discard()
        protocol.parser_exc = protocol.handshake_exc = None

    @property
    def hold_pongs(self) -> bool:
        """While True only the latest ping is remembered; set to False, it is answered."""
        return self._protocol.hold_pongs

    @hold_pongs.setter
    def hold_pongs(self, hold: bool) -> None:
        protocol = self._protocol
        protocol.hold_pongs = hold
        if not hold and protocol.held_pong is not None:
            protocol.send_pong(protocol.held_pong)
            protocol.held_pong = None

    # --- sending ---

    def check(self, data: bytes, type_: str, final: bool) -> int:
        """The opcode of the next data frame.

        Raises RefusedError. If that comes in the middle of a message, the message cannot be
        finished any more and everything after it is refused: the connection must be closed.
        """
        unfinished = self._unfinished
        if unfinished:
            opcode = 0
            if type_ != unfinished:
                self._unfinished = _BROKEN
                raise RefusedError(f"the {unfinished} message before it is not finished")
        elif type_ == "text":
            opcode = 1
        elif type_ == "binary":
            opcode = 2
        else:
            raise RefusedError(f"type {type_!r} is neither text nor binary")
        if type_ == "text" and not (data.isascii() and not self._tail):
            data = self._tail + data
            try:
                used = utf_8_decode(data, "strict", final)[1]
            except UnicodeDecodeError as error:
                if unfinished:
                    self._unfinished = _BROKEN
                raise RefusedError(
                    f"text that is not UTF-8: {error.reason} at byte {error.start}"
                ) from error
            self._tail = data[used:]
        self._unfinished = "" if final else type_
        return opcode

    def frame(self, opcode: int, data: bytes, final: bool) -> bytes:
        """The bytes of a data frame that `check` has let pass; to be called in the same order."""
        if self.deflates:
            if opcode:
                self._compressing = not final or len(data) >= COMPRESS_FROM
            if self._compressing:
                extensions = self._protocol.extensions
                return Frame(Opcode(opcode), data, final).serialize(
                    mask=self._masks, extensions=extensions
                )
        if self._masks:
            return Frame(Opcode(opcode), data, final).serialize(mask=True)
        return _plain_frame(opcode | 0x80 if final else opcode, data)

    def send(self, data: bytes, type_: str, final: bool) -> str | None:
        """Queue one data frame, or say why it is refused."""
        try:
            opcode = self.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        self.output.append(self.frame(opcode, data, final))
        return None

    @property
    def framing_key(self) -> int | None:
        """Connections with the same key take the same `frame_message`; None: frame it alone."""
        return None if self._unfinished else self._framing_key

    def ping(self) -> None:
        """Ask the peer whether it is there."""
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str) -> None:
        """Queue our close frame, its reason cut at 123 bytes.

        Raises ValueError for a code that `close_refusal` refuses.
        """
        why = close_refusal(code)
        if why is not None:
            raise ValueError(why)
        # Cut between code points.
        text = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        self._protocol.send_close(code, text)


_BROKEN: Final = "refused"


def close_refusal(code: int) -> str | None:
    """Why a close frame may not carry this code (RFC 6455, section 7.4), or None: it may."""
    if code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000:
        return None
    return f"{code} is no close code to send; use 1000, 1001, 1008, 1011 or 3000 to 4999"


def frame_message(key: int, data: bytes, type_: str) -> Framed:
    """A whole message as bytes for all connections whose `framing_key` is `key`."""
    if key == RAW_KEY:
        return Framed(data)
    opcode = TEXT if type_ == "text" else BINARY
    if key == PLAIN_KEY or len(data) < COMPRESS_FROM:
        return Framed(_plain_frame(0x80 | opcode, data))
    deflate = PerMessageDeflate(True, True, 15, key, _COMPRESS)
    return Framed(Frame(opcode, data).serialize(mask=False, extensions=(deflate,)))


def _plain_frame(head: int, data: bytes) -> bytes:
    # What Frame.serialize does without mask and extensions, at a third of its cost.
    size = len(data)
    if size < 126:
        return bytes((head, size)) + data
    if size < 65536:
        return bytes((head, 126)) + size.to_bytes(2) + data
    return bytes((head, 127)) + size.to_bytes(8) + data


def _frame_limit(settings: Settings) -> tuple[None, int]:
    """Each frame by itself; the message is counted by us.

    Left to it, the library would count control frames too, and would inflate without any limit when
    the message has grown to exactly its size.
    """
    return None, max(settings.max_message_size, MAX_CONTROL)


# --- HTTP ---


_TARGET: Final = re.compile(r"/[\x21-\x7e]*")
_OURS: Final = {"upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
_OURS_TOO: Final = {"sec-websocket-extensions", "sec-websocket-protocol"}


def _are_tokens(names: object) -> bool:
    return isinstance(names, list | tuple) and all(
        isinstance(name, str) and TOKEN.fullmatch(name) for name in names
    )


def _replace(headers: Headers, name: object, value: object) -> None:
    # A line break in a value would begin a header, or a request, of somebody else's choice.
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if not isinstance(value, str) or not VALUE.fullmatch(value):
        raise ValueError(f"{value!r} is no value for the header {name}")
    if name.lower() in _OURS | _OURS_TOO:
        raise ValueError(f"the header {name} belongs to the handshake")
    if name in headers:
        del headers[name]
    headers[name] = value


def _split_target(target: str) -> tuple[str, str]:
    """Host and path of what is dialled; a unix socket has no host."""
    scheme, separator, rest = target.partition("://")
    if target.startswith("unix:") or scheme == "unix":
        return "localhost", "/"
    host, slash, path = (rest if separator else target).partition("/")
    host, mark, query = host.partition("?")
    return host, f"/{path}" if slash else f"/{mark}{query}"


def _inf(inf: dict[str, str], headers: Headers) -> dict[str, str]:
    """Headers as the peer spelled them, duplicates joined; the names in `inf` stay ours."""
    spelled: dict[str, str] = {}
    ours = dict(inf)
    for name, value in headers.raw_items():
        known = spelled.setdefault(name.lower(), name)
        inf[known] = f"{inf[known]}, {value}" if known in inf else value
    inf.update(ours)
    return inf


def _explain(error: BaseException | None) -> str:
    """An exception and what caused it, in one line."""
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__
    return "; ".join(words)
