"""Tracebacks of handlers are rationed, and none is left out without a word."""

from __future__ import annotations

import pytest

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


def test_the_first_of_each_mistake_are_shown_and_further_ones_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    with caplog.at_level("ERROR", "wsraw.worker"):
        log.fail("1 / 0", 1000, "divides")
        log.fail("[][0]", 3, "looks")
        log.fail("1 / 0\n", 1, "divides")
    assert log.shown == ["divides"] * SHOWN + ["looks"] * 3
    [announced] = caplog.messages
    assert "ZeroDivisionError at <string>:1" in announced


def test_a_new_period_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.fail("1 / 0", SHOWN + 5)
    assert len(log.shown) == SHOWN
    monkeypatch.setattr(ration, "PERIOD", -1.0)
    log.fail("1 / 0")
    assert len(log.shown) == SHOWN + 1
