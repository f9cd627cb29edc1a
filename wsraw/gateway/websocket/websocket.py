"""Sans-I/O. WebSocket bytes ↔ frames, server or client side: handshake, frames, close. With
receiver.py, compression.py and whole_frames.py the only door to the library websockets.

Outgoing frames are framing.py's.

Nothing that a peer sends raises: it ends in `ended`, `failure` and what stands in `output`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import (
    EXTERNAL_CLOSE_CODES,
    Frame,
    Opcode,
)
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

import wsraw.gateway.websocket.deflate as deflate
import wsraw.gateway.websocket.plain_request as plain_request
from wsraw.config.settings import Settings
from wsraw.gateway.http import http_answer, http_head
from wsraw.gateway.websocket.compression import ClientDeflate, DeflateExtension, ServerDeflate
from wsraw.gateway.websocket.framing import (
    COMPRESSED,
    PING_FRAME,
    PLAIN_KEY,
    FramingKey,
    MessageOrder,
    RefusedError,
    plain_frame,
    server_frame,
)
from wsraw.gateway.websocket.plain_request import PlainRequest
from wsraw.gateway.websocket.receiver import MOST_PARSED, ClientReceiver, DataFrame, ServerReceiver
from wsraw.gateway.websocket.request import response_of, to_inf
from wsraw.gateway.websocket.whole_frames import (
    MAX_CONTROL,
    MOST,
    is_pong,
    may_become_whole,
    take_whole,
)
from wsraw.link.open_options import Opening

MAX_REASON: Final = MAX_CONTROL - 2


_NONE: Final[Mapping[str, str]] = {}

# The library's info lines, one at each open and close, are ours to write.
_log = logging.getLogger("wsraw.gateway.websocket")
_log.setLevel(logging.WARNING)


class WebSocket(MessageOrder):
    """One connection's WebSocket, from its handshake to its close frame."""

    __slots__ = (
        "_answer",
        "_codec",
        "_compressing",
        "_deflation",
        "_framing_key",
        "_mask_bit",
        "_masks",
        "_packed_head",
        "_plain_below",
        "_protocol",
        "_request",
        "_rest",
        "busy",
        "close_code",
        "close_reason",
        "deflates",
        "ended",
        "error",
        "inf",
        "offered",
        "opened",
        "output",
        "parsed",
        "response",
        "subprotocol",
    )

    def __init__(
        self, protocol: ServerReceiver | ClientReceiver, settings: Settings, masks: bool
    ) -> None:
        super().__init__()
        protocol.begin(settings)
        self._protocol = protocol
        self._masks = masks
        self._mask_bit = 0 if masks else 0x80
        """As the peer's frames must have it."""
        self._rest = b""
        """For `take_whole`: the beginning of a frame, or what stands behind as many as it takes."""
        self.busy = False
        """What has come is not all parsed: it is more frames, or inflates to more, than a turn's
        share. Receive b"" to go on; what is received meanwhile is kept."""
        self.parsed = 0
        """Frames of any kind that the last `receive_data` has found."""
        self._framing_key: FramingKey | None = None
        self._request = b""
        self._answer: list[tuple[str, str]] = []
        """The fields of our 101, while it waits for the verdict."""
        self._codec: deflate.Codec | None = None
        self._compressing = False
        self._deflation: deflate.Deflation | None = None
        """Of a large frame that is being made."""
        self._packed_head = (0, True)
        """Its opcode, and whether it is the last one of its message."""
        self._plain_below: float = 0 if masks else math.inf
        """Bytes of a message below which its frame is plain: not masked, not compressed."""
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
        self.response: dict[str, Any] | None = None
        """Of a server that has refused us: status, headers and body, for `about`."""
        self.offered: list[str] = []
        """The subprotocols that a client speaks."""

    # --- server handshake ---

    @classmethod
    def server(cls, settings: Settings) -> WebSocket:
        """The accepting side; `accept` comes next, or `receive_head`."""
        protocol = ServerReceiver(
            extensions=[ServerDeflate(settings)] if settings.deflate else None,
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
        assert isinstance(protocol, ServerReceiver)
        plain = plain_request.read(head)
        if plain is not None and self._takes(protocol, plain):
            return True
        # The library asks for CRLF where RFC 9112, section 2.2, lets us take a lone LF.
        if head.count(b"\n") != head.count(b"\r\n"):
            head = re.sub(rb"\r?\n", b"\r\n", head)
        protocol.receive_data(head)
        if protocol.handshake_exc is not None:
            self.error = _explain(protocol.handshake_exc)
            if not any(self.output):
                self.output[:] = [http_answer(400, self.error)]
            return False
        request: Any = protocol.events.pop()
        headers = request.headers
        self.inf = to_inf({"method": request.method, "url": request.path}, headers.raw_items())
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
        if headers.get_all("Upgrade") not in ([], ["websocket"]):
            del headers["Upgrade"]
            headers["Upgrade"] = "websocket"
        response = protocol.accept(request)
        if response.status_code != 101:
            protocol.send_response(response)
            # Not `protocol`: of that compiled code still believes that it has none.
            self.error = _explain(self._protocol.handshake_exc)
            return False
        self.offered = [
            name.strip()
            for value in headers.get_all("Sec-WebSocket-Protocol")
            for name in value.split(",")
            if name.strip()
        ]
        # A 101 needs no Date (RFC 9110, section 6.6.1).
        self._answer = [item for item in response.headers.raw_items() if item[0] != "Date"]
        return True

    def _takes(self, protocol: ServerReceiver, plain: PlainRequest) -> bool:
        """Whether a plain request can be answered with a 101; if not, the library says why."""
        extensions = None
        if plain.extensions is not None:
            asked = Headers({"Sec-WebSocket-Extensions": plain.extensions})
            try:
                extensions, protocol.extensions = protocol.process_extensions(asked)
            except InvalidHandshake:
                return False
        self._answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(plain.key)),
        ]
        if extensions is not None:
            self._answer.append(("Sec-WebSocket-Extensions", extensions))
        self.inf = plain.inf
        self.offered = plain.subprotocols
        return True

    def choose(self, subprotocols: Sequence[str]) -> None:
        """Agree on the first of ours that the client offers, if `let_in` says no other; none is no
        reason to refuse it."""
        name = next((name for name in subprotocols if name in self.offered), None)
        if name is not None:
            self._agree(name)

    def _agree(self, subprotocol: str | None) -> None:
        protocol: Any = self._protocol
        protocol.subprotocol = subprotocol

    def let_in(self, subprotocol: str | None = None, headers: Mapping[str, str] = _NONE) -> None:
        """Answer with the 101 (`opened`). `subprotocol`: one of those `offered`, "" for none; None
        for the one that was chosen."""
        protocol, fields = self._protocol, self._answer
        assert isinstance(protocol, ServerReceiver)
        if subprotocol is not None:
            self._agree(subprotocol or None)
        if protocol.subprotocol is not None:
            fields.append(("Sec-WebSocket-Protocol", protocol.subprotocol))
        fields += headers.items()
        self.output.append(http_head(101, "Switching Protocols", fields))
        self._answer = []
        protocol.begin_frames()
        self._open()

    def _refuse(self, status: int, why: str, *headers: tuple[str, str]) -> None:
        self.error = why
        self.output.append(http_answer(status, why, *headers))

    # --- client handshake ---

    @classmethod
    def client(cls, settings: Settings, asked: Opening) -> WebSocket:
        """The opening side; `connect` comes next."""
        offers: list[ClientDeflate] | None = None
        if settings.deflate if asked.deflate is None else asked.deflate:
            offers = [ClientDeflate(params, settings) for params in deflate.offers(settings)]
        # The library builds its request from this; host and path are then said in our own words.
        uri = WebSocketURI(secure=False, host="localhost", port=80, path="/", query="")
        subprotocols: Any = asked.subprotocols or None
        protocol = ClientReceiver(uri, extensions=offers, subprotocols=subprotocols, logger=_log)
        self = cls(protocol, settings, masks=True)
        request = protocol.connect()
        request.path = asked.url
        for name, value in asked.headers:
            if name in request.headers:
                del request.headers[name]
            request.headers[name] = value
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
            if protocol.events:
                self.response = response_of(protocol.events.pop())
        elif protocol.events:
            response: Any = protocol.events.pop()
            self.inf = to_inf({}, response.headers.raw_items())
            self.inf["Protocol"] = "websocket client"
            self._open()

    def _open(self) -> None:
        protocol = self._protocol
        self.opened = True
        self.subprotocol = protocol.subprotocol
        if isinstance(protocol, ServerReceiver):
            self._framing_key = PLAIN_KEY
            protocol.between_frames = True
        for extension in protocol.extensions:
            assert isinstance(extension, DeflateExtension)
            self._codec = codec = extension.codec
            self.deflates = True
            protocol.inflates(extension)
            if not self._masks and codec.compresses:
                self._framing_key = codec.packing
                self._plain_below = float(codec.threshold)

    # --- receiving ---

    def receive_data(self, data: bytes) -> list[DataFrame]:
        """Data frames, in order. What else came of it: `output`, `ended`, `opened` and `busy`."""
        protocol = self._protocol
        frames = protocol.frames
        if protocol.between_frames and not self.ended:
            if self._rest:
                data = self._rest + data
                self._rest = b""
                self.busy = False
            at = take_whole(data, self._mask_bit, protocol.frame_limit, frames)
            self.parsed = len(frames)
            if at < len(data):
                if is_pong(data, at, self._mask_bit):
                    self.parsed += 1
                elif self.parsed == MOST:
                    self._rest = data[at:]
                    self.busy = True
                elif may_become_whole(data, at, self._mask_bit, protocol.frame_limit):
                    self._rest = data[at:]
                else:
                    self._parse(data[at:] if at else data)
        else:
            self.parsed = 0
            if not self.ended:
                self._parse(data)
        if not frames:
            return []
        protocol.frames = []
        return frames

    def _parse(self, data: bytes) -> None:
        """What the library's parser is for."""
        protocol = self._protocol
        protocol.left = MOST_PARSED
        if protocol.busy:
            protocol.later += data
        elif data:
            protocol.between_frames = False
            protocol.receive_data(data)
        protocol.go_on()
        if not self.opened:
            self._look_at_response()
        if protocol.ended:
            self._end()
        self.parsed += MOST_PARSED - protocol.left
        self.busy = protocol.busy

    def skip_data(self) -> None:
        """From here on control frames alone are of interest."""
        protocol = self._protocol
        protocol.skip_data()
        protocol.frames = []
        if not self._rest:
            self.busy = protocol.busy
        if protocol.ended:
            self._end()

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
        protocol.later = b""
        if protocol.failure is not None:
            self.close_code, self.close_reason = protocol.failure
            self.error = self.close_reason or "an error of our own"
        elif protocol.close_rcvd is not None:
            self.close_code = int(protocol.close_rcvd.code)
            self.close_reason = protocol.close_rcvd.reason

    @property
    def too_big(self) -> str:
        """With 1009: the setting whose bound was passed."""
        return self._protocol.too_big

    @property
    def agreed(self) -> bool:
        """Both sides have sent their close frame, and ours is the one to close the connection
        (RFC 6455, section 7.1.1)."""
        protocol = self._protocol
        both = protocol.close_rcvd is not None and protocol.close_sent is not None
        return both and not self._masks

    @property
    def unfinished(self) -> int:
        """Bytes of a frame, or of a message to be joined, that are not complete yet."""
        protocol = self._protocol
        size = len(protocol.reader.buffer) + len(protocol._whole or b"") + len(self._rest)
        return size + len(protocol.later) + (self._codec.unfinished if self._codec else 0)

    @property
    def contexts_size(self) -> int:
        """Bytes that compression keeps."""
        return self._codec.memory if self._codec is not None else 0

    def release(self) -> None:
        """Nothing more will be received. Frees at once what was, with the half of a message in it.

        The library's protocol, its parser and its exceptions hold each other. The collector counts
        objects, not bytes: until it comes, a few hundred clients that leave in the middle of a
        message can hold hundreds of megabytes.
        """
        protocol = self._protocol
        self.ended = True
        self.busy = False
        self._rest = b""
        protocol.parser.close()
        protocol.reader.discard()
        protocol._whole = protocol._packed = None
        protocol.later = b""
        protocol.parser_exc = protocol.handshake_exc = None
        self._deflation = None
        if self._codec is not None:
            self._codec.forget()

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

    def frame(self, opcode: int, data: bytes, final: bool) -> bytes | None:
        """The bytes of a data frame that `check` has let pass; to be called in the same order. None
        for a large one: it is made in steps, with `go_on`."""
        codec = self._codec
        compressing = False
        if codec is not None:
            if opcode:
                self._compressing = codec.compresses and (not final or len(data) >= codec.threshold)
            compressing = self._compressing
        if compressing and codec is not None:
            if len(data) > deflate.DEFLATED_AT_ONCE:
                self._deflation = codec.deflation(data, opcode > 0, final)
                self._packed_head = opcode, final
                return None
            return self._packed(codec.compress(data, opcode > 0, final), opcode, final)
        if self._masks:
            return Frame(Opcode(opcode), data, final).serialize(mask=True)
        return server_frame(opcode, data, final, False)

    def _packed(self, data: bytes, opcode: int, final: bool) -> bytes:
        if not self._masks:
            return server_frame(opcode, data, final, opcode > 0)
        frame = Frame(Opcode(opcode), data, final).serialize(mask=True)
        # The library sets this bit for extensions alone.
        return bytes((frame[0] | COMPRESSED,)) + frame[1:] if opcode else frame

    @property
    def is_making(self) -> bool:
        """Whether a large frame is being made: until that is done, no other can be."""
        return self._deflation is not None

    def makes(self, data: bytes) -> bool:
        """Whether these are the data of the frame that is being made."""
        return self._deflation is not None and self._deflation.data is data

    def go_on(self) -> bytes | None:
        """The next step; the frame, once that was the last one."""
        assert self._deflation is not None
        packed = self._deflation.step()
        if packed is None:
            return None
        self._deflation = None
        return self._packed(packed, *self._packed_head)

    def frame_at_once(self, opcode: int, data: bytes, final: bool) -> bytes:
        """The frame in one go, however large it is."""
        frame = self.frame(opcode, data, final)
        while frame is None:
            frame = self.go_on()
        return frame

    def plain_frame(self, data: bytes, type_: str) -> bytes | None:
        """The frame of a whole message, where nothing about it is unusual; None: `check` it."""
        if self.under_way or len(data) >= self._plain_below or self._deflation is not None:
            return None
        return plain_frame(data, type_)

    def send(self, data: bytes, type_: str, final: bool) -> str | None:
        """Queue one data frame, or say why it is refused."""
        try:
            opcode = self.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        self.output.append(self.frame_at_once(opcode, data, final))
        return None

    @property
    def framing_key(self) -> FramingKey | None:
        """Connections with the same key take the same `frame_message`; None: frame it alone."""
        return None if self.under_way or self._deflation is not None else self._framing_key

    def ping(self) -> None:
        """Ask the peer whether it is there."""
        if self._masks:
            self._protocol.send_ping(b"")
        else:
            # The library takes 5 µs for these two bytes, and there may be a thousand a second.
            self.output.append(PING_FRAME)

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


def close_refusal(code: int) -> str | None:
    """Why a close frame may not carry this code (RFC 6455, section 7.4), or None: it may."""
    if code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000:
        return None
    return f"{code} is not a close code to send; use 1000, 1001, 1008, 1011 or 3000 to 4999"


def _explain(error: BaseException | None) -> str:
    """An exception and what caused it, in one line."""
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__
    return "; ".join(words)
