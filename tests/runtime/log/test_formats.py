"""The formats of the log's lines."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from wsraw.runtime.log.formats import PRIORITIES, as_journal, as_json, as_text, time_of
from wsraw.runtime.log.line import LogLine

NOW = 1_796_000_000.0 + 0.0625


@pytest.fixture(params=["UTC", "XXX-05:30", "XXX+03"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if not hasattr(time, "tzset"):
        pytest.skip("the zone of a process cannot be changed here")
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_the_time_is_local_with_its_offset(zone: str) -> None:
    # Each zone uses another second, as the last second is cached.
    when = NOW + {"UTC": 0, "XXX-05:30": 1, "XXX+03": 2}[zone]
    text = time_of(when)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.062[+-]\d\d:\d\d", text)
    offset = {"UTC": "+00:00", "XXX-05:30": "+05:30", "XXX+03": "-03:00"}[zone]
    assert text.endswith(offset)
    exact = datetime.fromtimestamp(when, UTC)
    assert timedelta() <= exact - datetime.fromisoformat(text) < timedelta(milliseconds=1)


def text_of(line: LogLine, source: str = "worker 1") -> list[str]:
    written = as_text(NOW, source, "default", line)
    assert written.endswith("\n")
    beginning = f"{time_of(NOW)} {line.level} {source}: "
    lines = written.splitlines()
    assert all(each.startswith(beginning) for each in lines)
    return [each.removeprefix(beginning) for each in lines]


def test_text_has_a_line_for_each_line_of_the_message_and_of_the_traceback() -> None:
    line = LogLine("error", "a\nb", "shop", 5, "h:1", "Traceback\n  f\nValueError")
    told = ["shop: a (connection 5, h:1)", "b", "Traceback", "  f", "ValueError"]
    assert text_of(line) == told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (LogLine("info", "printed"), "printed"),
        (LogLine("info", "m", "wsraw.gateway"), "m"),
        (LogLine("info", "m", "wsrawl"), "wsrawl: m"),
        (LogLine("info", "m", "", 5), "m (connection 5)"),
        (
            LogLine("info", "on_message of connection 5", "", 5, "h:1"),
            "on_message of connection 5 (h:1)",
        ),
        (LogLine("info", "connection 5 (h:1): x", "", 5, "h:1"), "connection 5 (h:1): x"),
        (LogLine("info", "no connection", "", 0, "h:1"), "no connection"),
        (LogLine("info", ""), ""),
    ],
)
def test_text_names_the_logger_and_the_connection_once(line: LogLine, told: str) -> None:
    assert text_of(line) == [told]


def test_json_is_one_object_on_a_line_without_what_is_not_known() -> None:
    line = LogLine("error", 'ż "a"\nb', "shop", 68719476737, "h:1", "Traceback\n  f")
    written = as_json(NOW, "worker 1", "chat", line)
    assert written.count("\n") == 1 and written.endswith("\n")
    assert json.loads(written) == {
        "time": time_of(NOW),
        "level": "error",
        "source": "worker 1",
        "message": 'ż "a"\nb',
        "pool": "chat",
        "logger": "shop",
        "connection": 68719476737,
        "peer": "h:1",
        "exception": "Traceback\n  f",
    }
    short = json.loads(as_json(NOW, "wsraw", "", LogLine("info", "up")))
    assert short == {"time": time_of(NOW), "level": "info", "source": "supervisor", "message": "up"}


def test_the_journal_gets_a_priority_for_each_line_and_no_time() -> None:
    for level, number in PRIORITIES.items():
        line = LogLine(level, "m", exception="T\nE")  # type: ignore[arg-type]
        told = as_journal(NOW, "gateway", "", line)
        assert told.splitlines() == [f"<{number}>{level} gateway: {each}" for each in "mTE"]
