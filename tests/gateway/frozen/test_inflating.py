"""The window of a decompressor can be read, and primes another decompressor."""

from __future__ import annotations

import random
import zlib

import pytest

from wsraw.gateway.frozen.inflating import BROKEN, history, is_between_blocks, primed, stored

SIZES = (0, 1, 2, 3, 257, 258, 259, 511, 512, 513, 5000, 32767, 32768, 32769, 100_000)


def fed(bits: int, data: bytes) -> tuple[zlib._Compress, zlib._Decompress]:
    """Both ends of a stream that has carried this data."""
    ours, theirs = zlib.compressobj(wbits=-bits), zlib.decompressobj(-bits)
    for at in range(0, len(data), 30_000):
        packed = ours.compress(data[at : at + 30_000]) + ours.flush(zlib.Z_SYNC_FLUSH)
        assert theirs.decompress(packed) == data[at : at + 30_000]
    return ours, theirs


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("size", SIZES)
def test_the_window_of_a_decompressor_is_found_and_primes_another_one(bits: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    ours, theirs = fed(bits, data)
    window = history(theirs, bits)
    assert window == data[-(1 << bits) :]
    other = primed(bits, window)
    for message in (data[-300:] + b"refers to it", data[-(1 << bits) :][:300]):
        packed = ours.compress(message) + ours.flush(zlib.Z_SYNC_FLUSH)
        assert other.decompress(packed) == message
        assert theirs.decompress(packed) == message
    assert history(theirs, bits) == history(other, bits)


def test_a_window_of_8_bits_is_read_out_too() -> None:
    theirs = zlib.decompressobj(-8)
    data = bytes(range(256)) * 2
    assert theirs.decompress(stored(data)) == data
    assert history(theirs, 8) == data[-256:]


def test_reading_the_window_changes_nothing() -> None:
    ours, theirs = fed(15, b"hello" * 1000)
    history(theirs, 15)
    packed = ours.compress(b"hello again") + ours.flush(zlib.Z_SYNC_FLUSH)
    assert theirs.decompress(packed) == b"hello again"


@pytest.mark.parametrize("seed", range(20))
def test_in_the_middle_of_a_block_the_window_cannot_be_known(seed: int) -> None:
    data = random.Random(seed).randbytes(seed * 100 + 50)
    packed = zlib.compressobj(wbits=-15)
    whole = packed.compress(data * 3) + packed.flush(zlib.Z_SYNC_FLUSH)
    theirs = zlib.decompressobj(-15)
    theirs.decompress(whole[: len(whole) // 2])
    assert not is_between_blocks(theirs)
    assert history(theirs, 15) is None


def test_what_is_stored_is_read_by_any_decompressor() -> None:
    data = bytes(200_000)
    assert zlib.decompressobj(-9).decompress(stored(data)) == data
    with pytest.raises(zlib.error):
        zlib.decompressobj(-9).decompress(stored(data) + BROKEN)
