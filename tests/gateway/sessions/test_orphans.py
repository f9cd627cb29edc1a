from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from deadline import eventually

from wsraw.gateway.sessions.orphans import Orphans

linux = pytest.mark.skipif(sys.platform != "linux", reason="pidfd_open is Linux's")
Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_those_that_are_left_are_killed(child: Child) -> None:
    spawned = Orphans()
    spawned.add(1, child.pid)
    spawned.add(1, child.pid)
    spawned.kill_all()
    assert child.wait(20) != 0


def test_those_whose_exit_was_reported_are_not(child: Child) -> None:
    spawned = Orphans()
    spawned.add(1, child.pid)
    spawned.discard(1)
    spawned.discard(2)
    spawned.kill_all()
    assert child.poll() is None


@linux
def test_another_process_of_the_same_number_is_not_meant(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the first one, which is dead and buried, is the second one's now."""
    first = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    spawned = Orphans()
    spawned.add(1, first.pid)
    first.communicate()
    spawned._pids[1] = child.pid
    spawned.kill_all()
    assert child.poll() is None


@linux
def test_no_descriptor_is_left(child: Child) -> None:
    before = len(os.listdir("/proc/self/fd"))
    spawned = Orphans()
    for n in range(10):
        spawned.add(n, child.pid)
    assert len(os.listdir("/proc/self/fd")) == before + 10
    for n in range(5):
        spawned.discard(n)
    spawned.kill_all()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


@linux
def test_one_that_is_gone_already(child: Child) -> None:
    child.kill()
    child.wait()
    spawned = Orphans()
    spawned.add(1, child.pid)
    spawned.kill_all()
