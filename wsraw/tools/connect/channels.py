"""I/O. An open connection: a WebSocket, or a stream of bytes over TCP, TLS or a unix socket."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Literal, NamedTuple, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from wsraw.runtime.printable import os_error

CHUNK: Final = 1 << 16
REST_OF_A_LINE: Final = 0.02
"""How long to wait for the rest of a line, in seconds, so that a line is shown whole."""

CLOSE_CODES: Final = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no code was sent",
    1006: "lost without a close frame",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1010: "extension required",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    3000: "unauthorized",
    3003: "forbidden",
    3008: "timeout",
}
NORMAL: Final = (1000, 1001, 1005)


def in_words(code: int) -> str:
    """The meaning of a close code."""
    if code in CLOSE_CODES:
        return CLOSE_CODES[code]
    return "a code of the application" if code >= 4000 else "a code without a standard meaning"


class Message(NamedTuple):
    """Received data: a message of a WebSocket, or bytes of a stream."""

    data: str | bytes
    kind: Literal["text", "binary", "raw"]


class Ended(NamedTuple):
    """The end of a connection."""

    by: Literal["us", "peer", "nobody"]
    code: int | None
    """The close code of a WebSocket."""
    reason: str
    text: str
    """The whole description, in words."""
    is_normal: bool


class Channel(Protocol):
    """A connection, as a session uses it."""

    details: list[str]
    """Facts about the connection, in words."""
    subprotocol: str

    async def receive(self) -> Message | Ended: ...

    async def send(self, data: str | bytes) -> None:
        """Raises ConnectionClosed or OSError; `receive` reports how the connection has ended."""

    async def ping(self, data: bytes) -> float:
        """Send a ping; returns the seconds until its answer."""

    async def end_input(self) -> None:
        """Tell the peer that no more will be sent, where that is possible."""

    async def close(self, code: int, reason: str) -> None: ...


# --- WebSocket ---


class WebSocketChannel:
    """A WebSocket, by the websockets library."""

    def __init__(self, ws: ClientConnection, details: list[str]) -> None:
        self.details = details
        self.subprotocol = ws.subprotocol or ""
        self._ws = ws
        self._is_closed = False

    async def receive(self) -> Message | Ended:
        try:
            data = await self._ws.recv()
        except ConnectionClosed as error:
            return _ended(error, asked=self._is_closed)
        return Message(data, "text" if isinstance(data, str) else "binary")

    async def send(self, data: str | bytes) -> None:
        await self._ws.send(data)

    async def ping(self, data: bytes) -> float:
        begin = time.perf_counter()
        # Without data of its own, the library chooses some.
        await (await self._ws.ping(data or None))
        return time.perf_counter() - begin

    async def end_input(self) -> None:
        pass

    async def close(self, code: int, reason: str) -> None:
        self._is_closed = True
        await self._ws.close(code, reason)


def _ended(error: ConnectionClosed, *, asked: bool) -> Ended:
    """The end of the connection. `asked`: the user has closed it."""
    received, sent = error.rcvd, error.sent
    if received is not None and (sent is None or error.rcvd_then_sent):
        return _closed("peer", received.code, received.reason, received.code in NORMAL)
    if sent is not None:
        # Without a request of the user, the library closes connections that break the protocol,
        # bring too large a message, or do not answer pings.
        return _closed("us", sent.code, sent.reason, asked)
    cause = error.__cause__
    why = f": {os_error(cause)}" if isinstance(cause, OSError) else ""
    return Ended("nobody", 1006, "", f"the connection was {CLOSE_CODES[1006]}{why}", False)


def _closed(by: Literal["us", "peer"], code: int, reason: str, is_normal: bool) -> Ended:
    who = "by the peer" if by == "peer" else "by this client"
    text = f"closed {who}: {code} ({in_words(code)})"
    if reason:
        text += f": {reason}"
    return Ended(by, code, reason, text, is_normal)


# --- streams ---


class StreamChannel:
    """A stream of bytes."""

    subprotocol = ""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        details: list[str],
        *,
        by_lines: bool,
    ) -> None:
        self.details = details
        self._reader = reader
        self._writer = writer
        self._by_lines = by_lines
        self._is_closed = False

    async def receive(self) -> Message | Ended:
        try:
            data = await self._reader.read(CHUNK)
            if data and self._by_lines:
                data = await self._whole_line(data)
        except OSError as error:
            if not self._is_closed:
                text = f"the connection was lost: {os_error(error)}"
                return Ended("nobody", None, "", text, False)
            data = b""
        if data:
            return Message(data, "raw")
        who: Literal["us", "peer"] = "us" if self._is_closed else "peer"
        by = "this client" if self._is_closed else "the peer"
        return Ended(who, None, "", f"closed by {by}", True)

    async def _whole_line(self, data: bytes) -> bytes:
        while not data.endswith(b"\n") and len(data) < CHUNK:
            try:
                async with asyncio.timeout(REST_OF_A_LINE):
                    more = await self._reader.read(CHUNK)
            except TimeoutError:
                break
            if not more:
                break
            data += more
        return data

    async def send(self, data: str | bytes) -> None:
        self._writer.write(data.encode() if isinstance(data, str) else data)
        await self._writer.drain()

    async def ping(self, data: bytes) -> float:
        raise AssertionError("only a WebSocket has pings")

    async def end_input(self) -> None:
        # TLS over asyncio cannot be closed in one direction.
        if self._writer.can_write_eof():
            self._writer.write_eof()
            await self._writer.drain()

    async def close(self, code: int, reason: str) -> None:
        self._is_closed = True
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # It had ended already.
