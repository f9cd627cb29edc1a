"""Sans-I/O. Frames of one WebSocket, told as they are read and written: for a trace.

The reader and the writer of that WebSocket are exchanged for ones that tell, with all that they
know, and changed back later. So no other WebSocket does anything for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.gateway.websocket.frames import FINAL, KINDS, Frame, FrameReader
from wsraw.gateway.websocket.messages import MessageWriter
from wsraw.gateway.websocket.websocket import WebSocket

Tell = Callable[[bool, str, bool, int, bytes], object]
"""Whether the peer has sent it, its kind, whether it is final, the bytes of its payload, and the
payload of a control frame."""

READER: Final = (
    "_at",
    "_checked",
    "_limit",
    "_limits",
    "_mask_bit",
    "_payload_at",
    "_rest",
    "error",
    "may_compress",
    "more",
    "needed",
    "special",
)
WRITER: Final = (
    "_codec",
    "_compresses",
    "_deflation",
    "_first_byte",
    "_framing_key",
    "_masks",
    "_plain_below",
    "_tail",
    "under_way",
)
"""What they know."""

_CONTROL: Final = ("close", "ping", "pong")


class WatchedReader(FrameReader):
    """A reader that tells of each frame."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Tell) -> None:
        super().__init__(False, 0)
        self._tell = tell

    def read(self, data: bytes) -> list[Frame]:
        """Read as ever, and tell."""
        frames = super().read(data)
        for payload, kind, final in frames:
            self._tell(True, kind, final, len(payload), payload if kind in _CONTROL else b"")
        return frames


class WatchedWriter(MessageWriter):
    """A writer that tells of each frame."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Tell) -> None:
        super().__init__(False)
        self._tell = tell

    def plain_frame(self, data: bytes, type_: str) -> bytes | None:
        """None: no frame is written without being told."""
        return None

    def _write(self, first: int, data: bytes) -> bytes:
        kind = KINDS[first]
        self._tell(False, kind, first >= FINAL, len(data), data if kind in _CONTROL else b"")
        return super()._write(first, data)


def watch(ws: WebSocket, tell: Tell) -> None:
    """Tell of the frames of a WebSocket from here on."""
    reader, writer = WatchedReader(tell), WatchedWriter(tell)
    copy(ws.reader, reader, READER)
    copy(ws.writer, writer, WRITER)
    ws.reader, ws.writer = reader, writer


def unwatch(ws: WebSocket) -> None:
    """Tell no more."""
    if isinstance(ws.reader, WatchedReader):
        reader, writer = FrameReader(False, 0), MessageWriter(False)
        copy(ws.reader, reader, READER)
        copy(ws.writer, writer, WRITER)
        ws.reader, ws.writer = reader, writer


def copy(source: object, target: object, names: tuple[str, ...]) -> None:
    """Give another object these attributes."""
    for name in names:
        setattr(target, name, getattr(source, name))


def split_frame(frame: bytes) -> tuple[str, int, bytes]:
    """The kind, the size and the payload of a whole frame that is not masked."""
    size = frame[1]
    start = {126: 4, 127: 10}.get(size, 2)
    data = bytes(frame[start:])
    return KINDS[frame[0]], len(data), data
