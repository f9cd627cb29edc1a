"""Remote workers as real processes, of a run that is not real; test_drill.py has real runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import eventually
from tests.needs import signals
from tests.running import is_alive
from wsraw.tools.drill.plan import DrillError
from wsraw.tools.drill.target import remote
from wsraw.tools.drill.target.remote import RemoteControl, RemoteWorkers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")

LEAVES = ("sh", "-c", 'trap "exit 0" TERM; echo up $MINE; while :; do sleep 0.1; done')
STAYS = ("sh", "-c", 'trap "" TERM; echo up $MINE; while :; do sleep 0.1; done')
FAILS = ("sh", "-c", "exit 7")

Start = Callable[..., RemoteWorkers]


@pytest.fixture
def lines() -> list[str]:
    """The lines that the workers print."""
    return []


@pytest.fixture
def start(lines: list[str]) -> Iterator[Start]:
    made: list[RemoteWorkers] = []

    def start(*commands: tuple[str, ...]) -> RemoteWorkers:
        made.append(RemoteWorkers(commands, {"MINE": "given"}, lines.append))
        return made[-1]

    yield start
    for workers in made:
        workers.stop(0.0)


def pids(workers: RemoteWorkers) -> list[int]:
    return [member.process.pid for member in workers.members().values()]


@signals
def test_a_worker_that_is_killed_or_leaves_is_followed_by_another(
    start: Start, lines: list[str]
) -> None:
    workers = start(LEAVES, LEAVES)
    seen = set()
    for count, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        eventually(lambda count=count: lines.count("remote worker 1: up given") == count)
        old = workers.members()[1]
        seen.add(old.instance)
        os.kill(old.process.pid, number)
        eventually(lambda old=old: workers.members().get(1, old) != old)
    assert workers.members()[1].instance not in seen
    assert not workers.failures
    assert lines.count("remote worker 0: up given") == 1


def test_a_worker_that_fails_is_a_failure_and_is_not_followed(start: Start) -> None:
    workers = start(FAILS, ("no-such-program-anywhere",))
    eventually(lambda: len(workers.failures) == 2)
    assert workers.members() == {}
    assert "remote worker 0 exited with code 7" in workers.failures


@signals
def test_in_the_end_all_have_left(start: Start, lines: list[str]) -> None:
    workers = start(LEAVES, LEAVES)
    eventually(lambda: len(lines) == 2)
    left = pids(workers)
    workers.stop()
    assert not any(map(is_alive, left))
    assert not workers.failures


@signals
def test_a_remote_worker_that_does_not_leave_is_killed(start: Start, lines: list[str]) -> None:
    workers = start(STAYS)
    eventually(lambda: lines)
    left = pids(workers)
    workers.stop(0.1)
    eventually(lambda: not any(map(is_alive, left)), "it to be killed")
    assert workers.failures == ["remote worker 0 did not leave"]


@pytest.fixture
def control(start: Start, monkeypatch: pytest.MonkeyPatch) -> RemoteControl:
    """All running workers are connected, and the first one has handled an event."""
    control = RemoteControl(Path("unused"), start(LEAVES, LEAVES))
    eventually(lambda: len(control.remote.members()) == 2)
    first = control.remote.members()[0].instance

    def status() -> dict[str, Any]:
        members = control.remote.members().values()
        by_hand = [{"instance": each.instance, "acked": each.instance == first} for each in members]
        return {"by_hand": [*by_hand, {"instance": "somebody's", "acked": 5}]}

    monkeypatch.setattr(control, "status", status)
    return control


def test_the_workers_of_a_run_are_those_that_the_drill_has_started(control: RemoteControl) -> None:
    assert control.count_connected() == 2
    assert control.workers() == pids(control.remote)
    assert control.proved() == control.workers()[:1]


def test_a_reload_replaces_remote_workers_one_after_the_other(
    control: RemoteControl, lines: list[str]
) -> None:
    eventually(lambda: len(lines) == 2)
    before = control.workers()
    control.reload()
    assert not set(before) & set(control.workers())
    assert len(control.workers()) == 2


@signals
def test_a_reload_that_does_not_come_to_an_end_is_told(
    start: Start, lines: list[str], control: RemoteControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.remote = start(STAYS)
    eventually(lambda: len(lines) == 3)
    monkeypatch.setattr(remote, "RELOAD_TIMEOUT", 0.2)
    with pytest.raises(DrillError, match="not replaced in time"):
        control.reload()
