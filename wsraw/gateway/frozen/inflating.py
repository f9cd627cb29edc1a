"""Sans-I/O. What a decompressor remembers, so that another one can go on in its place.

The messages of a peer that keeps its compression context refer to the last bytes of those before:
as many as its window has. Python's zlib does not give access to them. But a copy of the
decompressor outputs them when it gets a block of matches that refer this many bytes back (RFC 1951,
section 3.2.5). Nothing of this costs anything before the moment of freezing.

That works between two blocks, on a byte boundary. There each message ends, and each frame of a peer
that flushes at its end. In the middle of a block a decompressor waits for something else; then
`history` returns None.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final

_PROBE: Final = bytes(range(97, 129)) + b"\x00\xffprobe"
"""Bytes that a decompressor would not output by accident where it does not accept a stored
block."""

_LONGEST_MATCH: Final = 258

_STORED_MOST: Final = 0xFFFF

BROKEN: Final = b"\x07"
"""Bytes that no decompressor accepts: a block of the reserved type."""


def stored(data: bytes) -> bytes:
    """The data as blocks that are not compressed: any decompressor accepts them between blocks."""
    blocks = []
    for at in range(0, len(data), _STORED_MOST):
        piece = data[at : at + _STORED_MOST]
        size = len(piece)
        blocks += [b"\0", size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), piece]
    return b"".join(blocks)


class _Bits:
    """Bits as DEFLATE packs them: into each byte from its lowest one on."""

    def __init__(self) -> None:
        self._value = 0
        self._count = 0

    def number(self, value: int, count: int) -> None:
        """A number, its lowest bit first."""
        self._value |= value << self._count
        self._count += count

    def code(self, value: int, count: int) -> None:
        """A Huffman code, its highest bit first."""
        self.number(int(f"{value:0{count}b}"[::-1], 2), count)

    def data(self) -> bytes:
        return self._value.to_bytes((self._count + 7) // 8, "little")


def _distance(distance: int) -> tuple[int, int, int]:
    """The code of a distance, how many extra bits it has, and their value."""
    if distance <= 4:
        return distance - 1, 0, 0
    extra = (distance - 1).bit_length() - 2
    first = (distance - 1) >> extra
    return 2 * extra + first, extra, (distance - 1) & ((1 << extra) - 1)


@lru_cache(maxsize=256)
def _matches(distance: int, count: int) -> bytes:
    """A block with fixed codes, of `count` matches of the greatest length at this distance,
    followed by a stored block, so that all of them are output."""
    bits = _Bits()
    bits.number(0b010, 3)
    code, extra, rest = _distance(distance)
    one = _Bits()
    # Length 258 is symbol 285; symbols from 280 on have 8 bits, beginning with 11000000.
    one.code(0b11000000 + 285 - 280, 8)
    one.code(code, 5)
    one.number(rest, extra)
    size = 8 + 5 + extra
    whole = 0
    for number in range(count):
        whole |= one._value << (size * number)
    bits.number(whole, size * count)
    bits.code(0, 7)
    bits.number(0, 3)
    return bits.data() + b"\0\0\xff\xff"


def _print(inflater: zlib._Decompress, distance: int, size: int) -> bytes | None:
    """The `size` bytes that begin at this distance in what was inflated; None if less was
    inflated."""
    try:
        found = inflater.copy().decompress(_matches(distance, -(-size // _LONGEST_MATCH)))
    except zlib.error:
        return None
    return found[:size]


def is_between_blocks(inflater: zlib._Decompress) -> bool:
    """Whether any block may come next, on a byte boundary."""
    if inflater.eof or inflater.unconsumed_tail:
        return False
    try:
        return inflater.copy().decompress(stored(_PROBE)) == _PROBE
    except zlib.error:
        return False


def history(inflater: zlib._Decompress, bits: int) -> bytes | None:
    """What a decompressor remembers, with a window of this many bits; None if that cannot be found
    out now."""
    if not is_between_blocks(inflater):
        return None
    most = 1 << bits
    if (whole := _print(inflater, most, most)) is not None:
        return whole
    # Less than a window was inflated so far: find out how much.
    known, unknown = 0, most
    while unknown - known > 1:
        middle = (known + unknown) // 2
        if _print(inflater, middle, 1) is not None:
            known = middle
        else:
            unknown = middle
    return _print(inflater, known, known) if known else b""


def primed(bits: int, window: bytes) -> zlib._Decompress:
    """A decompressor that remembers this data."""
    if window:
        return zlib.decompressobj(-bits, zdict=window)
    return zlib.decompressobj(-bits)
