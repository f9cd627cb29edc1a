"""Lines of a child: records stay records, whatever their text is, and all other lines are text."""

from __future__ import annotations

import io
import random

import pytest

from wsraw.runtime.log.line import (
    EXCEPTION_BYTES,
    MARK,
    MESSAGE_BYTES,
    NAME_BYTES,
    LogLine,
    Subject,
    bounded,
    cut,
    cut_middle,
    decode,
    encode,
    pieces,
)
from wsraw.supervisor.processes.process import LONGEST_LINE

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: ż\tó'
WHOLE = LogLine("error", "it\nfailed", "shop.orders", 68719476737, "203.0.113.7:4", TRACEBACK)


@pytest.mark.parametrize("line", [WHOLE, LogLine("debug", ""), LogLine("critical", '"\\{}')])
def test_a_line_comes_out_as_it_went_in(line: LogLine) -> None:
    written = encode(line)
    assert written.isprintable() or written[1:].isprintable()
    assert decode(written) == ("", line)
    assert decode(f"no line break{written}") == ("no line break", line)


def test_every_beginning_and_every_end_of_a_line_is_text() -> None:
    written = encode(WHOLE)
    for at in range(1, len(written)):
        assert decode(written[:at]) == (written[:at], None)
        assert decode(written[at:]) == (written[at:], None)


class Parts(io.RawIOBase):
    """A pipe whose reads return these bytes in two parts."""

    def __init__(self, data: bytes, at: int) -> None:
        self.parts = [part for part in (data[:at], data[at:]) if part]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self.parts.pop(0) if self.parts else b""
        buffer[: len(part)] = part
        return len(part)


def test_lines_are_the_same_wherever_a_pipe_cuts_them() -> None:
    data = f"printed\n{encode(WHOLE)}\nhalf {encode(LogLine('info', 'ż'))}\nżółw\n".encode()
    for at in range(len(data) + 1):
        # supervisor/processes/process.py reads lines in the same way.
        stream = io.BufferedReader(Parts(data, at))
        lines = []
        while line := stream.readline(LONGEST_LINE):
            lines.append(decode(line.decode("utf-8", "replace").rstrip("\r\n")))
        assert lines == [
            ("printed", None),
            ("", WHOLE),
            ("half ", LogLine("info", "ż")),
            ("żółw", None),
        ]


@pytest.mark.parametrize(
    "forged",
    [
        MARK,
        MARK * 3,
        f"{MARK}{{}}",
        f"{MARK}[]",
        f"{MARK}null",
        f'{MARK}{{"level":"info"}}',
        f'{MARK}{{"level":"fatal","message":"x"}}',
        f'{MARK}{{"level":"info","message":5}}',
        f'{MARK}{{"level":"info","message":"x","connection":-1}}',
        f'{MARK}{{"level":"info","message":"x","connection":9e99}}',
        f'{MARK}{{"level":"info","message":"x"}} {{}}',
        f'{MARK}{{"level":"info","message":"\\ud800"}}',
        f'{MARK}{{"level":"info","message":"\udc80"}}',
        MARK + "[" * 100_000,
    ],
)
def test_what_is_no_record_is_text(forged: str) -> None:
    before, line = decode(forged)
    assert line is None or line.message == r"\ud800"
    assert line is not None or before == forged


def test_a_record_of_another_program_may_have_more_fields() -> None:
    _, line = decode(f'{MARK}{{"message": "m", "level": "info", "source": "gateway", "n": [1]}}')
    assert line == LogLine("info", "m")


def test_garbage_never_raises() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        data = bytes(rng.choices(b'\x1e{}[]":,\\\x00\xff\n levmsgainfo19', k=rng.randrange(80)))
        decode(data.decode("utf-8", "replace"))
        mutated = bytearray(encode(WHOLE).encode())
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        _, line = decode(mutated.decode("utf-8", "replace"))
        if line is not None:
            assert bounded(line) == line


@pytest.mark.parametrize("char", ["x", '"', "\\", "\x00", "\n", "ż", "\u2028", "\U0001f600"])
def test_a_line_of_any_length_fits_on_a_pipe(char: str) -> None:
    text = char * 1_000_000
    written = encode(bounded(LogLine("critical", text, text, 1 << 53, text, text)))
    assert len(written.encode()) < LONGEST_LINE
    _, line = decode(written)
    assert line is not None
    assert len(line.message.encode()) <= MESSAGE_BYTES
    assert len(line.exception.encode()) <= EXCEPTION_BYTES
    assert len(line.logger.encode()) <= NAME_BYTES and len(line.peer.encode()) <= NAME_BYTES


@pytest.mark.parametrize("char", ["x", "ż", "\u2028", "\U0001f600"])
def test_a_cut_text_says_so_and_is_valid_at_every_length(char: str) -> None:
    text = char * 200
    size = len(text.encode())
    assert cut(text, size) == cut_middle(text, size) == text
    for most in range(40, size):
        for short in (cut(text, most), cut_middle(text, most)):
            assert most - 8 < len(short.encode()) <= most
            assert f"({size} bytes in all)" in short
        assert "".join(pieces(text, most)) == text
        assert max(len(piece.encode()) for piece in pieces(text, most)) <= most


def test_a_traceback_is_cut_in_its_middle() -> None:
    short = cut_middle("first\n" + "frame\n" * 100 + "ValueError: x", 100)
    assert short.startswith("first\n") and short.endswith("ValueError: x")


def test_a_subject_is_shown_as_far_as_it_is_known() -> None:
    assert Subject(5, "h:1").label == "connection 5 (h:1)"
    assert Subject(5).label == "connection 5"
    assert Subject(peer="h:1").label == "h:1"
    assert Subject().label == ""
