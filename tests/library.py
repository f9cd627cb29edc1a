"""How the library websockets reads the bytes that our parsers read."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Generator

from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from wsraw.gateway.websocket.handshake import to_inf

Fields = list[tuple[str, str]]


def library_answer(request: bytes) -> tuple[int, Fields, list[str]]:
    """The status of the answer to a request; for 101 also the request's headers and its
    subprotocols. The function corrects the library where we intentionally differ.
    """
    protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
    # A lone LF ends a line (RFC 9112, section 2.2).
    protocol.receive_data(re.sub(rb"\r?\n", b"\r\n", request))
    events = protocol.events_received()
    if not events:
        return 400, [], []
    (asked,) = events
    assert isinstance(asked, Request)
    items = list(asked.headers.raw_items())
    lists = ("connection", "upgrade", "sec-websocket-protocol", "sec-websocket-extensions")
    # A list may be empty (RFC 9110, section 5.6.1).
    kept = [(n, v) for n, v in items if v.strip(" \t,") or n.lower() not in lists]
    asked.headers = headers = Headers(kept)
    if len(headers.get_all("Host")) != 1:
        return 400, [], []
    if headers.get_all("Sec-WebSocket-Version") not in ([], ["13"]):
        return 426, [], []
    upgrades = ",".join(headers.get_all("Upgrade")).lower().split(",")
    if "Upgrade" in headers:
        del headers["Upgrade"]
    if "websocket" in [upgrade.strip(" \t") for upgrade in upgrades]:
        # websocket may be one of several protocols (RFC 9110, section 7.8).
        headers["Upgrade"] = "websocket"
    response = protocol.accept(asked)
    if response.status_code != 101:
        return response.status_code, [], []
    subprotocols = [
        name for v in headers.get_all("Sec-WebSocket-Protocol") for name in parse_subprotocol(v)
    ]
    inf = to_inf({}, [(n, v) for n, v in items if n not in ("method", "url", "Protocol")])
    return 101, list(inf.items()), subprotocols


class LibraryAnswer:
    """Uncompressed frames of one peer, parsed by the library and then checked by RFC 6455."""

    def __init__(self, wire: bytes, masked: bool, limit: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.pings: list[bytes] = []
        self.code = 0
        """The code of the peer's close frame, or of the error; 0 while the connection is open."""
        self.failed = False
        self._wire = wire
        self._at = 0
        self._kind = ""
        self._whole = b""
        self._limit = limit
        try:
            while not self.code:
                self._take(self._parse(masked))
        except EOFError:
            pass
        except PayloadTooBig:
            self._fail(1009)
        except ProtocolError:
            self._fail(1002)
        except UnicodeDecodeError:
            self._fail(1007)

    def _fail(self, code: int) -> None:
        self.code, self.failed = code, True

    def _parse(self, masked: bool) -> Frame:
        try:
            reading = Frame.parse(self._read, mask=masked, max_size=self._limit)
            next(reading)
        except StopIteration as done:
            frame: Frame = done.value
            return frame
        raise AssertionError("it waits")

    def _read(self, size: int) -> Generator[None, None, bytes]:
        if len(self._wire) - self._at < size:
            raise EOFError
        self._at += size
        return self._wire[self._at - size : self._at]
        yield

    def _take(self, frame: Frame) -> None:
        data = bytes(frame.data)
        if frame.opcode is Opcode.PING:
            self.pings.append(data)
        elif frame.opcode is Opcode.CLOSE:
            close = Close.parse(data)
            self.code = int(close.code)
        elif frame.opcode is not Opcode.PONG:
            if (frame.opcode is Opcode.CONT) is not bool(self._kind):
                raise ProtocolError("out of order")
            self._kind = self._kind or frame.opcode.name.lower()
            self._whole += data
            if len(self._whole) > self._limit:
                raise PayloadTooBig(len(self._whole), self._limit)
            if self._kind == "text":
                # The check is at least as strict as at the end of the frame; the rest of a code
                # point may follow.
                decoder = getincrementaldecoder("utf-8")()
                decoder.decode(self._whole, frame.fin)
            if frame.fin:
                self.messages.append((self._kind, self._whole))
                self._kind, self._whole = "", b""
