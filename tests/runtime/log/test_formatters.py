"""Records of `logging` become lines with their level, their traceback and their connection."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wsraw.runtime.log.formats import as_json, as_text, time_of
from wsraw.runtime.log.formatters import HAS_LINES, ToReader, ToSupervisor, level_of, to_line
from wsraw.runtime.log.line import NOTHING, LogLine, Subject, decode


def made(name: str, level: int, message: object, *args: object, **extra: Any) -> logging.LogRecord:
    info = extra.pop("exc_info", None)
    record = logging.LogRecord(name, level, "f.py", 1, message, args, info)
    record.__dict__.update(extra)
    return record


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "debug"),
        (5, "debug"),
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (25, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (45, "error"),
        (logging.CRITICAL, "critical"),
        (99, "critical"),
    ],
)
def test_each_level_of_logging_has_one_of_the_log(number: int, name: str) -> None:
    assert level_of(number) == name
    assert to_line(made("shop", number, "m")).level == name


def test_a_record_keeps_its_arguments_logger_and_lines() -> None:
    line = to_line(made("shop", 20, "%s of\r\n%d", "one", 2))
    assert line == LogLine("info", "one of\n2", "shop")
    assert to_line(made("root", 20, "m")) == LogLine("info", "m")
    assert to_line(made("shop", 20, {"not": "a text"})).message == "{'not': 'a text'}"


def test_a_traceback_belongs_to_its_record() -> None:
    try:
        raise ValueError("x\x1b[2J\ny")
    except ValueError as error:
        info = type(error), error, error.__traceback__
    line = to_line(made("shop", 40, "failed", exc_info=info, stack_info="Stack:\n  f"))
    first, *_, last = line.exception.split("\n")
    assert line.message == "failed" and first == "Traceback (most recent call last):"
    assert "ValueError: x\\x1b[2J\ny\nStack:\n  f" in line.exception and last == "  f"


def test_our_own_messages_are_one_line_unless_the_lines_are_ours() -> None:
    assert to_line(made("wsraw.gateway", 30, "a\nb")).message == r"a\nb"
    assert to_line(made("wsraw.worker", 30, "a\nb", **HAS_LINES)).message == "a\nb"
    assert to_line(made("wsrawl", 30, "a\nb")).message == "a\nb"


def test_no_secret_of_a_url_is_in_a_line_of_ours() -> None:
    url = "wss://user:SECRET@example.org/chat?token=SECRET#SECRET"
    try:
        raise OSError(f"cannot open {url}")
    except OSError as error:
        info = type(error), error, error.__traceback__
    line = to_line(made("wsraw.worker", 40, f"open {url!r} failed", exc_info=info))
    assert "SECRET" not in line.message
    assert "OSError: cannot open wss://...@example.org/chat?..." in line.exception
    assert line.message == "open 'wss://...@example.org/chat?...' failed"
    # What handlers log is theirs.
    assert "SECRET" in to_line(made("shop", 40, url)).message


def test_a_line_has_the_connection_that_it_is_about_or_the_current_one() -> None:
    now = Subject(7, "h:7")
    assert to_line(made("shop", 20, "m"), now).connection == 7
    about = made("wsraw.gateway", 20, "m", **Subject(5, "h:5").extra())
    assert (to_line(about, now).connection, to_line(about, now).peer) == (5, "h:5")
    nobody = made("wsraw.gateway", 20, "m", **NOTHING.extra())
    assert to_line(nobody, now).connection == 0
    # An `extra` of a handler has a meaning of its own.
    assert to_line(made("shop", 20, "m", connection="a database")).connection == 0


def test_formatters_ask_for_the_connection_only_when_something_is_logged() -> None:
    asked = []

    def current() -> Subject:
        asked.append(1)
        return Subject(3, "h:3")

    formatter = ToSupervisor()
    formatter.current = current
    assert not asked
    before, line = decode(formatter.format(made("shop", 20, "m")))
    assert (before, line) == ("", LogLine("info", "m", "shop", 3, "h:3"))
    assert asked == [1]


def test_a_process_without_a_supervisor_writes_the_same_formats() -> None:
    record = made("shop", 40, "m")
    record.created = 1_796_000_000.5
    text = ToReader(as_text, "worker").format(record)
    assert text == f"{time_of(record.created)} error worker: shop: m"
    assert ToReader(as_json, "worker").format(record).startswith('{"time":')
