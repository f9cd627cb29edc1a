"""Sans-I/O. Read and write frames (RFC 6455, section 5). messages.py checks how they fit together.

Nearly every frame is a whole text or binary message that arrived in one read. The loop in
`FrameReader.read` is written for those; other frames take a few more steps in it.
"""

from __future__ import annotations

import secrets
import sys
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:

    def apply_mask(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
        """XOR the data with the mask, which repeats every 4 bytes."""
        size = len(data)
        key = int.from_bytes((bytes(mask) * (size // 4 + 1))[:size], sys.byteorder)
        return (int.from_bytes(data, sys.byteorder) ^ key).to_bytes(size, sys.byteorder)


Frame = tuple[bytes, str, bool]
"""Unmasked payload, kind, and whether it is the last frame of its message (FIN)."""

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

FINAL: Final = 0x80
"""The FIN bit of a frame's first byte."""
COMPRESSED: Final = 0x40
"""The RSV1 bit of a message's first frame: permessage-deflate."""
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_WHOLE_TEXT: Final = FINAL | TEXT
_WHOLE_BINARY: Final = FINAL | BINARY

_KINDS: Final = {
    CONTINUATION: "continuation",
    TEXT: "text",
    BINARY: "binary",
    COMPRESSED | TEXT: "compressed text",
    COMPRESSED | BINARY: "compressed binary",
    FINAL | CONTINUATION: "continuation",
    FINAL | TEXT: "text",
    FINAL | BINARY: "binary",
    FINAL | COMPRESSED | TEXT: "compressed text",
    FINAL | COMPRESSED | BINARY: "compressed binary",
    FINAL | CLOSE: "close",
    FINAL | PING: "ping",
    FINAL | PONG: "pong",
}
"""By a frame's first byte; all others are invalid."""

MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload at most (RFC 6455, section 5.5)."""

COPIED_BELOW: Final = 8 * 1024
"""Bytes of a payload above which unmasking a view of it is faster than copying it first."""

MOST_FRAMES: Final = 64
"""Frames read at a time. A read of 64 KiB can hold 10,900 of them, which take 5 ms."""

_TURNS: Final = range(MOST_FRAMES)

TOO_BIG: Final = 1009


class ViolationError(ValueError):
    """The peer has broken the protocol or passed a limit; `code` is for the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def too_big(limit: int) -> ViolationError:
    """A message above its limit."""
    return ViolationError(TOO_BIG, f"message of more than {limit} bytes")


class FrameReader:
    """Splits the bytes of one peer into frames.

    Limits and header bits are checked before any payload is kept. Each byte of a payload is copied
    a bounded number of times, however many reads the frame arrives in.
    """

    __slots__ = (
        "_at",
        "_first",
        "_is_plain",
        "_limit",
        "_mask",
        "_mask_bit",
        "_missing",
        "_rest",
        "_waits",
        "begun",
        "compressed_limit",
        "error",
        "more",
        "special",
    )

    def __init__(self, masked: bool, limit: int) -> None:
        self._mask_bit = 0x80 if masked else 0
        self._limit = limit
        """Bytes of a data frame's payload at most."""
        self.compressed_limit = -1
        """The same for frames that may be compressed; -1: none may."""
        self.special = False
        """`read` met something other than whole, valid messages. The caller sets it back."""
        self.more = False
        """There may be more frames in the bytes received so far: `read` b"" to get them."""
        self.error: ViolationError | None = None
        """What is wrong with the bytes behind the frames that were read. No more can be read."""
        self._waits = False
        """Bytes are kept in `_rest` or in `begun`."""
        self._rest = b""
        self._at = 0
        """Where in `_rest` the next frame begins."""
        self.begun: bytearray | None = None
        """The part of an incomplete frame's payload that has arrived, unmasked."""
        self._first = 0
        self._missing = 0
        self._mask = b""
        self._is_plain = False
        """That frame is a whole message: binary, or a text that is ASCII so far."""

    def read(self, data: bytes) -> list[Frame]:
        """Return the next complete frames, at most MOST_FRAMES. Stops behind a frame that may be
        compressed, because inflating it may take more than one turn."""
        frames: list[Frame] = []
        at = 0
        if self._waits:
            data, at = self._resume(data, frames)
        end = len(data)
        mask_bit = self._mask_bit
        data_limit = self._limit
        for _ in _TURNS:
            if end - at < 2:
                break
            first = data[at]
            size = data[at + 1] ^ mask_bit
            start = at + 2
            limit = data_limit
            if first != _WHOLE_TEXT and first != _WHOLE_BINARY:
                self.special = True
                limit = self._limit_of(first)
                if limit < 0:
                    self._refuse(first, data[at + 1], limit)
                    at = end
                    break
            if size > 125:
                if size == 126:
                    start = at + 4
                    if start > end:
                        break
                    size = data[at + 2] << 8 | data[at + 3]
                elif size == 127:
                    start = at + 10
                    if start > end:
                        break
                    size = int.from_bytes(data[at + 2 : start], "big")
                else:
                    # The mask bit is wrong.
                    limit = -1
            if size > limit:
                self._refuse(first, data[at + 1], limit)
                at = end
                break
            if mask_bit:
                start += 4
                after = start + size
                if after > end:
                    if start <= end:
                        self._begin(first, size, data, start)
                        at = end
                    break
                if size < COPIED_BELOW:
                    payload = apply_mask(data[start:after], data[start - 4 : start])
                else:
                    payload = apply_mask(memoryview(data)[start:after], data[start - 4 : start])
            else:
                after = start + size
                if after > end:
                    self._begin(first, size, data, start)
                    at = end
                    break
                payload = data[start:after]
            at = after
            if first == _WHOLE_TEXT:
                frames.append((payload, "text", True))
                if not payload.isascii() and not is_utf8(payload):
                    self.special = True
            elif first == _WHOLE_BINARY:
                frames.append((payload, "binary", True))
            else:
                frames.append((payload, _KINDS[first], first >= FINAL))
                if self.compressed_limit >= 0 and not first & CLOSE:
                    self.more = at < end
                    break
        else:
            self.more = at < end
        if at < end:
            self._keep(data, at)
        return frames

    def _keep(self, data: bytes, at: int) -> None:
        """Keep the bytes behind the frames that were read. Whole frames leave none."""
        self._waits = True
        if self.more:
            self.special = True
            self._rest, self._at = data, at
        else:
            self._rest = data[at:]

    def _limit_of(self, first: int) -> int:
        """The longest payload of a frame with this first byte; -1: the byte is invalid."""
        if first not in _KINDS:
            return -1
        if first & CLOSE:
            return MAX_CONTROL
        compressed_limit = self.compressed_limit
        if compressed_limit < 0:
            return -1 if first & COMPRESSED else self._limit
        return compressed_limit if first & COMPRESSED or not first & _OPCODE else self._limit

    def _refuse(self, first: int, second: int, limit: int) -> None:
        """Say what is wrong with the first two bytes of a frame, or with its length."""
        self.special = True
        opcode = first & _OPCODE
        if FINAL | opcode not in _KINDS:
            why = "invalid opcode"
        elif second & 0x80 != self._mask_bit:
            why = "incorrect masking"
        elif first & _RESERVED and limit < 0:
            why = "reserved bits must be 0"
        elif limit < 0:
            why = "fragmented control frame"
        elif opcode >= CLOSE:
            why = "control frame too long"
        else:
            self.error = too_big(self._limit)
            return
        self.error = ViolationError(1002, why)

    # --- frames that arrive in more than one read ---

    def _begin(self, first: int, size: int, data: bytes, start: int) -> None:
        self._waits = True
        self._first = first
        self._missing = size
        self._mask = data[start - 4 : start] if self._mask_bit else b""
        self._is_plain = first in (_WHOLE_TEXT, _WHOLE_BINARY)
        self.begun = bytearray()
        self._extend(data[start:])

    def _extend(self, piece: bytes) -> None:
        size = len(piece)
        self._missing -= size
        if self._mask:
            piece = apply_mask(piece, self._mask)
            # The next piece begins with another byte of the mask.
            self._mask = self._mask[size & 3 :] + self._mask[: size & 3]
        assert self.begun is not None
        self.begun += piece
        if self._first == _WHOLE_TEXT and not piece.isascii():
            self._is_plain = False
        if not self._is_plain:
            self.special = True

    def _resume(self, data: bytes, frames: list[Frame]) -> tuple[bytes, int]:
        """Continue with the bytes that are kept. Returns the bytes to read, and where to begin."""
        begun = self.begun
        if begun is None:
            self.special = self.special or self.more
            self.more = self._waits = False
            rest, at = self._rest, self._at
            self._rest, self._at = b"", 0
            return (rest[at:] + data, 0) if data else (rest, at)
        missing = self._missing
        if len(data) < missing:
            self._extend(data)
            return b"", 0
        self._extend(data[:missing])
        frames.append((bytes(begun), self.begun_kind, self._first >= FINAL))
        self._waits = False
        self.begun = None
        if missing < len(data) and self.compressed_limit >= 0 and not self._first & CLOSE:
            self.more = self._waits = self.special = True
            self._rest, self._at = data, missing
            return b"", 0
        return data, missing

    @property
    def begun_kind(self) -> str:
        """The kind of the incomplete frame."""
        return _KINDS[self._first]

    @property
    def begun_size(self) -> int:
        """Bytes of its payload when it is complete."""
        return self._missing + len(self.begun or b"")

    def add(self, data: bytes) -> None:
        """Keep bytes for the next `read`."""
        if data:
            self._rest = self._rest[self._at :] + data
            self._at = 0
            self.more = self._waits = True

    def clear(self) -> None:
        """Free what is kept: no more will be read."""
        self.more = self._waits = False
        self._rest = b""
        self._at = 0
        self.begun = None

    @property
    def unfinished(self) -> int:
        """Bytes that are kept."""
        return len(self._rest) - self._at + len(self.begun or b"")


def is_utf8(data: bytes) -> bool:
    """Whether the data is a complete text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- writing ---

_TEXT_HEADS: Final = tuple(bytes((_WHOLE_TEXT, size)) for size in range(126))
_BINARY_HEADS: Final = tuple(bytes((_WHOLE_BINARY, size)) for size in range(126))


def write_frame(first: int, data: bytes) -> bytes:
    """A server's frame; `first` is its first byte: an opcode, with FINAL and COMPRESSED."""
    return _head(first, len(data), 0) + data


def write_masked_frame(first: int, data: bytes) -> bytes:
    """A client's frame."""
    mask = secrets.token_bytes(4)
    return _head(first, len(data), 0x80) + mask + apply_mask(data, mask)


def _head(first: int, size: int, mask_bit: int) -> bytes:
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")


def write_plain_frame(data: bytes, type_: str) -> bytes | None:
    """A server's frame of a whole message; None if the message has to be checked first."""
    # On the hot path: checking the order of frames costs twice as much as this.
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
    return write_frame(heads[0][0], data)
