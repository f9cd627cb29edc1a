"""Sans-I/O. Bytes that have come and are not parsed yet."""

from __future__ import annotations

from typing import Final

from wsraw.gateway.websocket.frames import MOST_FRAMES
from wsraw.gateway.websocket.messages import DataFrame
from wsraw.gateway.websocket.websocket import WebSocket

SLICE: Final = 4 * 1024
"""Bytes of a compressed connection that are parsed at a time; deflate can make a thousand times as
many of them."""


class Intake:
    """What is held of a peer's bytes, why, and what the last read was."""

    __slots__ = ("eof", "half_closed", "has_more", "held", "parsed", "paused", "sliced")

    def __init__(self) -> None:
        self.held = b""
        self.sliced = False
        """Bytes are held first and parsed in slices: what they inflate to has a limit a turn."""
        self.has_more = False
        """Not all that has come is parsed, and not because of a pause: `resume` it next turn."""
        self.parsed = 0
        """Frames of any kind that came of the last `receive_data` or `resume`: a measure of the
        work that a peer makes. Raw connections have none."""
        self.paused = False
        self.eof = False
        """The peer has shut its side, and what it sent before is still held."""
        self.half_closed = False
        """The peer sends nothing more that counts (EOF of a raw peer, a violation); what it sent is
        still being handled."""

    def parse(self, ws: WebSocket, most_bytes: float) -> list[DataFrame]:
        """Parse slice by slice, until a turn's share of frames or of bytes is parsed."""
        held = self.held
        frames: list[DataFrame] = []
        size = start = parsed = 0
        while (
            size <= most_bytes
            and parsed < MOST_FRAMES
            and not ws.ended
            and (ws.busy or start < len(held))
        ):
            if ws.busy:
                found = ws.receive_data(b"")
            else:
                found = ws.receive_data(held[start : start + SLICE])
                start += SLICE
            parsed += ws.parsed
            size += sum([len(data) for data, _, _ in found])
            frames += found
            if ws.busy:
                break
        self.parsed = parsed
        self.held = held[start:]
        self.has_more = ws.busy or bool(self.held)
        self.sliced = ws.deflates or bool(self.held)
        return frames

    def clear(self) -> None:
        """Drop what is held."""
        self.held = b""
        self.has_more = False
