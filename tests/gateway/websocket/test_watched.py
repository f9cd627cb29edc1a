from __future__ import annotations

import random

import pytest

from tests.corpus import OFFER, UPGRADE, frame
from tests.gateway.websocket.test_websocket import accept, take
from wsraw.config.settings import Settings
from wsraw.gateway.websocket import watched
from wsraw.gateway.websocket.frames import FrameReader
from wsraw.gateway.websocket.messages import MessageWriter
from wsraw.gateway.websocket.websocket import WebSocket

Told = list[tuple[bool, str, bool, int, bytes]]


def opened(deflate: bool = False) -> WebSocket:
    ws = WebSocket(Settings())
    accept(ws, UPGRADE % (OFFER if deflate else b""))
    take(ws)
    return ws


def watch(ws: WebSocket) -> Told:
    told: Told = []
    watched.watch(ws, lambda *frame: told.append(frame))
    return told


def write(ws: WebSocket, data: bytes, kind: str = "text") -> bytes:
    plain = ws.writer.plain_frame(data, kind)
    if plain is not None:
        return plain
    return ws.writer.frame_at_once(ws.writer.check(data, kind, True), data, True)


def test_every_attribute_of_a_reader_and_a_writer_is_taken_over() -> None:
    slots = getattr(FrameReader, "__slots__", watched.READER)
    assert sorted(slots) == sorted(watched.READER)
    slots = getattr(MessageWriter, "__slots__", watched.WRITER)
    assert sorted(slots) == sorted(watched.WRITER)


def test_frames_are_told_in_both_directions() -> None:
    ws = opened()
    told = watch(ws)
    ws.receive_data(frame(0x81, b"hello") + frame(0x89, b"p") + frame(0x02, b"ab"))
    assert take(ws) == b"\x8a\x01p"
    assert write(ws, b"answer") == b"\x81\x06answer"
    ws.close(1000, "bye")
    assert told == [
        (True, "text", True, 5, b""),
        (True, "ping", True, 1, b"p"),
        (True, "binary", False, 2, b""),
        (False, "pong", True, 1, b"p"),
        (False, "text", True, 6, b""),
        (False, "close", True, 5, b"\x03\xe8bye"),
    ]


def test_a_compressed_frame_has_the_bytes_that_it_takes() -> None:
    ws = opened(deflate=True)
    told = watch(ws)
    sent = write(ws, b"x" * 5000)
    assert told == [(False, "compressed text", True, len(sent) - 2, b"")]


@pytest.mark.parametrize("deflate", [False, True])
def test_a_websocket_does_the_same_watched_or_not(deflate: bool) -> None:
    """The watch may begin at any byte, and end at any other."""
    random.seed(deflate)
    stream = b"".join(
        [
            frame(0x81, b"one"), frame(0x01, "ü".encode()[:1]), frame(0x89, b"p"),
            frame(0x80, "ü".encode()[1:]), frame(0x82, bytes(300)), frame(0x81, b"x" * 70_000),
            frame(0x88, b"\x03\xe8bye"),
        ]
    )  # fmt: skip
    for _ in range(60):
        cuts = sorted(random.sample(range(len(stream)), 4))
        plain, other = opened(deflate), opened(deflate)
        for n, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(stream)], strict=True)):
            if n == 1:
                watch(other)
            if n == 3:
                watched.unwatch(other)
                assert type(other.reader) is FrameReader
                assert type(other.writer) is MessageWriter
            assert plain.receive_data(stream[start:end]) == other.receive_data(stream[start:end])
            assert plain.busy == other.busy
            assert take(plain) == take(other)
            if not plain.ended:
                for data, kind in ((b"a" * 10, "text"), (bytes(2000), "binary")):
                    assert write(plain, data, kind) == write(other, data, kind)
        assert plain.ended
        assert (other.ended, other.close_code) == (plain.ended, plain.close_code)


def test_a_message_may_be_under_way_when_the_watch_begins_and_ends() -> None:
    ws = opened()
    writer = ws.writer
    assert writer.frame_at_once(writer.check(b"a", "text", False), b"a", False) == b"\x01\x01a"
    watch(ws)
    writer = ws.writer
    assert writer.frame_at_once(writer.check(b"b", "text", False), b"b", False) == b"\x00\x01b"
    watched.unwatch(ws)
    assert write(ws, b"c") == b"\x80\x01c"


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_is_split_into_what_it_is(size: int) -> None:
    ws = opened()
    data = bytes(size)
    assert watched.split_frame(ws.writer.frame_at_once(2, data, True)) == ("binary", size, data)
