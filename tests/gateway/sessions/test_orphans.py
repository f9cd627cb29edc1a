from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.deadline import DEADLINE, eventually
from tests.needs import pidfd
from wsraw.gateway.sessions.orphans import Orphans

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def assert_untouched(child: Child) -> None:
    """Check that the process ends by itself when it is told to, and not by a signal that was on
    its way.
    """
    child.communicate(b"\n", timeout=DEADLINE)
    assert child.returncode == 0


def test_a_process_that_is_left_is_killed(child: Child) -> None:
    orphans = Orphans()
    orphans.add(1, child.pid)
    orphans.add(1, child.pid)
    orphans.kill_all()
    assert child.wait(DEADLINE) != 0


def test_a_process_whose_exit_was_reported_is_not_killed(child: Child) -> None:
    orphans = Orphans()
    orphans.add(1, child.pid)
    orphans.discard(1)
    orphans.discard(2)
    orphans.kill_all()
    assert_untouched(child)


@pidfd
def test_another_process_that_got_the_same_pid_is_not_killed(child: Child) -> None:
    """The first process was reaped, and the second one has its pid now."""
    first = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    orphans = Orphans()
    orphans.add(1, first.pid)
    first.communicate()
    orphans._pids[1] = child.pid
    orphans.kill_all()
    assert_untouched(child)


@pidfd
def test_every_descriptor_is_closed(child: Child) -> None:
    before = len(os.listdir("/proc/self/fd"))
    orphans = Orphans()
    for n in range(10):
        orphans.add(n, child.pid)
    assert len(os.listdir("/proc/self/fd")) == before + 10
    for n in range(5):
        orphans.discard(n)
    orphans.kill_all()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


@pidfd
def test_a_process_that_was_reaped_before_it_was_announced_is_not_remembered(child: Child) -> None:
    child.kill()
    child.wait()
    orphans = Orphans()
    orphans.add(1, child.pid)
    assert len(orphans) == 0


def test_a_process_that_ended_by_itself_does_not_keep_the_others_from_being_killed(
    child: Child,
) -> None:
    first = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    orphans = Orphans()
    orphans.add(1, first.pid)
    orphans.add(2, child.pid)
    first.communicate()
    orphans.kill_all()
    assert child.wait(DEADLINE) != 0
    assert len(orphans) == 0
