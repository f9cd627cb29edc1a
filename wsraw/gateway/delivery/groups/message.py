"""Sans-I/O. A message for many connections, framed and compressed once for all connections with the
same parameters."""

from __future__ import annotations

from collections.abc import Callable

from wsraw.gateway.websocket.deflate import Deflation, FramingKey, Packing
from wsraw.gateway.websocket.shared import Framed, frame_message, frame_packed


class PublishedMessage:
    """A complete message, and its frames."""

    __slots__ = ("_deflations", "_frames", "data", "kind")

    def __init__(self, data: bytes, kind: str) -> None:
        self.data = data
        self.kind = kind
        """`text` or `binary`."""
        self._frames: dict[FramingKey, Framed] = {}
        """By framing key: one frame for all connections with the same key."""
        self._deflations: dict[FramingKey, Deflation] | None = None
        """Frames of a large message that are being compressed."""

    def frame(self, key: FramingKey, share: Callable[[Framed], object]) -> Framed | None:
        """The frame for a key; None while it is being compressed. `share` is called with a new
        frame."""
        frame = self._frames.get(key)
        if frame is None:
            frame = self._make(key)
            if frame is not None:
                self._frames[key] = frame
                share(frame)
        return frame

    def _make(self, key: FramingKey) -> Framed | None:
        data = self.data
        if not isinstance(key, Packing) or len(data) < key.threshold:
            return frame_message(key, data, self.kind)
        if self._deflations is None:
            self._deflations = {}
        deflation = self._deflations.get(key)
        if deflation is None:
            deflation = self._deflations[key] = key.deflation(data)
        packed = deflation.step()
        if packed is None:
            return None
        del self._deflations[key]
        return frame_packed(packed, self.kind)
