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
"""The type of the messages that a WebSocket gets."""

HEAD: Final = 4
"""Bytes that say the length."""


class FramingError(ValueError):
    """The bytes are not messages, or one is too large; the text says which."""


def split(framing: str, buffer: bytes, data: bytes, limit: int) -> tuple[list[bytes], bytes]:
    """The messages that are whole with these bytes, and what is left of the buffer. Raises
    FramingError for a message above the limit."""
    if framing == "chunk":
        return ([data] if data else []), b""
    data = buffer + data
    return _lines(data, len(buffer), limit) if framing == "line" else _counted(data, limit)


def _lines(data: bytes, seen: int, limit: int) -> tuple[list[bytes], bytes]:
    lines = data.split(b"\n") if data.find(b"\n", seen) >= 0 else [data]
    rest = lines.pop()
    # A carriage return may be the last byte so far.
    lines = [line.removesuffix(b"\r") for line in lines]
    if max(len(rest) - 1, *map(len, lines), 0) > limit:
        raise FramingError(f"a line of more than {limit} bytes")
    return lines, rest


def _counted(data: bytes, limit: int) -> tuple[list[bytes], bytes]:
    messages, at = [], 0
    while len(data) - at >= HEAD:
        size = int.from_bytes(data[at : at + HEAD], "big")
        if size > limit:
            raise FramingError(f"a message of {size} bytes; the maximum is {limit}")
        end = at + HEAD + size
        if len(data) < end:
            break
        messages.append(data[at + HEAD : end])
        at = end
    return messages, data[at:]


def last(framing: str, buffer: bytes) -> bytes | None:
    """The message in what is left when nothing more comes; None: there is none. Raises
    FramingError if it is cut short."""
    if not buffer:
        return None
    if framing == "length":
        raise FramingError("the stream ended within a message")
    return buffer


def join(framing: str, buffer: bytes, data: bytes, final: bool) -> tuple[bytes, bytes]:
    """The bytes for a raw connection of a message or a part of it, and the new buffer."""
    if framing == "line":
        return (data + b"\n" if final else data), b""
    if framing == "length":
        data = buffer + data
        return (len(data).to_bytes(HEAD, "big") + data, b"") if final else (b"", data)
    return data, b""
