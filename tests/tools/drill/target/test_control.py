"""Which workers of a run are there, and which may be killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wsraw.tools.drill.target.control import RunControl

WORKERS = [
    {"pid": 11, "state": "ready", "acked": 5},
    {"pid": 12, "state": "ready", "acked": 0},
    # The gateway is away, and its counts begin again.
    {"pid": 13, "state": "ready", "acked": None},
    {"pid": 14, "state": "starting", "acked": None},
    {"pid": 15, "state": "draining", "acked": 7},
    {"pid": None, "state": "dead", "acked": None},
]


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> RunControl:
    status: dict[str, Any] = {"workers": WORKERS}
    monkeypatch.setattr(RunControl, "status", lambda self: status)
    return RunControl(Path("unused"))


def test_workers_are_those_that_have_started(control: RunControl) -> None:
    assert control.workers() == [11, 12, 13, 15]


def test_proved_workers_have_handled_an_event(control: RunControl) -> None:
    assert control.proved() == [11, 15]
