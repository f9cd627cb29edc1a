"""Sans-I/O. Data on its way into frames: what may be sent; whole messages framed for many."""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Final

from wsraw.gateway.websocket.deflate import Packing
from wsraw.gateway.websocket.framed import Framed

TEXT: Final = 1
BINARY: Final = 2

FramingKey = int | Packing
"""Connections of the same key take the same bytes for the same message."""

PLAIN_KEY: Final = 0
"""Of servers' frames, uncompressed."""
RAW_KEY: Final = -1
"""Of raw connections."""

PING_FRAME: Final = b"\x89\x00"
"""A server's, without data."""

UNFINISHED: Final = "unfinished"
"""Instead of why something cannot be sent: it is made in part, send the same in a later turn."""

_FINAL: Final = 0x80
COMPRESSED: Final = 0x40
_BROKEN: Final = "refused"


class RefusedError(ValueError):
    """What we are asked to send cannot be sent; our side's mistake, and nothing was queued."""


class MessageOrder:
    """The order of frames in messages, and UTF-8 across them (RFC 6455, sections 5.4 and 5.6)."""

    __slots__ = ("_tail", "under_way")

    def __init__(self) -> None:
        self.under_way = ""
        """The type of the message under way; empty between messages."""
        self._tail = b""

    def check(self, data: bytes, type_: str, final: bool) -> int:
        """The opcode of the next data frame.

        Raises RefusedError. If that comes in the middle of a message, the message cannot be
        finished any more and everything after it is refused: the connection must be closed.
        """
        unfinished = self.under_way
        if unfinished:
            opcode = 0
            if type_ != unfinished:
                self.under_way = _BROKEN
                raise RefusedError(f"the {unfinished} message before it is not finished")
        elif type_ == "text":
            opcode = TEXT
        elif type_ == "binary":
            opcode = BINARY
        else:
            raise RefusedError(f"type {type_!r} is neither text nor binary")
        if type_ == "text" and not (data.isascii() and not self._tail):
            data = self._tail + data
            try:
                used = utf_8_decode(data, "strict", final)[1]
            except UnicodeDecodeError as error:
                if unfinished:
                    self.under_way = _BROKEN
                raise RefusedError(
                    f"text that is not UTF-8: {error.reason} at byte {error.start}"
                ) from error
            self._tail = data[used:]
        self.under_way = "" if final else type_
        return opcode


def plain_frame(data: bytes, type_: str) -> bytes | None:
    """A whole message in a frame without mask or compression; None if it needs a second look."""
    # The hot path: where nothing is unusual, `check` and `server_frame` cost three times as much.
    if type_ == "text":
        if not data.isascii():
            return None
        heads = _TEXT_HEADS
    elif type_ == "binary":
        heads = _BINARY_HEADS
    else:
        return None
    size = len(data)
    if size < 126:
        return heads[size] + data
    return server_frame(heads[0][0] & 0x0F, data, True, False)


_TEXT_HEADS: Final = tuple(bytes((_FINAL | TEXT, size)) for size in range(126))
_BINARY_HEADS: Final = tuple(bytes((_FINAL | BINARY, size)) for size in range(126))


def server_frame(opcode: int, data: bytes, final: bool, compressed: bool) -> bytes:
    """A frame without mask; `compressed`: its data is, and it is the first of its message."""
    # What the library's Frame.serialize does without a mask, at a third of its cost.
    head = opcode
    if final:
        head |= _FINAL
    if compressed:
        head |= COMPRESSED
    size = len(data)
    if size < 126:
        return bytes((head, size)) + data
    if size < 65536:
        return bytes((head, 126)) + size.to_bytes(2) + data
    return bytes((head, 127)) + size.to_bytes(8) + data


def frame_message(key: FramingKey, data: bytes, type_: str) -> Framed:
    """A whole message as bytes for all connections whose `framing_key` is `key`."""
    if key == RAW_KEY:
        return Framed(data)
    if isinstance(key, int) or len(data) < key.threshold:
        return Framed(server_frame(_opcode(type_), data, True, False))
    return frame_packed(key.compress(data), type_)


def frame_packed(packed: bytes, type_: str) -> Framed:
    """The same for a message that is compressed already."""
    return Framed(server_frame(_opcode(type_), packed, True, True))


def _opcode(type_: str) -> int:
    return TEXT if type_ == "text" else BINARY
