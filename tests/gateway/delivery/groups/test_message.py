from __future__ import annotations

from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.websocket.deflate import DEFLATED_AT_ONCE, packing
from wsraw.gateway.websocket.shared import RAW_KEY, Framed


def test_a_frame_is_made_once_for_each_key() -> None:
    message, shared = PublishedMessage(b"hello", "text"), list[Framed]()
    raw = message.frame(RAW_KEY, shared.append)
    assert raw == b"hello"
    assert message.frame(RAW_KEY, shared.append) is raw
    web = message.frame(0, shared.append)
    assert web == b"\x81\x05hello"
    assert shared == [raw, web]


def test_a_large_frame_is_compressed_piece_by_piece_and_then_kept() -> None:
    message, shared = PublishedMessage(b"hello " * DEFLATED_AT_ONCE, "text"), list[Framed]()
    key, steps = packing(12, 0), 0
    while (frame := message.frame(key, shared.append)) is None:
        steps += 1
    assert steps > 2
    assert shared == [frame]
    assert len(frame) < len(message.data) / 10
    assert message.frame(key, shared.append) is frame
