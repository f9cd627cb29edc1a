"""Sans-I/O. The client's side of both protocols, which shares no code with the gateway.

So a mistake that the gateway makes in both directions does not cancel out.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from wsraw.tools.drill.load.record import MAGIC

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FINAL: Final = 0x80
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class StreamError(Exception):
    """The server broke the protocol; the text says how."""


def request(host: str, key: bytes) -> bytes:
    """The handshake of a client (RFC 6455, section 4.1). `key` is 16 bytes."""
    return (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode()}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def check_response(head: bytes, key: bytes) -> None:
    """Raise StreamError unless that is a 101 for the request with this key."""
    first, *lines = head.split(b"\r\n")
    if not first.startswith(b"HTTP/1.1 101"):
        raise StreamError(f"the handshake was answered {first[:60].decode('latin-1')!r}")
    digest = hashlib.sha1(base64.b64encode(key) + _GUID, usedforsecurity=False).digest()
    wanted = b"sec-websocket-accept: " + base64.b64encode(digest)
    if not any(line.lower() == wanted.lower() for line in lines):
        raise StreamError("the handshake was answered without the right Sec-WebSocket-Accept")


class Records:
    """A raw stream of records of one size."""

    __slots__ = ("_held", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = b""

    def receive(self, data: bytes) -> list[bytes]:
        """The complete records. Anything else is returned unchanged, up to the next record."""
        if self._held:
            data = self._held + data
        size, place, records = self._size, 0, []
        while len(data) - place >= size:
            end = place + size
            if not data.startswith(MAGIC, place):
                # Bytes are missing or were added. Continue with the next record.
                found = data.find(MAGIC, place)
                end = found if found > 0 else len(data) - 1
            elif (found := data.find(MAGIC[:1], place + 1, end)) > 0:
                # The record is cut short: that byte is nowhere else in one.
                end = found
            records.append(data[place:end])
            place = end
        self._held = data[place:]
        return records


class Frames:
    """A WebSocket stream after its handshake."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """Opcode and payload of the complete frames. Raises StreamError."""
        if self._held:
            data = self._held + data
        place, frames = 0, []
        while len(data) - place >= 2:
            first, size = data[place], data[place + 1]
            begin = place + 2
            if size == 126:
                begin += 2
                size = int.from_bytes(data[place + 2 : begin], "big")
            elif size == 127:
                begin += 8
                size = int.from_bytes(data[place + 2 : begin], "big")
            elif size > 127:
                raise StreamError("a frame from the server is masked")
            if len(data) < begin + size:
                break
            if first & 0xF0 != _FINAL:
                raise StreamError(
                    f"a frame begins with 0x{first:02x}; messages must not be fragmented"
                )
            place = begin + size
            frames.append((first & 0x0F, data[begin:place]))
        self._held = data[place:]
        return frames


def close_text(payload: bytes) -> str:
    """Code and reason of a close frame."""
    if len(payload) < 2:
        return "1005"
    reason = payload[2:].decode("utf-8", "backslashreplace")
    return f"{int.from_bytes(payload[:2], 'big')} {reason}".strip()


def head(opcode: int, size: int) -> bytes:
    """The beginning of a masked frame, up to its mask."""
    first = bytes((_FINAL | opcode,))
    if size < 126:
        return first + bytes((_FINAL | size,))
    if size < 1 << 16:
        return first + b"\xfe" + size.to_bytes(2, "big")
    return first + b"\xff" + size.to_bytes(8, "big")


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A masked frame (RFC 6455, section 5.3). `mask` is 4 bytes."""
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head(opcode, size) + mask + masked
