"""Sans-I/O. What is a message in the bytes of a raw connection that is spliced with a WebSocket.

===========  =======================================================================================
``chunk``    Whatever comes at once: the bytes of a read, and the data of a frame. The default.
``line``     Up to a line feed, which is not part of the message, nor is a CR before it.
``length``   Four bytes, big-endian, say how many bytes follow.
===========  =======================================================================================
"""

from __future__ import annotations

from typing import Final

DEFAULT_TYPES: Final = {"chunk": "binary", "line": "text", "length": "binary"}
"""The default type of the messages that a WebSocket gets."""

HEAD: Final = 4
"""Bytes of a length."""


class FramingError(ValueError):
    """The bytes are not messages, or a message is too large; the text says which."""


def split(framing: str, buffer: bytearray, data: bytes, limit: int) -> list[bytes]:
    """The messages that these bytes complete; the rest stays in the buffer. Raises FramingError for
    a message above the limit."""
    if framing == "chunk":
        return [data] if data else []
    seen = len(buffer)
    buffer += data
    return _lines(buffer, seen, limit) if framing == "line" else _counted(buffer, limit)


def _lines(buffer: bytearray, seen: int, limit: int) -> list[bytes]:
    lines: list[bytes] = []
    if buffer.find(b"\n", seen) >= 0:
        lines = bytes(buffer).split(b"\n")
        buffer[:] = lines.pop()
    # A carriage return may be the last byte so far.
    lines = [line.removesuffix(b"\r") for line in lines]
    if max(len(buffer) - 1, *map(len, lines), 0) > limit:
        raise FramingError(f"a line of more than {limit} bytes")
    return lines


def _counted(buffer: bytearray, limit: int) -> list[bytes]:
    messages, at = [], 0
    while len(buffer) - at >= HEAD:
        size = int.from_bytes(buffer[at : at + HEAD], "big")
        if size > limit:
            raise FramingError(f"a message of {size} bytes; the maximum is {limit}")
        end = at + HEAD + size
        if len(buffer) < end:
            break
        messages.append(bytes(buffer[at + HEAD : end]))
        at = end
    del buffer[:at]
    return messages


def last(framing: str, buffer: bytearray) -> bytes | None:
    """The message that remains when nothing more comes; None if there is none. Raises FramingError
    if the message is incomplete."""
    if not buffer:
        return None
    if framing == "length":
        raise FramingError("the stream ended within a message")
    return bytes(buffer)


def join(framing: str, buffer: bytearray, data: bytes, final: bool) -> bytes:
    """The bytes of a message, or of a part of it, for a raw connection; data that must wait for the
    rest stays in the buffer."""
    if framing == "line":
        return data + b"\n" if final else data
    if framing == "length":
        buffer += data
        if not final:
            return b""
        data = len(buffer).to_bytes(HEAD, "big") + buffer
        buffer.clear()
    return data
