from __future__ import annotations

import codecs
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.settings import Settings
from wsraw.gateway.websocket.deflate import Codec, Terms
from wsraw.gateway.websocket.frames import FrameReader, ViolationError, write_frame
from wsraw.gateway.websocket.heads import Head
from wsraw.gateway.websocket.messages import (
    NOT_COPIED_FROM,
    DataFrame,
    MessageReader,
    MessageWriter,
    RefusedError,
    write_plain_frame,
)


class Received:
    """What a client reads from a server's bytes, up to the first error."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.frames = FrameReader(False, settings.max_message_size)
        self.messages = MessageReader(settings)
        self.data: list[DataFrame] = []

    def take(self, wire: bytes) -> None:
        for data, kind, final in self.frames.read(wire):
            if kind not in ("ping", "pong"):
                self.messages.take(data, kind, final, self.data)
        if self.frames.error is not None:
            raise self.frames.error
        if self.frames.needed:
            self.messages.check_begun(self.frames)


def taken(wire: bytes, settings: Settings | None = None) -> tuple[int, ViolationError | None]:
    """How many bytes are valid if they come one by one, and what is wrong with the next one."""
    received = Received(settings)
    for at in range(len(wire)):
        try:
            received.take(wire[at : at + 1])
        except ViolationError as error:
            return at, error
    return len(wire), None


BAD_TEXTS = [
    b"\xff",
    b"good\xff",
    b"\xc0\x80",
    b"\xc3(",
    "grün".encode() + b"\xed\xa0\x80 after",
    b"\xe0\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    "κόσμε".encode() + b"\xed\xa0\x80edited",
    "😀".encode()[:3] + b"x",
    b"\x80",
]


def first_wrong(text: bytes) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(len(text)):
        try:
            decoder.decode(text[at : at + 1])
        except UnicodeDecodeError:
            return at
    raise AssertionError(text)


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_text_that_is_not_utf8_is_found_with_its_first_wrong_byte(text: bytes) -> None:
    wrong = first_wrong(text)
    good, error = taken(write_frame(0x81, text))
    assert good == 2 + wrong
    assert error is not None
    assert error.code == 1007
    for cut in range(len(text) + 1):
        good, error = taken(
            write_frame(0x01, text[:cut]) + write_frame(0x89, b"p") + write_frame(0x80, text[cut:])
        )
        assert good == 2 + wrong + (3 + 2 if wrong >= cut else 0)
        assert error is not None
        assert error.code == 1007


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_the_error_of_a_text_does_not_depend_on_its_cuts(text: bytes) -> None:
    for first in range(len(text) + 1):
        wire = write_frame(0x01, text[:first]) + write_frame(0x80, text[first:])
        reasons = {taken(wire)[1].reason}  # type: ignore[union-attr]
        for cut in range(len(wire) + 1):
            received = Received()
            with pytest.raises(ViolationError) as caught:
                for chunk in (wire[:cut], wire[cut:]):
                    received.take(chunk)
            reasons.add(caught.value.reason)
        assert len(reasons) == 1


@pytest.mark.parametrize("text", ["ü", "aä€😀b", "😀😀"])
def test_a_text_that_ends_within_a_code_point_is_refused(text: str) -> None:
    data = text.encode()
    for end in range(len(data)):
        whole = data[:end]
        try:
            whole.decode()
        except UnicodeDecodeError:
            good, error = taken(write_frame(0x81, whole))
            assert (good, error is not None and error.code) == (2 + end - 1, 1007)
            good, error = taken(write_frame(0x01, whole) + write_frame(0x80, b""))
            assert (good, error is not None and error.code) == (2 + end + 1, 1007)
        else:
            assert taken(write_frame(0x81, whole))[1] is None


@given(
    st.text(max_size=12) | st.binary(max_size=12),
    st.lists(st.integers(0, 40), max_size=4),
    st.lists(st.integers(0, 80), max_size=4),
    st.booleans(),
)
def test_a_message_comes_out_whole_however_it_was_cut(
    message: str | bytes, borders: list[int], cuts: list[int], joins: bool
) -> None:
    kind = "text" if isinstance(message, str) else "binary"
    data = message.encode() if isinstance(message, str) else message
    edges = [0, *sorted(min(border, len(data)) for border in borders), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    wire = b""
    for number, part in enumerate(parts):
        opcode = (1 if kind == "text" else 2) if number == 0 else 0
        wire += write_frame(opcode | 0x80 * (number == len(parts) - 1), part)
    received = Received(Settings(messages="whole" if joins else "frames"))
    ends = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for a, b in pairwise(ends):
        received.take(wire[a:b])
    assert b"".join(data for data, _, _ in received.data) == data
    assert {type_ for _, type_, _ in received.data} == {kind}
    if joins:
        assert received.data == [(data, kind, True)]
    else:
        assert [final for _, _, final in received.data] == [False] * (len(parts) - 1) + [True]
    if kind == "text":
        for part, _, _ in received.data:
            part.decode()
    assert received.messages.unfinished == 0
    assert not received.messages.under_way


@pytest.mark.parametrize(
    ("before", "first"), [(b"", 0x80), (b"", 0x00), (b"\x01\x01a", 0x81), (b"\x02\x01a", 0x01)]
)
def test_a_frame_out_of_order_is_refused_at_its_head(before: bytes, first: int) -> None:
    good, error = taken(before + write_frame(first, b"payload"))
    assert good == len(before) + 1
    assert error is not None
    assert error.code == 1002


def test_a_message_above_its_limit_is_refused_at_the_head_of_a_frame() -> None:
    settings = Settings(max_message_size=10)
    good = write_frame(0x02, bytes(6)) + write_frame(0x89, b"ping")
    assert taken(good + write_frame(0x80, bytes(4)), settings)[1] is None
    at, error = taken(good + write_frame(0x80, bytes(5)), settings)
    assert at == len(good) + 1
    assert error is not None
    assert (error.code, error.reason) == (1009, "message of more than 10 bytes")


# --- sending ---


def writer(*, masks: bool = False) -> MessageWriter:
    return MessageWriter(masks)


@given(st.text(), st.lists(st.integers(0, 50), max_size=5))
def test_text_that_we_send_may_be_cut_anywhere(text: str, cuts: list[int]) -> None:
    data, order = text.encode(), writer()
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
def test_messages_that_cannot_be_sent_are_refused(
    frames: list[tuple[bytes, str, bool]], why: str
) -> None:
    order = writer()
    *begin, last = frames
    for frame in begin:
        order.check(*frame)
    with pytest.raises(RefusedError, match=why):
        order.check(*last)
    if begin:
        # The message cannot be finished any more.
        for kind in ("text", "binary"):
            with pytest.raises(RefusedError):
                order.check(b"x", kind, True)
    else:
        assert order.check(b"fine", "text", True) == 1


def test_a_plain_frame_is_made_only_where_nothing_is_unusual() -> None:
    order = writer()
    assert order.plain_frame(b"a", "text") == b"\x81\x01a"
    assert order.plain_frame(b"\xff", "text") is None
    assert writer(masks=True).plain_frame(b"a", "text") is None
    order.check(b"a", "text", False)
    assert order.plain_frame(b"a", "text") is None
    order.check(b"a", "text", True)
    order.use(Codec(Terms(12, 12, False, False), Settings(deflate_from=2)))
    assert order.plain_frame(b"a", "text") == b"\x81\x01a"
    assert order.plain_frame(b"aa", "text") is None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_plain_frame_is_the_same_frame(size: int) -> None:
    data = b"x" * size
    for kind, first in (("text", 0x81), ("binary", 0x82)):
        frame = write_plain_frame(data, kind)
        assert frame is not None
        is_head = type(frame) is Head
        assert is_head == (size >= NOT_COPIED_FROM)
        assert frame + (data if is_head else b"") == write_frame(first, data)
    assert write_plain_frame("ü".encode(), "text") is None
    assert write_plain_frame("ü".encode(), "binary") == write_frame(0x82, "ü".encode())
    assert write_plain_frame(data, "raw") is None
