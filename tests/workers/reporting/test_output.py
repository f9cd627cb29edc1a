"""The log and the output of a worker: configuring `logging` does not silence them, and a handler
that prints does not wait for a supervisor that does not read.
"""

from __future__ import annotations

import configparser
import io
import logging
import logging.config
import os
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsraw.runtime.log.line import LogLine, Subject, decode, encode
from wsraw.supervisor.processes.process import LONGEST_LINE
from wsraw.workers.reporting import output
from wsraw.workers.reporting.output import with_subject
from wsraw.workers.reporting.worker_log import log

needs_poll = pytest.mark.skipif(not hasattr(select, "poll"), reason="pipes cannot be polled here")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Restore the configuration of logging afterwards; pytest's own handlers are in it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known = root.manager.loggerDict.values()
    disabled = {each: each.disabled for each in known if isinstance(each, logging.Logger)}
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    for each, was in disabled.items():
        each.disabled = was


def test_configuring_logging_does_not_silence_us(root: logging.Logger) -> None:
    """By default all existing loggers are disabled (uvicorn #511, rapidpro/ureport #1396)."""
    other = logging.getLogger("somebody.else")
    logging.config.dictConfig({"version": 1})
    assert other.disabled and not log.disabled and log.isEnabledFor(logging.ERROR)
    file = configparser.ConfigParser()
    file.read_string(
        "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=WARNING\nhandlers=\n"
    )
    logging.config.fileConfig(file)
    assert not log.disabled and log.isEnabledFor(logging.ERROR)


def test_handlers_may_set_the_log_level_of_the_worker(root: logging.Logger) -> None:
    level = log.level
    try:
        ours = {"wsraw.worker": {"level": "CRITICAL"}}
        logging.config.dictConfig({"version": 1, "loggers": ours})
        assert not log.isEnabledFor(logging.ERROR)
    finally:
        log.setLevel(level)


@pytest.mark.parametrize("broken", ["factory", "filter", "handler"])
def test_a_log_format_that_raises_loses_only_its_format(
    root: logging.Logger,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raises(*args: object, **options: object) -> None:
        raise LookupError("no request")

    factory, handler = logging.getLogRecordFactory(), logging.StreamHandler()
    log.addHandler(handler)
    try:
        if broken == "factory":
            logging.setLogRecordFactory(raises)  # type: ignore[arg-type]
        elif broken == "filter":
            monkeypatch.setattr(log, "filter", raises)
        else:
            monkeypatch.setattr(handler, "handle", raises)
        error = ValueError("the mistake")
        log.error("%s raised", "on_message", exc_info=(ValueError, error, None))
    finally:
        logging.setLogRecordFactory(factory)
        log.removeHandler(handler)
    said = capsys.readouterr().err
    assert "on_message raised" in said and "the mistake" in said and "no request" in said


def fill(writer: io.TextIOBase, reader: int) -> int:
    """Write until the pipe is full, and a few lines more, which are lost; returns how many lines
    fit.
    """
    count = 0
    while select.select([], [writer.fileno()], [], 0)[1]:
        print("x" * 5000, file=writer)
        count += 1
    for _ in range(3):
        print("lost", file=writer)
    return count


def drain(reader: int) -> bytes:
    """Everything in the pipe."""
    data = b""
    while select.select([reader], [], [], 0)[0]:
        data += os.read(reader, 1 << 16)
    return data


@needs_poll
def test_output_does_not_wait_for_a_reader_that_does_not_read() -> None:
    reader, writer = os.pipe()
    stream = io.TextIOWrapper(
        io.BufferedWriter(output.OutputPipe(writer, 0.01)), "utf-8", line_buffering=True
    )
    try:
        for _ in range(2):
            count = fill(stream, reader)
            read = drain(reader)
            stream.write("again\n")
            read += drain(reader)
            lines = read.decode().splitlines()
            assert lines[-1] == "again"
            notice = next(line for line in lines if line.startswith("warning: "))
            lost = int(notice.split()[1])
            whole = lines.count("x" * 5000)
            # The line that was cut is lost, too.
            assert lost == count + 3 - whole
            assert len(lines) - 2 - whole in (0, 1) and "lost" not in lines
    finally:
        stream.close()
        os.close(writer)
        os.close(reader)


@needs_poll
def test_output_that_fits_is_written_unchanged() -> None:
    reader, writer = os.pipe()
    pipe = output.OutputPipe(writer, 10.0)
    try:
        for data in (b"", b"x", b"line\n", bytes(range(256)) * 50, memoryview(b"abc")):
            assert pipe.write(data) == len(data)
            assert drain(reader) == data
        pipe.close()
        os.fstat(writer)
    finally:
        os.close(writer)
        os.close(reader)


@needs_poll
def test_output_to_a_closed_reader_raises_as_usual() -> None:
    reader, writer = os.pipe()
    pipe = output.OutputPipe(writer, 10.0)
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            pipe.write(b"x\n")
    finally:
        os.close(writer)


SUBJECT = Subject(7, "h:1")


def test_printed_lines_tell_their_connection_and_keep_their_level() -> None:
    data = b"one\nwarning: two \xff\n\n" + encode(LogLine("error", "logged")).encode() + b"\nhalf"
    *lines, rest = with_subject(data, SUBJECT).decode().split("\n")
    assert rest == "half"
    assert [decode(line) for line in lines] == [
        ("", LogLine("info", "one", "", 7, "h:1")),
        ("", LogLine("warning", "two \N{REPLACEMENT CHARACTER}", "", 7, "h:1")),
        ("", None),
        ("", LogLine("error", "logged")),
    ]


def test_a_long_printed_line_stays_within_the_bounds() -> None:
    lines = with_subject(b"\x00" * 40_000 + b"\n", SUBJECT).decode().split("\n")[:-1]
    found = [decode(line)[1] for line in lines]
    assert all(line is not None and line.connection == 7 for line in found)
    assert "".join(line.message for line in found if line) == "\\x00" * 40_000
    assert max(map(len, lines)) < LONGEST_LINE


def test_a_stream_tells_it_of_what_is_printed_at_once() -> None:
    reader, writer = os.pipe()
    current = SUBJECT
    raw = output.OutputPipe(writer, 1.0, lambda: current)
    stream = io.TextIOWrapper(io.BufferedWriter(raw, output.KEPT_WHOLE), line_buffering=True)
    # A pipe of Windows holds 4 KiB.
    with ThreadPoolExecutor() as threads, open(reader, encoding="utf-8") as file:
        lines = threads.submit(list, file)
        print("a", "b", file=stream)
        print("x" * 20_000, file=stream)
        print("begun", end="", file=stream, flush=True)
        print(" and ended", file=stream)
        current = Subject()
        print("of nobody", file=stream)
        stream.close()
        os.close(writer)
        found = [decode(line.rstrip("\n")) for line in lines.result()]
    assert found == [
        ("", LogLine("info", "a b", "", 7, "h:1")),
        *[("", LogLine("info", "x" * size, "", 7, "h:1")) for size in (16384, 3616)],
        ("begun and ended", None),
        ("of nobody", None),
    ]
