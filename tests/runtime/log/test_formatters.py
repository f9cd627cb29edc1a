"""Records of `logging` become lines with a level, a traceback and a connection."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest

from wsraw.runtime.log.formats import as_json, as_text, time_of
from wsraw.runtime.log.formatters import HAS_LINES, ToReader, ToSupervisor, level_of, to_line
from wsraw.runtime.log.line import EXTRA_BYTES, NOTHING, LogLine, Subject, decode, encode
from wsraw.supervisor.processes.process import LONGEST_LINE


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
    # The log records of handlers are not changed.
    assert "SECRET" in to_line(made("shop", 40, url)).message


def test_a_line_has_the_connection_that_it_is_about_or_the_current_one() -> None:
    now = Subject(7, "h:7")
    assert to_line(made("shop", 20, "m"), now).connection == 7
    about = made("wsraw.gateway", 20, "m", **Subject(5, "h:5").extra())
    assert (to_line(about, now).connection, to_line(about, now).peer) == (5, "h:5")
    nobody = made("wsraw.gateway", 20, "m", **NOTHING.extra())
    assert to_line(nobody, now).connection == 0
    # A field in the `extra` of a handler's record has a meaning of its own.
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


NOW = 1_700_000_000.0
"""Windows has no local time for the year 1970."""


class Unreadable:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_fields_of_handlers_are_kept_as_json_has_them() -> None:
    values = {
        "order": 17, "ratio": 0.5, "ok": True, "none": None, "text": "two\nlines\x1b[2J",
        "list": [1, (2, {3})], "object": {"a": {"b": {"c": {"d": {"e": 1}}}}}, "set": set(),
        "huge": 10**30, "nan": float("nan"), "bytes": b"x", "odd": Unreadable(),
        "surrogate": "\ud800",
    }  # fmt: skip
    line = to_line(made("shop", 20, "m", **values), Subject(7, "h:1"))
    assert (line.connection, line.peer) == (7, "h:1")
    assert line.extra == {
        "order": 17, "ratio": 0.5, "ok": True, "none": None, "text": "two\nlines\\x1b[2J",
        "list": [1, [2, [3]]], "object": {"a": {"b": {"c": "{'d': {'e': 1}}"}}}, "set": [],
        "huge": str(10**30), "nan": "nan", "bytes": "b'x'", "odd": "<Unreadable>",
        "surrogate": "\\ud800",
    }  # fmt: skip
    written = ToSupervisor().format(made("shop", 20, "m", **values))
    assert decode(written) == ("", to_line(made("shop", 20, "m", **values)))
    assert json.loads(as_json(NOW, "worker 1", "", line))["extra"] == line.extra
    assert 'shop: m order=17 ratio=0.5 ok=true none=null text="two\\nlines\\\\x1b[2J" list=' in (
        as_text(NOW, "worker 1", "", line)
    )


def test_handlers_may_say_which_connection_a_line_is_about() -> None:
    current = Subject(7, "h:1")
    line = to_line(made("shop", 20, "m", connection=9, peer="h:2", a=1), current)
    assert (line.connection, line.peer, line.extra) == (9, "h:2", {"a": 1})
    assert to_line(made("shop", 20, "m", connection=7), current).peer == "h:1"
    assert to_line(made("shop", 20, "m", connection=9), current).peer == ""
    for other in (True, 0, -1, 2**60, "9", None):
        line = to_line(made("shop", 20, "m", connection=other, peer="h:2"), current)
        assert (line.connection, line.peer) == (7, "h:1")
        assert set(line.extra) == {"connection", "peer"}


@pytest.mark.parametrize(
    "values",
    [
        {"a": "x" * 10**6, "b": 1},
        {f"name{n}": n for n in range(10_000)},
        {"list": list(range(10**6))},
        {"list": [["x"] * 100] * 100},
        {"x" * 10**5: '"\\' * 10**5},
    ],
)
def test_fields_of_handlers_are_bounded(values: dict[str, Any]) -> None:
    trace = "\x00" * 100_000
    line = to_line(made("shop", 20, '"' * 100_000, stack_info=trace, **values), Subject(7, "h:1"))
    assert len(msgspec.json.encode(line.extra)) < EXTRA_BYTES * 1.1
    assert len(as_json(NOW, "worker 1", "default", line).encode()) < LONGEST_LINE
    assert len(encode(line).encode()) < LONGEST_LINE


def test_our_own_lines_have_no_further_fields() -> None:
    assert to_line(made("wsraw.worker", 20, "m", has_lines=True, secret=1)).extra == {}
