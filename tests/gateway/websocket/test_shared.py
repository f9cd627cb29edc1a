from __future__ import annotations

import zlib

from wsraw.gateway.websocket.deflate import PLAIN_KEY, packing
from wsraw.gateway.websocket.frames import write_frame
from wsraw.gateway.websocket.shared import RAW_KEY, Framed, frame_message, frame_packed


def test_a_message_is_framed_as_its_key_says() -> None:
    way = packing(12, 100)
    for kind, opcode in (("text", 1), ("binary", 2)):
        assert frame_message(RAW_KEY, b"data", kind) == b"data"
        plain = write_frame(0x80 | opcode, b"x" * 100)
        assert frame_message(PLAIN_KEY, b"x" * 100, kind) == plain
        assert frame_message(way, b"x" * 100, kind) == plain
        deflated = way.deflation(b"x" * 100).step()
        assert deflated is not None
        packed = frame_packed(deflated, kind)
        assert packed[0] == 0xC0 | opcode
        assert packed[1] == len(packed) - 2 < 50
        tail = b"\x00\x00\xff\xff"
        assert zlib.decompressobj(-12).decompress(packed[2:] + tail) == b"x" * 100


def test_a_shared_message_reports_its_size_when_it_is_freed() -> None:
    freed: list[int] = []
    framed = frame_message(PLAIN_KEY, b"x" * 10, "text")
    assert type(framed) is Framed
    framed.freed = freed.append
    del framed
    assert freed == [12]
