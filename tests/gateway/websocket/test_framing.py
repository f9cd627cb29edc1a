"""The other end is websockets' own frame."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from wsraw.gateway.websocket.deflate import packing
from wsraw.gateway.websocket.framing import (
    PLAIN_KEY,
    RAW_KEY,
    MessageOrder,
    RefusedError,
    frame_message,
    server_frame,
)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("opcode", [0, 1, 2])
def test_frames_are_as_the_library_makes_them(
    size: int, final: bool, compressed: bool, opcode: int
) -> None:
    data = bytes(size)
    expected = bytearray(Frame(Opcode(opcode), data, final).serialize(mask=False))
    expected[0] |= 0x40 if compressed else 0
    assert server_frame(opcode, data, final, compressed) == expected


def test_a_message_for_many() -> None:
    way = packing(6, 12, 100)
    for kind, opcode in (("text", 1), ("binary", 2)):
        assert frame_message(RAW_KEY, b"data", kind) == b"data"
        plain = server_frame(opcode, b"x" * 100, True, False)
        assert frame_message(PLAIN_KEY, b"x" * 100, kind) == plain
        short = server_frame(opcode, b"x" * 99, True, False)
        assert frame_message(way, b"x" * 99, kind) == short
        packed = frame_message(way, b"x" * 100, kind)
        assert packed[0] == 0xC0 | opcode
        assert packed[1] == len(packed) - 2 < 50
        tail = b"\x00\x00\xff\xff"
        assert zlib.decompressobj(-12).decompress(packed[2:] + tail) == b"x" * 100


@given(st.text(), st.lists(st.integers(0, 50), max_size=5))
def test_text_may_be_cut_anywhere(text: str, cuts: list[int]) -> None:
    data, order = text.encode(), MessageOrder()
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for n, (start, stop) in enumerate(pairwise(borders)):
        final = n == len(borders) - 2
        assert order.check(data[start:stop], "text", final) == (0 if n else 1)
        assert order.under_way == ("" if final else "text")


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([(b"", "raw", True)], "raw"),
        ([(b"\xff", "text", True)], "UTF-8"),
        ([(b"\xc3", "text", True)], "UTF-8"),
        ([(b"\xc3", "text", False), (b"", "text", True)], "UTF-8"),
        ([(b"a", "text", False), (b"b", "binary", True)], "not finished"),
        ([(b"a", "binary", False), (b"b", "text", True)], "not finished"),
    ],
)
def test_refused(frames: list[tuple[bytes, str, bool]], why: str) -> None:
    order = MessageOrder()
    *begin, last = frames
    for frame in begin:
        order.check(*frame)
    with pytest.raises(RefusedError, match=why):
        order.check(*last)
    if begin:
        # It cannot be finished any more.
        for kind in ("text", "binary"):
            with pytest.raises(RefusedError):
                order.check(b"x", kind, True)
    else:
        assert order.check(b"fine", "text", True) == 1
