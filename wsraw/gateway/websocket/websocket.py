"""Sans-I/O. One WebSocket, server or client, from its handshake to its close frame.

No input of a peer raises an exception: see `ended`, `error` and `output`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import wsraw.gateway.websocket.deflate as deflate
from wsraw.config.settings import Settings
from wsraw.gateway.http import http_answer
from wsraw.gateway.websocket.frames import (
    CLOSE,
    MAX_CONTROL,
    MOST_FRAMES,
    PING,
    PONG,
    Frame,
    FrameReader,
    ViolationError,
)
from wsraw.gateway.websocket.handshake import (
    ClientHandshake,
    HandshakeError,
    HandshakeResponse,
    ServerHandshake,
    to_inf,
)
from wsraw.gateway.websocket.messages import DataFrame, MessageReader, MessageWriter
from wsraw.link.open_options import Opening
from wsraw.link.rules import is_close_code

MAX_REASON: Final = MAX_CONTROL - 2
"""Bytes of the longest reason in a close frame."""

NO_CODE: Final = 1005
"""The code of a close frame without one (RFC 6455, section 7.1.5)."""


class WebSocket:
    """The WebSocket of a connection: a server's (`receive_head` comes next), or one made by
    `client`."""

    # More than 20 attributes: for each message, the connection looks here at the results of
    # handshake, reading and close. What is needed for sending is in `writer`.
    __slots__ = (
        "_close_received",
        "_close_sent",
        "_codec",
        "_held_pong",
        "_is_plain",
        "_messages",
        "_settings",
        "_skips_data",
        "busy",
        "close_code",
        "close_reason",
        "ended",
        "error",
        "handshake",
        "hold_pongs",
        "inf",
        "is_client",
        "opened",
        "output",
        "parsed",
        "reader",
        "subprotocol",
        "writer",
    )

    def __init__(self, settings: Settings, is_client: bool = False) -> None:
        self._settings = settings
        self.is_client = is_client
        self.handshake: ServerHandshake | ClientHandshake | None = None
        """Dropped once it is `opened`."""
        self.reader = FrameReader(not is_client, settings.max_message_size)
        self._messages = MessageReader(settings)
        self._codec: deflate.Codec | None = None
        self.writer = MessageWriter(is_client)
        self._is_plain = False
        """The WebSocket is open, and no message is incomplete: frames can be messages as they
        are."""
        self._skips_data = False
        self.busy = False
        """More frames have arrived than are parsed in a turn, or they inflate to more data. Receive
        b"" to continue; data received meanwhile is kept."""
        self.parsed = 0
        """Frames of any kind that the last `receive_data` has read."""
        self.output: list[bytes] = []
        """Bytes to write, in order; the caller clears it."""
        self.hold_pongs = False
        """While True, only the latest ping is remembered; see `answer_ping`."""
        self._held_pong: bytes | None = None
        self.inf: dict[str, str] = {}
        self.subprotocol: str | None = None
        self.opened = False
        self.ended = False
        """No more is received: the peer has closed, or has broken the protocol."""
        self.error = ""
        """What was wrong with the peer's bytes, if anything was."""
        self.close_code = 1006
        self.close_reason = ""
        self._close_sent = False
        self._close_received = False

    # --- server handshake ---

    def receive_head(self, head: bytes) -> bool:
        """Read a complete request head. Returns whether the request is valid; then `let_in` comes
        next. If it is not, an error response is in `output`."""
        try:
            self.handshake = handshake = ServerHandshake(head, self._settings)
        except HandshakeError as why:
            self.error = str(why)
            self.output.append(http_answer(why.status, self.error, *why.headers))
            return False
        self.inf = handshake.inf
        return True

    @property
    def offered(self) -> list[str]:
        handshake = self.handshake
        return handshake.offered if isinstance(handshake, ServerHandshake) else []

    @property
    def repeated(self) -> dict[str, list[str]]:
        """The values of fields that `inf` has joined, by their lower-case names."""
        handshake = self.handshake
        return handshake.repeated if isinstance(handshake, ServerHandshake) else {}

    def choose(self, subprotocols: Sequence[str]) -> None:
        """Select the first of our subprotocols that the client offers, or none, unless `let_in`
        overrides it."""
        offered = self.offered
        self.subprotocol = next((name for name in subprotocols if name in offered), None)

    def let_in(
        self, subprotocol: str | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Open the WebSocket. `subprotocol`: one of those `offered`, or "" for none; None keeps the
        selected one."""
        handshake = self.handshake
        assert isinstance(handshake, ServerHandshake)
        if subprotocol is not None:
            self.subprotocol = subprotocol or None
        self.output.append(handshake.answer(self.subprotocol, headers))
        self._open(handshake.terms)

    # --- client handshake ---

    @classmethod
    def client(cls, settings: Settings, asked: Opening) -> WebSocket:
        """A WebSocket of the opening side; its request is in `output`."""
        self = cls(settings, is_client=True)
        self.handshake = handshake = ClientHandshake(settings, asked)
        self.output.append(handshake.request)
        return self

    @property
    def response(self) -> HandshakeResponse | None:
        """The response of a server that did not open the WebSocket."""
        handshake = self.handshake
        return handshake.response if isinstance(handshake, ClientHandshake) else None

    def _receive_answer(self, handshake: ClientHandshake, data: bytes) -> list[DataFrame]:
        try:
            rest = handshake.receive_data(data)
        except HandshakeError as why:
            self.error = str(why)
            self.ended = True
            return []
        response = handshake.response
        if rest is None or response is None:
            return []
        self.inf = to_inf({"Protocol": "websocket client"}, response.fields)
        self.subprotocol = handshake.subprotocol
        self._open(handshake.terms)
        return self.receive_data(rest) if rest else []

    def _open(self, terms: deflate.Terms | None) -> None:
        self.opened = self._is_plain = True
        self.handshake = None
        if terms is not None:
            self._codec = codec = deflate.Codec(terms, self._settings)
            self._messages.use(codec)
            self.writer.use(codec)
            self.reader.allow_compressed()

    # --- receiving ---

    def receive_data(self, data: bytes) -> list[DataFrame]:
        """Return data frames, in order. See also `output`, `ended`, `opened` and `busy`."""
        if self._is_plain:
            reader = self.reader
            frames = reader.read(data)
            self.parsed = len(frames)
            if reader.special:
                return self._take(frames)
            self.busy = reader.more
            return frames
        self.parsed = 0
        if self.ended:
            return []
        if self.opened:
            if self._messages.inflating:
                self.reader.add(data)
                return self._take([])
            frames = self.reader.read(data)
            self.parsed = len(frames)
            return self._take(frames)
        handshake = self.handshake
        assert isinstance(handshake, ClientHandshake)
        return self._receive_answer(handshake, data)

    def _take(self, frames: list[Frame]) -> list[DataFrame]:
        """Take frames that are not all whole messages."""
        reader, messages = self.reader, self._messages
        reader.special = False
        received: list[DataFrame] = []
        room = deflate.STEP
        try:
            while True:
                for data, kind, final in frames:
                    if kind == "ping":
                        if self.hold_pongs:
                            # Only the latest ping must be answered (RFC 6455, section 5.5.3).
                            self._held_pong = data
                        else:
                            self.output.append(self.writer.control(PONG, data))
                    elif kind == "close":
                        self._receive_close(data)
                        return received
                    elif kind != "pong" and not self._skips_data:
                        messages.take(data, kind, final, received)
                if messages.inflating:
                    room -= messages.inflate(room, received)
                    if messages.inflating:
                        break
                if reader.error is not None:
                    raise reader.error
                if not reader.more or room <= 0 or self.parsed >= MOST_FRAMES:
                    break
                frames = reader.read(b"")
                self.parsed += len(frames)
            if reader.needed and not self._skips_data:
                messages.check_begun(reader)
        except ViolationError as why:
            self.error = self.close_reason = why.reason
            self.close_code = why.code
            self._end()
            return received
        self._is_plain = not (messages.inflating or messages.under_way or messages.checked)
        self.busy = messages.inflating or reader.more
        return received

    def _receive_close(self, data: bytes) -> None:
        """Answer the peer's close frame with the same one. Raises ViolationError."""
        code, reason = NO_CODE, ""
        if data:
            if len(data) < 2:
                raise ViolationError(1002, "close frame too short")
            code = int.from_bytes(data[:2], "big")
            if not is_close_code(code):
                raise ViolationError(1002, f"invalid close code {code}")
            try:
                reason = data[2:].decode()
            except UnicodeDecodeError as error:
                raise ViolationError(1007, "the reason of a close frame is not UTF-8") from error
        self.close_code, self.close_reason = code, reason
        self._close_received = True
        self._send_close(data)
        self._end()

    def _end(self) -> None:
        """Receive no more, and free what was received."""
        self.ended = True
        self.busy = self._is_plain = False
        self.reader.clear()
        self._messages.clear()

    def skip_data(self) -> None:
        self._skips_data = True
        self._messages.clear()
        self.busy = self.reader.more

    def receive_eof(self) -> None:
        """The peer sends no more. Sets `ended`; without a close frame the code is 1006."""
        handshake = self.handshake
        if not self.ended and isinstance(handshake, ClientHandshake):
            # The response of a server that rejects us may end here.
            try:
                handshake.receive_eof()
            except HandshakeError as why:
                self.error = str(why)
        self.ended = True

    @property
    def agreed(self) -> bool:
        """Both sides have sent their close frame, and this side must close the connection, as
        servers do (RFC 6455, section 7.1.1)."""
        return self._close_received and self._close_sent and not self.is_client

    @property
    def unfinished(self) -> int:
        """Bytes of an incomplete response, frame, or message to be joined."""
        handshake = self.handshake
        if isinstance(handshake, ClientHandshake):
            return handshake.unfinished
        return self.reader.unfinished + self._messages.unfinished

    @property
    def terms(self) -> deflate.Terms | None:
        """The agreed terms of compression; None if there is none."""
        return self._codec.terms if self._codec is not None else None

    @property
    def contexts_size(self) -> int:
        """Bytes of the compression contexts."""
        return self._codec.memory if self._codec is not None else 0

    def release(self) -> None:
        """Free all memory: the connection has ended."""
        self._end()
        self.writer.clear()
        if isinstance(self.handshake, ClientHandshake):
            self.handshake.close()

    # --- sending ---

    def ping(self) -> None:
        self.output.append(self.writer.control(PING, b""))

    def answer_ping(self) -> None:
        """Answer pings again, first the one that was held."""
        self.hold_pongs = False
        if self._held_pong is not None:
            self.output.append(self.writer.control(PONG, self._held_pong))
            self._held_pong = None

    def close(self, code: int, reason: str) -> None:
        """Queue our close frame, once, with its reason cut at 123 bytes.

        Raises ValueError for a code that `close_refusal` refuses.
        """
        why = close_refusal(code)
        if why is not None:
            raise ValueError(why)
        # Cut between code points.
        text = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        self._send_close(code.to_bytes(2, "big") + text.encode())

    def _send_close(self, data: bytes) -> None:
        if not self._close_sent:
            self._close_sent = True
            self.output.append(self.writer.control(CLOSE, data))


def close_refusal(code: int) -> str | None:
    """Why a close frame may not carry this code (RFC 6455, section 7.4), or None: it may."""
    if is_close_code(code):
        return None
    return f"{code} is not a close code to send; use 1000, 1001, 1008, 1011 or 3000 to 4999"
