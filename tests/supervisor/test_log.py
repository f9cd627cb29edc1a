from __future__ import annotations

import io
import threading

import pytest

from wsraw.supervisor.log import LEVELS, LINES_KEPT, Log


def lines(stream: io.StringIO) -> list[str]:
    """Without their times."""
    found = stream.getvalue().splitlines()
    for line in found:
        time, space = line[:8], line[8]
        assert time.replace(":", "").isdigit()
        assert space == " "
    return [line[9:] for line in found]


@pytest.mark.parametrize("level", LEVELS)
def test_it_shows_what_it_should(level: str) -> None:
    stream = io.StringIO()
    log = Log(stream, level)
    for each in LEVELS:
        log.say(each, "text")
    log.close()
    assert lines(stream) == [f"{each} wsraw: text" for each in LEVELS[LEVELS.index(level) :]]


def test_a_childs_lines_are_always_shown() -> None:
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


def test_a_closed_stream_does_not_matter() -> None:
    stream = io.StringIO()
    log = Log(stream, "info")
    stream.close()
    log.say("error", "unheard")
    log.close()


class Stuck(io.StringIO):
    """Nobody reads until `read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.read = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.read.wait()
        return super().write(text)


def test_nobody_waits_for_whoever_reads_it() -> None:
    stream = Stuck()
    log = Log(stream, "info")
    log.say("info", "first")
    assert stream.reached.wait(10)
    for number in range(LINES_KEPT + 7):
        log.say("info", str(number))
    log.close(0.01)
    stream.read.set()
    log.close(10)
    found = lines(stream)
    assert found[:2] == ["info wsraw: first", "info wsraw: 0"]
    assert found[-2:] == [f"info wsraw: {LINES_KEPT - 1}", "warning wsraw: 7 lines lost"]
