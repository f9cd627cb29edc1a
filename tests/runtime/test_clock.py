from __future__ import annotations

import time
from pathlib import Path

import pytest

import wsraw
from wsraw.runtime.clock import monotonic

PACKAGE = Path(wsraw.__file__).parent

MEASURING = ("gateway", "runtime", "tools/drill/load", "workers/shells")
"""Modules that measure parts of a turn, latencies and deadlines of sockets."""


def test_the_clock_shows_what_takes_less_than_a_turn() -> None:
    steps = []
    while len(steps) < 100:
        before = now = monotonic()
        while now == before:
            now = monotonic()
        steps.append(now - before)
    assert 0 < min(steps) < 0.0001


@pytest.mark.skipif(time.get_clock_info("monotonic").resolution > 0.001, reason="a coarse one here")
def test_the_clock_is_the_systems_own_without_a_call_more() -> None:
    assert monotonic is time.monotonic


@pytest.mark.parametrize("folder", MEASURING)
def test_what_measures_asks_this_clock_alone(folder: str) -> None:
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in (PACKAGE / folder).rglob("*.py")
        if "time.monotonic" in path.read_text("utf-8")
    }
    assert asking <= {"runtime/clock.py"}
