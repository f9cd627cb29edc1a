"""What both shells share."""

from __future__ import annotations

import logging

import pytest

from wsraw.workers.loading.handlers import Timer
from wsraw.workers.shells.shell import WARN_AFTER, Due, Shell


def test_missed_times_of_a_timer_are_skipped() -> None:
    due = Due(Timer(1.0, lambda: None), 100.0)
    assert due.when == 101.0
    due.advance(101.25)
    assert due.when == 102.0, "no drift"
    due.advance(107.5)
    assert due.when == 107.5, "once, not five times"
    due.advance(107.5)
    assert due.when == 108.5


class Runtime:
    is_ready = False
    is_draining = False
    rejection = ""
    queue = ()


class Stopper:
    asked = False


def test_a_shell_without_a_gateway_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("wsraw").propagate = True
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    shell = Shell(Runtime(), None, Stopper(), "ipc://x")  # type: ignore[arg-type]
    assert shell.warn_if_alone(50.0) == WARN_AFTER
    assert not caplog.records
    assert shell.warn_if_alone(50.0 + WARN_AFTER) == float("inf")
    assert shell.warn_if_alone(100.0) == float("inf")
    assert [r.getMessage() for r in caplog.records] == ["waiting for a gateway at ipc://x"]


@pytest.mark.parametrize(
    ("draining", "queue", "asked", "rejection", "over"),
    [
        (False, (), False, "", False),
        (False, (1,), False, "", False),
        (True, (1,), False, "", False),
        (True, (), False, "", True),
        (False, (1,), True, "", True),
        (False, (1,), False, "why", True),
    ],
)
def test_the_shell_is_over_when_its_events_are_handled_or_it_is_shut_out(
    draining: bool, queue: tuple[int, ...], asked: bool, rejection: str, over: bool
) -> None:
    runtime, stopper = Runtime(), Stopper()
    runtime.is_draining, runtime.queue, runtime.rejection = draining, queue, rejection  # type: ignore[assignment]
    stopper.asked = asked
    shell = Shell(runtime, None, stopper, "ipc://x")  # type: ignore[arg-type]
    assert shell.is_over() is over
