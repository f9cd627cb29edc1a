from __future__ import annotations

import errno
import io
import logging
import sys
import threading

import pytest

from tests.deadline import DEADLINE, eventually
from wsraw.supervisor.log import BYTES_KEPT, LEVELS, WRITTEN_AT_ONCE, Log, LogHandler


def lines(stream: io.StringIO) -> list[str]:
    """Without their times."""
    found = stream.getvalue().splitlines()
    for line in found:
        time, space = line[:8], line[8]
        assert time.replace(":", "").isdigit()
        assert space == " "
    return [line[9:] for line in found]


@pytest.mark.parametrize("level", LEVELS)
def test_lines_below_the_level_are_not_shown(level: str) -> None:
    stream = io.StringIO()
    log = Log(stream, level)
    for each in LEVELS:
        log.say(each, "text")
    log.close()
    assert lines(stream) == [f"{each} wsraw: text" for each in LEVELS[LEVELS.index(level) :]]


def test_lines_of_shared_modules_are_logged_as_lines_of_the_supervisor() -> None:
    stream = io.StringIO()
    log = Log(stream, "warning")
    logger = logging.Logger("wsraw.link")
    logger.addHandler(LogHandler(log))
    logger.warning("closed a connection\nby process %d", 7)
    logger.info("not shown")
    try:
        raise ValueError("x")
    except ValueError:
        logger.critical("a fault", exc_info=True)
    log.close()
    told = lines(stream)
    assert told[0] == r"warning wsraw: closed a connection\nby process 7"
    assert told[1] == "error wsraw: a fault"
    assert told[-1] == "error wsraw: ValueError: x"
    assert all(line.startswith("error wsraw: ") for line in told[1:])


def test_lines_of_a_child_are_always_shown() -> None:
    stream = io.StringIO()
    log = Log(stream, "error")
    log.relay("worker 1", "a print")
    log.relay("gateway", "warning: it says: so")
    log.relay("gateway", "no level: here")
    log.relay("worker 2", "")
    log.close()
    assert lines(stream) == [
        "info worker 1: a print",
        "warning gateway: it says: so",
        "info gateway: no level: here",
        "info worker 2: ",
    ]


def test_control_characters_are_not_written_to_the_terminal() -> None:
    stream = io.StringIO()
    log = Log(stream, "error")
    log.relay("gateway", "warning: \x1b]0;title\x07\x9b2J")
    log.relay("worker 1", "a\rb\u2028c\td")
    log.say("error", "the reason\nerror gateway: of a peer")
    log.close()
    assert lines(stream) == [
        r"warning gateway: \x1b]0;title\x07\x9b2J",
        "info worker 1: a\\rb\\u2028c\td",
        r"error wsraw: the reason\nerror gateway: of a peer",
    ]


class Stuck(io.StringIO):
    """Nobody reads until `read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.read = threading.Event()
        self.longest = 0

    def write(self, text: str) -> int:
        self.reached.set()
        self.read.wait()
        self.longest = max(self.longest, len(text))
        return super().write(text)


def fill(log: Log, stream: Stuck, line: str) -> int:
    """What a child prints while nobody reads: so many lines, and five more."""
    log.say("info", "first")
    assert stream.reached.wait(DEADLINE)
    count = 0
    while log._lost < 5:
        log.relay("worker 1", line)
        count += 1
    return count - 5


@pytest.mark.parametrize(
    "line", ["x", "", "x" * 60_000, "é" * 60_000, "\U0001f600" + "x" * 60_000], ids=len
)
def test_lines_that_cannot_be_written_are_bounded_in_bytes(line: str) -> None:
    """circus #732: a supervisor that grew to gigabytes. Lines were counted, and not their bytes."""
    stream = Stuck()
    log = Log(stream, "info")
    count = fill(log, stream, line)
    held = sum(map(sys.getsizeof, log._lines))
    assert held == log._size
    assert BYTES_KEPT - 5 * 65536 < held <= BYTES_KEPT
    log.say("error", "of our own")
    log.close(0.01)
    stream.read.set()
    log.close(10)
    found = lines(stream)
    assert found == [
        "info wsraw: first",
        *[f"info worker 1: {line}"] * count,
        "error wsraw: of our own",
        "warning wsraw: 5 lines lost",
    ]
    assert log._size == 0
    # A text of many lines has the width of the widest of them: so not all are joined.
    assert stream.longest < 8 * WRITTEN_AT_ONCE


def test_lost_lines_are_reported_even_if_no_other_follows() -> None:
    stream = Stuck()
    log = Log(stream, "info")
    fill(log, stream, "x" * 60_000)
    stream.read.set()
    eventually(lambda: "5 lines lost" in stream.getvalue())
    log.close()


class Failing(io.StringIO):
    """Each write fails, until `works` is set."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tries = 0
        self.works = False

    def write(self, text: str) -> int:
        self.tries += 1
        if not self.works:
            raise self.error
        return super().write(text)


DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [DISK_FULL, ValueError("I/O operation on closed file")], ids=repr)
def test_lines_that_could_not_be_written_are_counted_when_the_stream_works_again(
    error: Exception,
) -> None:
    stream = Failing(error)
    log = Log(stream, "info")
    for number in range(3):
        tries = stream.tries
        log.say("info", f"lost {number}")
        eventually(lambda tries=tries: stream.tries > tries)  # type: ignore[misc]
    stream.works = True
    eventually(lambda: "lines lost" in stream.getvalue())
    log.close()
    assert lines(stream) == ["warning wsraw: 3 lines lost"]


def test_a_stream_that_never_works_does_not_delay_the_end() -> None:
    stream = Failing(DISK_FULL)
    log = Log(stream, "info")
    log.say("info", "lost")
    eventually(lambda: stream.tries)
    log.close(10)
    assert not log._writer.is_alive()
    assert stream.tries < 5
