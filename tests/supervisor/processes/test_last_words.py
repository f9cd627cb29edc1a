"""The last lines of a process tell why it ended, whatever their format is."""

from __future__ import annotations

import traceback

import pytest

from wsraw.runtime.log.line import LogLine
from wsraw.supervisor.processes.last_words import MOST, error_in


def raised(text: str) -> str:
    try:
        exec(text)
    except BaseException as error:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    raise AssertionError("it has not raised")


CASES = [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("raise ValueError('one\\n  two')", "ValueError: one"),
    ("def f(:", "SyntaxError: "),
    ("try:\n  1 / 0\nexcept Exception as e:\n  raise KeyError('k') from e", "KeyError: 'k'"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("raise RuntimeError('x' * 1000)", "RuntimeError: xxx"),
]


@pytest.mark.parametrize(("text", "told"), CASES)
def test_the_exception_of_a_record_or_of_printed_lines_is_found(text: str, told: str) -> None:
    trace = raised(text)
    before, after = LogLine("info", "starts"), LogLine("info", "ends")
    of_record = [before, LogLine("error", "it failed", "wsraw.worker", exception=trace), after]
    of_python = [before, *(LogLine("info", line) for line in trace.split("\n"))]
    for lines in (of_record, of_python):
        found = error_in(lines)
        assert found.startswith(told) and len(found.encode()) <= MOST


def test_without_a_traceback_the_last_error_of_the_worker_is_told() -> None:
    why = LogLine("error", "no such file\nmore", "wsraw.worker")
    other = LogLine("error", "of a handler", "shop")
    assert error_in([LogLine("info", "a"), why, other]) == "no such file"
    assert error_in([other, LogLine("error", "printed")]) == error_in([]) == ""
