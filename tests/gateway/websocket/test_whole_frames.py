"""The short way must never differ from the library's."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from wsraw.config.checks import from_options
from wsraw.gateway.websocket.receiver import DataFrame
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.gateway.websocket.whole_frames import MOST, is_pong, may_become_whole, take_whole

HEAD = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SETTINGS = from_options({"max_message_size": 300, "messages": "frames"})
MASKED, PLAIN = 0x80, 0


def masked(opcode: int, data: bytes, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


def standing() -> WebSocket:
    ws = WebSocket.server(SETTINGS)
    ws.accept(HEAD)
    ws.output.clear()
    return ws


def outcome(chunks: list[bytes], short: bool) -> tuple[object, ...]:
    ws = standing()
    frames: list[DataFrame] = []
    for chunk in chunks:
        if not short:
            ws._protocol.between_frames = False
        frames += ws.receive_data(chunk)
    return frames, ws.ended, ws.close_code, ws.close_reason, ws.error, b"".join(ws.output)


data = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=6).map(str.encode),
    st.integers(120, 310).map(lambda n: b"x" * n),
)
frame = st.one_of(
    st.builds(masked, st.sampled_from([1, 2]), data),
    st.builds(masked, st.sampled_from([0, 1, 2]), data, st.booleans()),
    st.builds(masked, st.sampled_from([9, 10]), st.binary(max_size=3)),
    st.sampled_from(
        [masked(8, b"\x03\xe8"), b"\x81\x80", b"\xc1\x81abcd1", b"\x81\x01a", b"\x85\x80"]
    ),
    # A length in two or eight bytes that would have fitted in one.
    st.just(b"\x82\xfe\x00\x02\0\0\0\0ab"),
    st.just(b"\x82\xff" + bytes(7) + b"\x02\0\0\0\0ab"),
)


@given(st.lists(frame, max_size=6).map(b"".join), st.lists(st.integers(0, 400), max_size=4))
def test_what_comes_of_bytes_is_what_the_library_makes_of_them(
    wire: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    chunks = [wire[a:b] for a, b in pairwise(edges) if a < b]
    assert outcome(chunks, short=True) == outcome(chunks, short=False)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535])
@pytest.mark.parametrize("mask", [MASKED, PLAIN])
def test_every_beginning_of_a_frame_waits_for_its_rest(size: int, mask: int) -> None:
    whole = Frame(Opcode.BINARY, b"a" * size).serialize(mask=bool(mask))
    frames: list[DataFrame] = []
    for end in {*range(1, min(len(whole), 150)), len(whole) - 1}:
        assert take_whole(whole[:end], mask, 1 << 20, frames) == 0
        assert may_become_whole(whole[:end], 0, mask, 1 << 20)
    assert not frames
    assert take_whole(whole, mask, 1 << 20, frames) == len(whole)
    assert frames == [(b"a" * size, "binary", True)]


@pytest.mark.parametrize(
    "wire",
    [
        masked(9, b""),
        masked(1, b"a", False),
        masked(2, b"x" * 11),
        masked(2, b"x" * 65536),
        masked(1, b"\xff"),
        b"\x82\x01a",
        b"\xc2\x81abcda",
    ],
)
def test_all_else_is_left_to_the_library(wire: bytes) -> None:
    frames: list[DataFrame] = []
    assert take_whole(wire, MASKED, 10, frames) == 0
    assert not may_become_whole(wire, 0, MASKED, 10)
    assert not frames


def test_a_long_message_is_not_kept_twice() -> None:
    """What is longer than a read goes to the library at once: joined anew with each read it would
    cost the square of its length."""
    wire = masked(2, b"x" * 70_000)
    assert not may_become_whole(wire[:1000], 0, MASKED, 1 << 20)


def test_so_many_are_taken_at_a_time() -> None:
    one = masked(1, b"x")
    frames: list[DataFrame] = []
    assert take_whole(one * (MOST + 1), MASKED, 300, frames) == MOST * len(one)
    assert len(frames) == MOST
    ws = standing()
    assert len(ws.receive_data(one * (2 * MOST) + one[:3])) == MOST
    assert (ws.busy, ws.parsed) == (True, MOST)
    assert len(ws.receive_data(b"")) == MOST
    assert (ws.busy, ws.unfinished) == (True, 3)
    assert ws.receive_data(one[3:]) == [(b"x", "text", True)]
    assert (ws.busy, ws.parsed, ws.unfinished) == (False, 1, 0)


@pytest.mark.parametrize("size", [0, 1, 125])
@pytest.mark.parametrize("mask", [MASKED, PLAIN])
def test_a_pong_that_comes_alone(size: int, mask: int) -> None:
    pong = Frame(Opcode.PONG, b"p" * size).serialize(mask=bool(mask))
    assert is_pong(pong, 0, mask)
    assert is_pong(b"xy" + pong, 2, mask)
    assert not is_pong(pong, 0, mask ^ 0x80)
    assert not is_pong(pong + b"\x8a", 0, mask)
    assert not any(is_pong(pong[:end], 0, mask) for end in range(1, len(pong)))


@pytest.mark.parametrize(
    "wire", [b"\x8a", b"\x8a\x80", b"\x0a\x80abcd", b"\x9a\x80abcd", b"\x8a\xfe\x00\x02abcdxx"]
)
def test_no_such_pong(wire: bytes) -> None:
    assert not is_pong(wire, 0, MASKED)


def test_a_pong_is_no_event_and_yet_a_frame() -> None:
    ws = standing()
    for wire, parsed in ((masked(10, b"x"), 1), (masked(1, b"a") + masked(10, b""), 2)):
        ws.receive_data(wire)
        assert (ws.parsed, ws.busy, ws.ended, ws.output) == (parsed, False, False, [])
    assert ws._protocol.between_frames
    # The library does not even make one that is too long.
    ws.receive_data(b"\x8a\xfe\x00\x7e" + bytes(130))
    assert ws.close_code == 1002
