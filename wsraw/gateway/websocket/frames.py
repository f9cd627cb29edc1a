"""Sans-I/O. Read and write frames (RFC 6455, section 5). messages.py checks how they fit together.

Nearly every frame is a whole text or binary message that arrived in one read. The loop in
`FrameReader.read` is optimized for such frames; other frames take a few more steps.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from random import SystemRandom
from typing import Final

# The same function that the module secrets uses, which would load OpenSSL.
_RANDOM: Final = SystemRandom()

_Mask = Callable[[bytes | bytearray | memoryview, bytes | bytearray], bytes]
"""XOR of a payload with its mask."""


def _mask_in_c() -> _Mask | None:
    """The masking function of the websockets library, without the rest of that library, which loads
    the module importlib.metadata, and with it email, zipfile and forty others: 3 MiB for nothing.
    None if the library was installed without its C extension."""
    package = find_spec("websockets")
    places = package.submodule_search_locations if package is not None else None
    found = PathFinder.find_spec("websockets.speedups", places) if places else None
    if found is None or found.loader is None:
        return None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    mask: _Mask | None = getattr(module, "apply_mask", None)
    return mask


def _mask_in_python() -> _Mask:
    from websockets.utils import apply_mask

    return apply_mask


apply_mask: Final = _mask_in_c() or _mask_in_python()

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

KINDS: Final = {
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
"""Kinds of frames by their first byte; all other bytes are invalid."""

MAX_CONTROL: Final = 125
"""Bytes that a control frame's payload may have (RFC 6455, section 5.5)."""

COPIED_BELOW: Final = 8 * 1024
"""Bytes of a payload above which unmasking a view of it is faster than copying it first."""

MOST_FRAMES: Final = 64
"""Frames read at a time. A read of 64 KiB can hold 10,900 frames, which take 5 ms."""

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

    def __init__(self, masked: bool, limit: int) -> None:
        self._mask_bit = 0x80 if masked else 0
        self._limit = limit
        """Bytes that a data frame's payload may have."""
        self._limits = _limits(limit, False)
        self.may_compress = False
        self.special = False
        """`read` met something other than whole, valid messages. The caller sets it back."""
        self.more = False
        """There may be more frames in the bytes received so far: `read` b"" to get them."""
        self.error: ViolationError | None = None
        """What is wrong with the bytes behind the frames that were read. No more frames can be
        read."""
        self._rest: bytes | bytearray = b""
        """Bytes that are kept; the next frame begins at `_at`."""
        self._at = 0
        self.needed = 0
        """Bytes of that frame, if its head is complete and its payload is not."""
        self._payload_at = 0
        """Where the payload of such a frame begins, counted from the frame's first byte."""
        self._checked = 0
        """Bytes of such a payload that are valid text."""

    def allow_compressed(self) -> None:
        self.may_compress = True
        self._limits = _limits(self._limit, True)

    def read(self, data: bytes) -> list[Frame]:
        """Return the next complete frames, at most MOST_FRAMES. Stops behind a frame that may be
        compressed, because inflating it may take more than one turn."""
        frames: list[Frame] = []
        at = 0
        if self._rest:
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
                limit = self._limits.get(first, -1)
            if size > 125 and limit >= 0:
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
                    self.needed = after - at
                    self._payload_at = start - at
                break
            if not mask_bit:
                payload = data[start:after]
            elif size < COPIED_BELOW:
                payload = apply_mask(data[start:after], data[start - 4 : start])
            else:
                payload = apply_mask(memoryview(data)[start:after], data[start - 4 : start])
            at = after
            if first == _WHOLE_TEXT:
                frames.append((payload, "text", True))
                if not payload.isascii() and not is_utf8(payload):
                    self.special = True
            elif first == _WHOLE_BINARY:
                frames.append((payload, "binary", True))
            else:
                frames.append((payload, KINDS[first], first >= FINAL))
                if self.may_compress and not first & CLOSE:
                    self.more = at < end
                    break
        else:
            self.more = at < end
        if at < end:
            self._keep(data, at)
        return frames

    def _keep(self, data: bytes, at: int) -> None:
        """Keep the bytes behind the frames that were read. Whole frames leave none."""
        if self.more:
            self._rest, self._at = data, at
        else:
            self._rest = data[at:]
            if self.needed:
                self._check_begun()

    def _resume(self, data: bytes, frames: list[Frame]) -> tuple[bytes, int]:
        """Continue with the bytes that are kept. Returns the bytes to read, and where to begin."""
        rest, at = self._rest, self._at
        if not self.needed:
            self.clear()
            return bytes(rest[at:] + data if data else rest), 0 if data else at
        missing = self.needed - len(rest)
        if len(data) < missing:
            # The buffer grows in place: joining it again with each read would cost the square of
            # its length.
            self._rest = rest = bytearray(rest) if isinstance(rest, bytes) else rest
            rest += data
            self._check_begun()
            return b"", 0
        rest += data[:missing]
        self._rest = rest
        first = rest[0]
        payload = self.begun(0)
        frames.append((payload, KINDS[first], first >= FINAL))
        if first == _WHOLE_TEXT:
            self.special = self.special or not (payload.isascii() or is_utf8(payload))
        elif first != _WHOLE_BINARY:
            self.special = True
        self.clear()
        if self.may_compress and not first & CLOSE and missing < len(data):
            self.more = True
            self._keep(data, missing)
            return b"", 0
        return data, missing

    def _refuse(self, first: int, second: int, limit: int) -> None:
        """Report what is wrong with the first two bytes of a frame, or with its length."""
        self.special = True
        opcode = first & _OPCODE
        if FINAL | opcode not in KINDS:
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

    # --- a frame that arrives in more than one read ---

    @property
    def begun_head(self) -> tuple[str, int]:
        """The kind of the incomplete frame, and the size of its complete payload."""
        return KINDS[self._rest[0]], self.needed - self._payload_at

    def begun(self, at: int) -> bytes:
        """The payload of the incomplete frame so far, without the first `at` bytes."""
        rest, start = self._rest, self._payload_at
        if not self._mask_bit:
            return bytes(rest[start + at :])
        # The mask repeats every 4 bytes.
        behind = at & 3
        piece = rest if len(rest) < COPIED_BELOW else memoryview(rest)
        return apply_mask(piece[start + at - behind :], rest[start - 4 : start])[behind:]

    def _check_begun(self) -> None:
        """Check whether the incomplete frame can still become a whole, valid message."""
        first = self._rest[0]
        if first == _WHOLE_TEXT:
            text = self.begun(self._checked)
            if text.isascii():
                self._checked += len(text)
                return
            try:
                self._checked += utf_8_decode(text)[1]
                return
            except UnicodeDecodeError:
                pass
        if first != _WHOLE_BINARY:
            self.special = True

    def add(self, data: bytes) -> None:
        """Keep bytes for the next `read`."""
        if data:
            self._rest = self._rest[self._at :] + data
            self._at = 0
            self.more = True

    def clear(self) -> None:
        """Free the kept bytes."""
        self.more = False
        self._rest = b""
        self._at = self.needed = self._checked = 0

    @property
    def unfinished(self) -> int:
        """Number of kept bytes."""
        return len(self._rest) - self._at


@cache
def _limits(limit: int, may_compress: bool) -> dict[int, int]:
    """Bytes of the longest payload by a frame's first byte; all other bytes are invalid."""
    # Data that cannot be compressed grows a little (zlib's deflateBound).
    compressed = limit + (limit >> 3) + 64
    limits = dict.fromkeys(KINDS, limit)
    for first in KINDS:
        if first & CLOSE:
            limits[first] = MAX_CONTROL
        elif may_compress and (first & COMPRESSED or not first & _OPCODE):
            limits[first] = compressed
        elif first & COMPRESSED:
            del limits[first]
    return limits


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- writing ---


def write_frame(first: int, data: bytes) -> bytes:
    """A server's frame; `first` is its first byte: an opcode, with FINAL and COMPRESSED."""
    return write_head(first, len(data)) + data


def write_masked_frame(first: int, data: bytes) -> bytes:
    mask = _RANDOM.randbytes(4)
    return write_head(first, len(data), 0x80) + mask + apply_mask(data, mask)


def write_head(first: int, size: int, mask_bit: int = 0) -> bytes:
    """The head of a frame with a payload of this size, without its mask."""
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")
