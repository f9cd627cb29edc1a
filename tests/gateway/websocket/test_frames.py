"""Frames, with those of the library websockets as the other end."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from wsraw.gateway.websocket.frames import (
    COMPRESSED,
    FINAL,
    MOST_FRAMES,
    FrameReader,
    write_frame,
    write_masked_frame,
)
from wsraw.gateway.websocket.frames import Frame as Read

LIMIT = 70_000
both_roles = pytest.mark.parametrize("masked", [True, False])


def written(first: int, data: bytes, masked: bool) -> bytes:
    """A frame that the library has written, with any first byte."""
    wire = bytearray(Frame(Opcode.BINARY, data).serialize(mask=masked))
    wire[0] = first
    return bytes(wire)


def reader(masked: bool, limit: int = LIMIT) -> FrameReader:
    return FrameReader(masked, limit)


def read(frames: FrameReader, *chunks: bytes) -> list[Read]:
    found = []
    for chunk in chunks:
        found += frames.read(chunk)
        while frames.more:
            found += frames.read(b"")
    return found


def error(wire: bytes, masked: bool = True, limit: int = LIMIT) -> tuple[int, str] | None:
    frames = reader(masked, limit)
    read(frames, wire)
    return (frames.error.code, frames.error.reason) if frames.error is not None else None


GOOD = {
    0x00: "continuation", 0x80: "continuation", 0x01: "text", 0x81: "text", 0x02: "binary",
    0x82: "binary", 0x88: "close", 0x89: "ping", 0x8A: "pong",
}  # fmt: skip
frame = st.tuples(
    st.sampled_from(sorted(GOOD)),
    st.binary(max_size=8) | st.integers(120, 125).map(bytes),
) | st.tuples(
    st.sampled_from([0x00, 0x80, 0x01, 0x81, 0x82]),
    st.integers(120, 400).map(lambda size: b"x" * size),
)


@both_roles
@given(st.lists(frame, max_size=5), st.lists(st.integers(0, 1500), max_size=5))
def test_frames_of_the_library_come_out_at_any_cut(
    masked: bool, frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(written(first, data, masked) for first, data in frames)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    found = reader(masked)
    expected = [(data, GOOD[first], first >= FINAL) for first, data in frames]
    assert read(found, *(wire[a:b] for a, b in pairwise(edges))) == expected
    assert found.error is None
    assert found.unfinished == 0


@both_roles
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 1000, 8191, 8192, 65535, 65536])
def test_every_length_comes_out_at_every_cut_of_its_head_and_end(masked: bool, size: int) -> None:
    data = random.Random(size).randbytes(size)
    wire = b"".join((written(0x8A, b"", masked), written(0x82, data, masked), b"\x82"))
    near = {*range(24), size // 2, *range(len(wire) - 24, len(wire))}
    for cut in near & set(range(len(wire) + 1)):
        frames = reader(masked)
        found = read(frames, wire[:cut], wire[cut:])
        assert found == [(b"", "pong", True), (data, "binary", True)]
        assert frames.unfinished == 1


@both_roles
def test_single_bytes_come_out_as_frames(masked: bool) -> None:
    wire = b"".join(written(first, b"abcdefg" * first, masked) for first in (0x01, 0x80, 0x82))
    frames = reader(masked)
    found = read(frames, *(wire[i : i + 1] for i in range(len(wire))))
    assert found == [
        (b"abcdefg" * 0x01, "text", False),
        (b"abcdefg" * 0x80, "continuation", True),
        (b"abcdefg" * 0x82, "binary", True),
    ]


@pytest.mark.parametrize("first", range(256))
def test_a_first_byte_is_judged_as_the_library_does(first: int) -> None:
    opcode, final = first & 0x0F, first >= FINAL
    expected = ""
    if opcode not in set(Opcode):
        expected = "invalid opcode"
    elif first & 0x70:
        expected = "reserved bits must be 0"
    elif opcode >= 8 and not final:
        expected = "fragmented control frame"
    got = error(written(first, b"", True))
    assert got == ((1002, expected) if expected else None)
    # The error is reported before the rest of the frame has come.
    assert error(written(first, b"", True)[:2]) == got


@both_roles
def test_the_mask_must_be_there_for_a_server_and_not_for_a_client(masked: bool) -> None:
    for first in (0x81, 0x82, 0x01, 0x89):
        for size in (0, 125, 126, 65536):
            if first & 8 and size > 125:
                continue
            wire = written(first, bytes(size), not masked)
            assert error(wire[:10], masked) == (1002, "incorrect masking")


def test_a_control_frame_has_at_most_125_bytes() -> None:
    for first in (0x88, 0x89, 0x8A):
        assert error(written(first, bytes(125), True)) is None
        for size in (126, 65536):
            assert error(written(first, bytes(size), True)[:10]) == (1002, "control frame too long")


@both_roles
@pytest.mark.parametrize("first", [0x81, 0x02, 0x00])
def test_a_length_above_the_limit_is_refused_before_the_payload_has_come(
    masked: bool, first: int
) -> None:
    for limit in (10, 125, 126, 65535, 65536):
        assert error(written(first, bytes(limit), masked), masked, limit) is None
        head = written(first, bytes(limit + 1), masked)[: -limit - 1]
        frames = FrameReader(masked, limit)
        frames.read(head[: -4 if masked else None])
        assert frames.error is not None
        assert frames.error.code == 1009
        assert frames.error.reason == f"message of more than {limit} bytes"
        assert frames.unfinished == 0
    huge = bytes((first, 0xFF if masked else 0x7F)) + b"\xff" * 8
    assert error(huge, masked) == (1009, f"message of more than {LIMIT} bytes")


@both_roles
def test_frames_before_a_wrong_one_are_read(masked: bool) -> None:
    frames = reader(masked)
    wire = written(0x81, b"a", masked) + written(0x89, b"b", masked) + b"\x83\x80"
    assert read(frames, wire) == [(b"a", "text", True), (b"b", "ping", True)]
    assert frames.error is not None


def test_only_whole_messages_that_are_valid_are_plain() -> None:
    for first, data, special in (
        (0x81, b"a", False), (0x82, b"\xff", False), (0x81, "ü".encode(), False),
        (0x81, b"\xff", True), (0x01, b"a", True), (0x80, b"a", True), (0x89, b"", True),
    ):  # fmt: skip
        frames = reader(True)
        frames.read(written(first, data, True))
        assert frames.special is special
        frames.special = False
        frames.read(written(0x82, b"", True))
        assert frames.special is False


def test_a_read_returns_at_most_64_frames() -> None:
    one = written(0x82, b"x", True)
    frames = reader(True)
    assert len(frames.read(one * (2 * MOST_FRAMES) + one[:3])) == MOST_FRAMES
    assert frames.more
    assert frames.unfinished == MOST_FRAMES * len(one) + 3
    frames.add(one[3:])
    assert len(frames.read(b"")) == MOST_FRAMES
    assert frames.read(b"") == [(b"x", "binary", True)]
    assert not frames.more
    assert frames.unfinished == 0


def test_the_fast_path_stops_behind_a_frame_that_may_be_compressed() -> None:
    wire = b"".join(
        written(first, bytes(size), True)
        for first, size in ((0x41, 150), (0x89, 1), (0x80, 150), (0x82, 100), (0xC2, 0), (0x82, 1))
    )
    for cut in range(len(wire) + 1):
        frames = reader(True, 100)
        frames.allow_compressed()
        groups = []
        for chunk in (wire[:cut], wire[cut:]):
            groups.append(frames.read(chunk))
            while frames.more:
                groups.append(frames.read(b""))
        assert [kind for group in groups for _, kind, _ in group] == [
            *("compressed text", "ping", "continuation", "binary", "compressed binary", "binary")
        ]
        for group in groups:
            assert {kind for _, kind, _ in group[:-1]} <= {"ping", "binary"}


def test_a_compressed_frame_has_a_limit_of_its_own() -> None:
    # zlib expands 100 bytes to this size at most.
    for first, size in ((0x81, 100), (0xC1, 176), (0x00, 176)):
        frames = reader(True, 100)
        frames.allow_compressed()
        assert len(frames.read(written(first, bytes(size), True))) == 1
        frames.read(written(first, bytes(size + 1), True))
        assert frames.error is not None
        assert frames.error.reason == "message of more than 100 bytes"


@both_roles
def test_a_long_frame_in_small_reads_is_never_joined_to_them(masked: bool) -> None:
    """The payload grows in one buffer: joining it again with each read would take quadratic
    time.
    """
    wire = written(0x82, bytes(60_000), masked)
    frames = reader(masked)
    for i in range(0, 21, 7):
        frames.read(wire[i : i + 7])
    kept = frames._rest
    for i in range(21, len(wire), 7):
        assert frames.unfinished == i
        assert frames._rest is kept
        frames.read(wire[i : i + 7])
    assert frames.unfinished == 0


# --- writing ---


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9])
def test_frames_are_as_the_library_makes_them(
    size: int, final: bool, compressed: bool, opcode: int
) -> None:
    if opcode >= 8 and (size > 125 or not final):
        return
    data = random.Random(size).randbytes(size)
    first = opcode | FINAL * final | COMPRESSED * compressed
    expected = written(first, data, False)
    assert write_frame(first, data) == expected
    ours = write_masked_frame(first, data)
    assert len(ours) == len(expected) + 4
    assert write_masked_frame(first, data) != ours
    if compressed:
        return
    ((payload, _, is_final),) = read(reader(True), ours)
    assert (payload, is_final) == (data, final)
