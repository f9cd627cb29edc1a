"""Tracebacks of handlers are rationed, and the log tells how many were left out."""

from __future__ import annotations

import threading

import pytest

from tests.deadline import eventually
from wsraw.workers.reporting import ration
from wsraw.workers.reporting.ration import SHOWN, Ration, place_of


class Log:
    def __init__(self) -> None:
        self.shown: list[str] = []
        self.ration = Ration()

    def fail(self, code: str, times: int = 1, what: str = "message") -> None:
        for _ in range(times):
            try:
                exec(code)
            except Exception as error:
                if self.ration.allows(place_of(error)):
                    self.shown.append(what)


def test_the_first_of_each_mistake_are_shown_and_further_ones_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0", 1000, "divides")
        log.fail("[][0]", 3, "looks")
        log.fail("1 / 0\n", 1, "divides")
        assert not caplog.messages, "the period is not over"
        log.ration.tell()
        log.ration.tell()
    assert log.shown == ["divides"] * SHOWN + ["looks"] * 3
    assert caplog.messages == [f"ZeroDivisionError at <string>:1 ({1001 - SHOWN} more in 10 s)"]


def test_what_was_not_shown_is_told_also_if_nothing_follows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ration, "PERIOD", 0.3)
    log = Log()
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0", SHOWN + 5)
        eventually(lambda: caplog.messages)
    assert caplog.messages == ["ZeroDivisionError at <string>:1 (5 more in 0.3 s)"]


def test_no_thread_waits_while_all_is_shown() -> None:
    log = Log()
    before = threading.active_count()
    log.fail("1 / 0", SHOWN)
    assert threading.active_count() == before
    log.fail("1 / 0")
    assert threading.active_count() == before + 1
    log.ration.tell()
    eventually(lambda: threading.active_count() == before)


def test_without_threads_the_next_report_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    log = Log()
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0", SHOWN + 5)
        monkeypatch.setattr(ration, "PERIOD", -1.0)
        log.fail("1 / 0")
    assert len(log.shown) == SHOWN + 1
    [told] = caplog.messages
    assert "(5 more in" in told


def test_a_new_period_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.fail("1 / 0", SHOWN + 5)
    assert len(log.shown) == SHOWN
    monkeypatch.setattr(ration, "PERIOD", -1.0)
    log.fail("1 / 0")
    assert len(log.shown) == SHOWN + 1
    log.ration.tell()
