"""Tracebacks of handlers are rationed, and none is left out without a word."""

from __future__ import annotations

import pytest

from tests.deadline import eventually
from wsraw.workers.reporting import ration
from wsraw.workers.reporting.ration import KINDS, SHOWN, Rationed


class Log:
    def __init__(self) -> None:
        self.shown: list[str] = []
        self.rationed = Rationed(lambda what, error: self.shown.append(what))

    def fail(self, code: str, times: int = 1, what: str = "message") -> None:
        for _ in range(times):
            try:
                exec(code)
            except Exception as error:
                self.rationed(what, error)


def test_the_first_of_each_mistake_are_shown_and_the_others_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    log.fail("1 / 0", 1000, "divides")
    log.fail("[][0]", 3, "looks")
    log.fail("1 / 0\n", 1, "divides")
    assert log.shown == ["divides"] * SHOWN + ["looks"] * 3
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.rationed.flush()
    assert caplog.messages == [
        f"{1001 - SHOWN} more reports of ZeroDivisionError at <string>:1 are not shown"
    ]
    log.fail("1 / 0", 1, "again")
    assert log.shown[-1] == "again"


def test_a_new_period_begins_with_the_count_of_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    log.fail("1 / 0", SHOWN + 5)
    monkeypatch.setattr(ration, "PERIOD", 0.0)
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0")
    assert "5 more reports" in caplog.text
    assert len(log.shown) == SHOWN + 1


def test_the_count_is_shown_even_if_no_mistake_follows(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    log.fail("1 / 0", SHOWN)
    monkeypatch.setattr(ration, "PERIOD", 0.1)
    log.rationed._began = float("inf")  # No new period: the timer has to tell.
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0", 7)
        eventually(lambda: "7 more reports" in caplog.text)


def test_different_mistakes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    for n in range(10 * KINDS):
        log.fail("\n" * n + "1 / 0")
    assert len(log.shown) == KINDS + SHOWN
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.rationed.flush()
    left_out = 9 * KINDS - SHOWN
    assert caplog.messages == [f"{left_out} more reports of other exceptions are not shown"]
