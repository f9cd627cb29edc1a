"""Sans-I/O. Messages that are framed once and sent to many connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.gateway.websocket.deflate import FramingKey
from wsraw.gateway.websocket.frames import BINARY, COMPRESSED, FINAL, TEXT, write_frame

RAW_KEY: Final = -1
"""The framing key of raw connections."""

_FIRST_BYTES: Final = {"text": FINAL | TEXT, "binary": FINAL | BINARY}


class Framed(bytes):
    """A published message, framed for many connections.

    Only chunks of this type may be dropped from the output of a slow reader.
    """

    freed: Callable[[int], object] | None = None
    """Called with the size of the message when no connection holds it any more."""

    def __del__(self) -> None:
        if self.freed is not None:
            self.freed(len(self))


def frame_message(key: FramingKey, data: bytes, type_: str) -> Framed:
    """A whole message as uncompressed bytes for all connections whose `framing_key` is `key`."""
    return Framed(data if key == RAW_KEY else write_frame(_FIRST_BYTES[type_], data))


def frame_packed(packed: bytes, type_: str) -> Framed:
    """A compressed message as bytes for all connections with the same `framing_key`."""
    return Framed(write_frame(_FIRST_BYTES[type_] | COMPRESSED, packed))
