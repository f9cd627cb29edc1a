from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.supervisor.processes.test_children import Nursery, posix
from wsraw.runtime.loop import Loop
from wsraw.supervisor.helpers.helper import Helper

pytestmark = posix


class Beside(Helper):
    """A helper whose processes are shell scripts."""

    def __init__(self, nursery: Nursery) -> None:
        self.loop = Loop()
        super().__init__("helper", nursery.children, self.loop, nursery.log)
        self._nursery = nursery
        self.starts = 0

    def start(self) -> None:
        """Start a process that lives until it is killed."""
        self.starts += 1
        self._nursery.script = "sleep 1000"
        self._children.spawn_agent(self.child, "ipc://x")

    def die(self) -> None:
        """Wait for the end of the process."""
        self._nursery.record_death()
        child, _, why, _ = self._nursery.ended.pop()
        assert child is self.child
        self.exited(why)

    def until_started(self, count: int) -> None:
        until = time.monotonic() + DEADLINE
        while self.starts < count:
            assert time.monotonic() < until, "it is not started"
            self.loop.turn()


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Beside]:
    nursery = Nursery(monkeypatch, tmp_path)
    helper = Beside(nursery)
    helper._spawn()
    yield helper
    nursery.close()
    helper.loop.close()


def test_a_helper_that_dies_is_started_again_after_a_pause(helper: Beside) -> None:
    helper._end()
    helper.die()
    assert helper.starts == 1
    helper.until_started(2)
    assert helper.child.restarts == 1


def test_a_helper_that_is_replaced_is_started_at_once(helper: Beside) -> None:
    helper.restart()
    helper.die()
    assert (helper.starts, helper.child.restarts) == (2, 0)


def test_a_replacement_during_the_pause_after_a_death_excuses_no_later_death(
    helper: Beside,
) -> None:
    helper._end()
    helper.die()
    helper.restart()
    helper.until_started(2)
    helper._end()
    helper.die()
    assert (helper.starts, helper.child.restarts) == (2, 2)


def test_a_helper_that_has_left_is_not_started_again(helper: Beside) -> None:
    helper.leave()
    helper.die()
    assert helper.starts == 1
