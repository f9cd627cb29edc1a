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

    Of the output that waits for a slow reader, only chunks of this type may be dropped.
    """

    freed: Callable[[int], object] | None = None
    """Called with its size when no connection holds it any more."""

    def __del__(self) -> None:
        if self.freed is not None:
            self.freed(len(self))


def frame_message(key: FramingKey, data: bytes, type_: str) -> Framed:
    """A whole message as bytes for all connections whose `framing_key` is `key`, not compressed."""
    return Framed(data if key == RAW_KEY else write_frame(_FIRST_BYTES[type_], data))


def frame_packed(packed: bytes, type_: str) -> Framed:
    """The same for a message that was compressed."""
    return Framed(write_frame(_FIRST_BYTES[type_] | COMPRESSED, packed))
