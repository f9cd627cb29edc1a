from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, eventually
from wsraw.runtime.log.formats import as_journal, as_json, as_text
from wsraw.runtime.log.line import MARK, MESSAGE_BYTES, LogLine, encode
from wsraw.supervisor import log as log_module
from wsraw.supervisor.log import (
    BURST,
    BYTES_KEPT,
    LEVELS,
    WRITTEN_AT_ONCE,
    Log,
    LogHandler,
    format_for,
    lines_of_output,
)


def lines(stream: io.StringIO) -> list[str]:
    """The lines without their times."""
    found = [line.split(" ", 1) for line in stream.getvalue().splitlines()]
    for when, _ in found:
        assert datetime.fromisoformat(when).tzinfo is not None
    return [rest for _, rest in found]


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
    assert told[1] == "critical wsraw: a fault"
    assert told[-1] == "critical wsraw: ValueError: x"
    assert all(line.startswith("critical wsraw: ") for line in told[1:])


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
    """A stream that blocks until `read` is set."""

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
    """Fill the log while the stream blocks: returns the number of lines that fit, and then loses
    five.
    """
    log.say("info", "first")
    assert stream.reached.wait(DEADLINE)
    count = 0
    while log._lost < 5:
        log.relay("worker 1", line)
        count += 1
    return count - 5


@pytest.mark.parametrize(
    "line", ["x", "", "x" * 16_000, "é" * 8_000, "\U0001f600" + "x" * 16_000], ids=len
)
def test_lines_that_cannot_be_written_are_bounded_in_bytes(line: str) -> None:
    """A supervisor grew to gigabytes because it counted lines instead of bytes (circus #732)."""
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
    # A text of many lines has the width of its widest line, so the lines are not all joined.
    assert stream.longest < 8 * WRITTEN_AT_ONCE


def test_lost_lines_are_reported_even_if_no_other_follows() -> None:
    stream = Stuck()
    log = Log(stream, "info")
    fill(log, stream, "x" * 16_000)
    stream.read.set()
    eventually(lambda: "5 lines lost" in stream.getvalue())
    log.close()


class Failing(io.StringIO):
    """A stream whose writes fail until `works` is set."""

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


# --- output of children ---

ORDER = LogLine("warning", "an order", "shop", 5, "h:1", "Traceback\nValueError")


def test_a_record_of_a_child_keeps_its_level_its_traceback_and_its_connection() -> None:
    stream = io.StringIO()
    log = Log(stream, "error", as_json)
    log.relay("worker 1", f"half a line{encode(ORDER)}", "chat")
    log.close()
    half, order = map(json.loads, stream.getvalue().splitlines())
    assert (half["level"], half["message"], half["pool"]) == ("info", "half a line", "chat")
    assert order["level"] == "warning" and order["exception"] == "Traceback\nValueError"
    assert (order["logger"], order["connection"], order["peer"]) == ("shop", 5, "h:1")


FORGERIES = [
    "",
    MARK,
    f"{MARK}{MARK}x",
    "error: a level of its own",
    "error worker 2: another name",
    "2026-11-29T00:00:00.000+00:00 error gateway: a time and another name",
    f'{MARK}{{"level":"error","message":"x","source":"gateway","time":"2000","pool":"other"}}',
    f'{MARK}{{"level":"error","message":"x\\n2000 error gateway: y\\r\\u2028z"}}',
    f'{MARK}{{"level":"error","message":"x","exception":"a\\n2000 error gateway: y"}}',
    f'{MARK}{{"level":"error","message":"{{\\"source\\":\\"gateway\\"}}"}}',
    '{"time":"2000","level":"error","source":"gateway","message":"a line as it looks"}',
    "\x00\x1b[2J\udc80\ufffd\u202e",
    "x" * 70_000,
    "\x00" * 70_000,
]


@pytest.mark.parametrize("output", FORGERIES, ids=range(len(FORGERIES)))
@pytest.mark.parametrize("form", [as_text, as_json, as_journal])
def test_output_of_a_worker_cannot_pass_for_that_of_another(output: str, form: object) -> None:
    stream = io.StringIO()
    log = Log(stream, "info", form)  # type: ignore[arg-type]
    log.relay("worker 1", output, "mine")
    log.close()
    lines = stream.getvalue().encode().decode().splitlines()
    assert lines
    for line in lines:
        assert line.replace("\t", "").isprintable()
        assert len(line.encode()) < 64 * 1024
        if form is as_json:
            found = json.loads(line)
            assert (found["source"], found["pool"]) == ("worker 1", "mine")
            assert found["time"] > "2026"
        else:
            assert line.split(": ")[0].endswith(" worker 1")
            assert line.split(" ")[1 if form is as_text else 0].strip("<>0123456789") in (
                "info",
                "error",
            )


def test_a_long_line_goes_on_in_the_next_ones() -> None:
    text = "error: " + "żx" * 50_000
    lines = lines_of_output(text)
    assert "error: " + "".join(line.message for line in lines) == text
    assert {line.level for line in lines} == {"error"}
    assert max(len(line.message.encode()) for line in lines) <= MESSAGE_BYTES


# --- more than log_rate ---


def test_a_child_that_floods_is_cut_off_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "TELL_EVERY", 0.2)
    stream = io.StringIO()
    log = Log(stream, "info", rate=1000)
    for number in range(1000):
        log.relay("worker 1", f"flood {number}")
    log.relay("worker 2", "calm")
    log.say("info", "of our own")
    eventually(lambda: "left out" in stream.getvalue())
    for number in range(1000, 1100):
        log.relay("worker 1", f"flood {number}")
    log.close()
    told = lines(stream)
    shown = [line for line in told if "flood" in line]
    # Each line counts with its length and its prefix.
    assert 0.8 * BURST * 1000 / 75 < len(shown) < 1.3 * BURST * 1000 / 70
    assert "info worker 2: calm" in told and "info wsraw: of our own" in told
    left_out = [int(found[1]) for line in told if (found := re.search(LEFT_OUT, line))]
    assert len(left_out) >= 2 and sum(left_out) + len(shown) == 1100


LEFT_OUT = r"^warning wsraw: left out (\d+) lines? of worker 1 in \d+ s: more than log_rate"


def test_a_child_may_log_at_its_rate_for_ever_and_is_then_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    stream = io.StringIO()
    log = Log(stream, "info", rate=100)
    for _ in range(300):
        log.relay("worker 1", "x" * 36)
        now += 1.0
    now += 2.0
    log.relay("worker 2", "x")
    log.close()
    assert len(lines(stream)) == 301
    assert list(log._rates) == ["worker 2"]


# --- where it is written ---


def test_the_journal_has_times_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        for told, expected in (
            (f"{found.st_dev}:{found.st_ino}", as_journal),
            (f"{found.st_dev}:{found.st_ino + 1}", as_text),
            ("", as_text),
            ("nonsense", as_text),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", told)
            assert format_for(stream, "text") is expected
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert format_for(stream, "json") is as_json
    assert format_for(io.StringIO(), "text") is as_text


def test_json_is_utf_8_whatever_the_locale_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="latin-1", errors="backslashreplace") as stream:
        log = Log(stream, "info", format_for(stream, "json"))
        log.say("info", "żółw \U0001f600")
        log.close()
    assert json.loads(path.read_bytes().decode())["message"] == "żółw \U0001f600"
