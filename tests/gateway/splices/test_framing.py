"""Messages in raw bytes, with the bytes cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.splices.framing import FramingError, join, last, split
from wsraw.link.rules import framing_problem

LIMIT = 100
texts = st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").rstrip(b"\r"))


def fed(framing: str, pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    messages: list[bytes] = []
    buffer = bytearray()
    for piece in pieces:
        messages += split(framing, buffer, piece, LIMIT)
    return messages, bytes(buffer)


def framed(framing: str, data: bytes, final: bool) -> bytes:
    return join(framing, bytearray(), data, final)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(n % (len(data) + 1) for n in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(texts, max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_lines_are_the_same_wherever_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\r\n" for line in lines) + b"rest"
    assert fed("line", cut(stream, cuts)) == (lines, b"rest")


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_counted_messages_are_the_same_wherever_the_stream_is_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(framed("length", message, True) for message in messages)
    assert fed("length", cut(stream, cuts)) == (messages, b"")


@given(st.lists(st.tuples(st.binary(max_size=9), st.booleans()), max_size=9))
def test_fragments_of_a_message_are_one_message_for_the_raw_side(
    frames: list[tuple[bytes, bool]],
) -> None:
    stream, buffer, expected, message = b"", bytearray(), [], b""
    for data, final in frames:
        stream += join("length", buffer, data, final)
        message += data
        if final:
            expected.append(message)
            message = b""
    assert fed("length", [stream]) == (expected, b"")
    assert buffer == message


def test_a_carriage_return_ends_a_line_only_with_a_line_feed() -> None:
    assert fed("line", [b"a\r", b"\n\r", b"b\n"]) == ([b"a", b"\rb"], b"")
    assert framed("line", b"one", False) == b"one"
    assert framed("line", b"two", True) == b"two\n"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_a_message_has_at_most_the_limit(size: int) -> None:
    for stream in (b"x" * size + b"\n", b"x" * size + b"\r\n"):
        if size == LIMIT:
            assert fed("line", cut(stream, [5, size])) == ([b"x" * size], b"")
        else:
            with pytest.raises(FramingError, match="a line of more than 100 bytes"):
                fed("line", cut(stream, [5, size]))
    counted = framed("length", b"x" * size, True)
    if size == LIMIT:
        assert fed("length", [counted]) == ([b"x" * size], b"")
    else:
        # The message is refused before its bytes come.
        with pytest.raises(FramingError, match="101 bytes; the maximum is 100"):
            fed("length", [counted[:4]])


def test_an_unfinished_line_counts_at_the_end() -> None:
    assert last("line", bytearray(b"half")) == b"half"
    assert last("line", bytearray(b"")) is None
    assert last("chunk", bytearray(b"")) is None
    with pytest.raises(FramingError, match="within a message"):
        last("length", bytearray(b"\0\0"))


@pytest.mark.parametrize(
    ("framing", "type_", "why"),
    [
        ("", "", ""),
        ("line", "text", ""),
        ("length", "text", ""),
        ("chunk", "binary", ""),
        ("words", "", "framing 'words' is not one of chunk, line, length"),
        ("line", "raw", "neither text nor binary"),
        ("chunk", "text", "needs framing line or length"),
        (None, "text", "needs framing line or length"),
        (7, "", "framing '7' is not one of"),
    ],
)
def test_a_framing_is_accepted_or_refused_with_a_reason(
    framing: object, type_: object, why: str
) -> None:
    assert (why in framing_problem(framing, type_)) and bool(why) == bool(
        framing_problem(framing, type_)
    )
