"""Sans-I/O. Reports the frames of one WebSocket as they are read and written, for a trace.

The reader and the writer of that WebSocket are replaced by ones that report, which take over their
state, and put back later. So other WebSockets are not slowed down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.gateway.websocket.frames import FINAL, KINDS, Frame, FrameReader
from wsraw.gateway.websocket.messages import MessageWriter
from wsraw.gateway.websocket.websocket import WebSocket

Tell = Callable[[bool, str, bool, int, bytes], object]
"""Reports whether the peer has sent the frame, its kind, whether it is final, the size of its
payload, and the payload of a control frame."""

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
"""Attributes of a reader and of a writer."""

_CONTROL: Final = ("close", "ping", "pong")


class WatchedReader(FrameReader):
    """A reader that reports each frame."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Tell) -> None:
        super().__init__(False, 0)
        self._tell = tell

    def read(self, data: bytes) -> list[Frame]:
        """Read frames, and report them."""
        frames = super().read(data)
        for payload, kind, final in frames:
            self._tell(True, kind, final, len(payload), payload if kind in _CONTROL else b"")
        return frames


class WatchedWriter(MessageWriter):
    """A writer that reports each frame."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Tell) -> None:
        super().__init__(False)
        self._tell = tell

    def plain_frame(self, data: bytes, type_: str) -> bytes | None:
        """None: no frame is written without a report."""
        return None

    def _write(self, first: int, data: bytes) -> bytes:
        kind = KINDS[first]
        self._tell(False, kind, first >= FINAL, len(data), data if kind in _CONTROL else b"")
        return super()._write(first, data)


def watch(ws: WebSocket, tell: Tell) -> None:
    """Report the frames of a WebSocket from now on."""
    reader, writer = WatchedReader(tell), WatchedWriter(tell)
    copy(ws.reader, reader, READER)
    copy(ws.writer, writer, WRITER)
    ws.reader, ws.writer = reader, writer


def unwatch(ws: WebSocket) -> None:
    """Stop reporting."""
    if isinstance(ws.reader, WatchedReader):
        reader, writer = FrameReader(False, 0), MessageWriter(False)
        copy(ws.reader, reader, READER)
        copy(ws.writer, writer, WRITER)
        ws.reader, ws.writer = reader, writer


def copy(source: object, target: object, names: tuple[str, ...]) -> None:
    """Copy attributes to another object."""
    for name in names:
        setattr(target, name, getattr(source, name))


def split_frame(frame: bytes) -> tuple[str, int, bytes]:
    """The kind, the size and the payload of a whole unmasked frame."""
    size = frame[1]
    start = {126: 4, 127: 10}.get(size, 2)
    data = bytes(frame[start:])
    return KINDS[frame[0]], len(data), data
