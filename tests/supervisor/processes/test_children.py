"""Children with real processes; the end-to-end tests have what they are told at their start."""

from __future__ import annotations

import ctypes
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, UNIT, eventually
from tests.needs import signals
from wsraw.config import programs
from wsraw.supervisor.decisions.actions import Termination
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes import children as c
from wsraw.supervisor.processes import process
from wsraw.supervisor.run_folder.versions import VersionFolders

posix = pytest.mark.skipif(sys.platform == "win32", reason="a shell")


class Nursery:
    """Children whose processes are shell scripts, and their output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.stream = io.StringIO()
        self.log = Log(self.stream, "debug")
        self.posted: list[Callable[[], object]] = []
        self.ended: list[tuple[Child, int, str, str]] = []
        self.script = "exit"
        script = lambda *_: ["sh", "-c", self.script]  # noqa: E731
        monkeypatch.setattr(process.Installation, "command", script)
        self.lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
        self.children = c.Children(
            self.lock,
            self.log,
            self.posted.append,
            lambda *end: self.ended.append(end),
            VersionFolders(folder),
        )

    def spawn(self, script: str) -> Child:
        self.script = script
        child = Child(programs.parse("x.py").program, n=1)
        assert self.children.spawn_worker(child, "ipc://x")
        return child

    def record_death(self) -> None:
        """Run what was posted for one exit, as the supervisor's loop does."""
        until = time.monotonic() + DEADLINE
        while not self.posted:
            assert time.monotonic() < until, "it does not end"
            time.sleep(0.005)
        self.posted.pop(0)()

    def close(self) -> str:
        self.children.kill_all()
        os.close(self.lock)
        self.log.close()
        return self.stream.getvalue()


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nursery:
    return Nursery(monkeypatch, tmp_path)


@posix
def test_an_exit_is_reported_in_words_and_the_child_is_forgotten(nursery: Nursery) -> None:
    child = nursery.spawn("exit 4")
    assert nursery.children.pid(child) is not None
    nursery.record_death()
    [(who, code, why, _)] = nursery.ended
    assert (who, code) == (child, 4)
    assert why == "exited with code 4: the gateway rejected it"
    assert nursery.children.pid(child) is None
    nursery.close()


@signals
@pytest.mark.parametrize(("ours", "guess"), [(True, ""), (False, " (perhaps out of memory?)")])
def test_an_exit_says_whether_the_supervisor_killed_the_child(
    nursery: Nursery, ours: bool, guess: str
) -> None:
    child = nursery.spawn("sleep 600" if ours else "kill -9 $$")
    if ours:
        child.is_killed = True
        nursery.children.end(child, Termination.KILL)
    nursery.record_death()
    assert nursery.ended[0][2] == f"was killed by SIGKILL{guess}"
    nursery.close()


@posix
def test_the_output_of_a_child_that_does_not_load_comes_before_its_exit(nursery: Nursery) -> None:
    nursery.spawn("echo one; echo two; exit 3")
    nursery.record_death()
    assert nursery.children.last_output == "one\ntwo"
    nursery.close()


@posix
def test_reading_the_rest_waits_for_the_last_output_of_dead_children(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is slow here, so that the last line comes long after the exit was reported."""
    read = process.Process._read

    def slowly(self: Any) -> None:
        time.sleep(0.3 * UNIT)
        read(self)

    monkeypatch.setattr(process.Process, "_read", slowly)
    nursery.spawn("echo last words; exit 1")
    nursery.record_death()
    assert nursery.ended
    nursery.children.read_rest()
    assert "last words" in nursery.close()


@signals
def test_hear_out_does_not_wait_for_a_pipe_that_somebody_holds(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "LAST_WORDS", 0.05)
    nursery.spawn("sleep 600 & echo holds $! >&1; exit 0")
    nursery.record_death()
    began = time.monotonic()
    nursery.children.read_rest()
    nursery.children.read_rest()
    assert time.monotonic() - began < 5 * UNIT
    found = eventually(lambda: re.search(r"holds (\d+)", nursery.stream.getvalue()))
    nursery.close()
    os.kill(int(found[1]), signal.SIGKILL)


def test_a_child_that_cannot_be_started_is_reported_as_an_exit(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = lambda *_: ["/nowhere/at/all"]  # noqa: E731
    monkeypatch.setattr(process.Installation, "command", nowhere)
    child = Child(None)
    assert not nursery.children.spawn_gateway(child, {}, [])
    nursery.record_death()
    assert nursery.ended[0][:2] == (child, 1)
    assert nursery.ended[0][2].startswith("could not be started: ")
    nursery.close()


# --- workers in other languages ---


@posix
def test_a_command_gets_four_variables_and_inherits_nothing_else(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSRAW_CONTROL", "ipc://y")
    script = "env | grep ^WSRAW_ | sort; ls /proc/self/fd 2>/dev/null | wc -l; exit 4"
    child = Child(programs.parse(f"sh -c '{script}'").program, n=1)
    child.token = "secret"
    assert nursery.children.spawn_worker(child, "ipc://x")
    nursery.record_death()
    assert nursery.ended[0][2] == "exited with code 4: the gateway rejected it"
    nursery.children.read_rest()
    lines = [line.partition("worker 1: ")[2] for line in nursery.close().splitlines()]
    told = dict(line.split("=") for line in lines if "=" in line)
    assert re.fullmatch("[0-9a-f]{16}", told.pop("WSRAW_INSTANCE"))
    assert told == {"WSRAW_ENDPOINT": "ipc://x", "WSRAW_POOL": "default", "WSRAW_TOKEN": "secret"}
    if sys.platform.startswith("linux"):
        assert lines[-1] == "4", "the three, and the one that ls has opened"


@signals
def test_a_command_has_the_signal_dispositions_of_a_shell(nursery: Nursery) -> None:
    """Python ignores SIGPIPE; a program that inherits this would write on for ever."""
    child = Child(programs.parse("sh -c 'kill -PIPE $$; exit 5'").program, n=1)
    nursery.children.spawn_worker(child, "ipc://x")
    nursery.record_death()
    assert nursery.ended[0][2] == "was killed by SIGPIPE"
    nursery.close()


def test_a_missing_command_is_reported_as_an_exit(nursery: Nursery) -> None:
    child = Child(programs.parse("/nowhere/at/all x").program, n=1)
    nursery.children.spawn_worker(child, "ipc://x")
    nursery.record_death()
    ((_, code, why, _),) = nursery.ended
    assert code
    if sys.platform.startswith("linux"):
        assert why == "exited with code 127: there is no such program"
    nursery.close()


def zombies() -> int:
    return sum(
        stat.rpartition(")")[2].split()[:2] == ["Z", str(os.getpid())]
        for stat in (_read(path) for path in Path("/proc").glob("[0-9]*/stat"))
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ") gone gone"


@pytest.fixture
def heir() -> Iterator[None]:
    """Make this process the parent of orphans below it for a while, like process 1 of a
    container.
    """
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1, 0, 0, 0)
    yield
    prctl(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_orphans_are_reaped_and_own_children_are_left_to_their_threads(
    nursery: Nursery, heir: None
) -> None:
    """As process 1, other servers collected zombies (uvicorn-gunicorn-docker #48, honcho #231)."""
    child = nursery.spawn("for n in 1 2 3 4 5; do (exit 5) & done & exit 4")
    nursery.record_death()
    assert nursery.ended[0][:2] == (child, 4), "its own exit code"
    eventually(zombies, "orphans that have ended")

    def all_gone() -> bool:
        nursery.children.reap_orphans()
        return not zombies()

    eventually(all_gone, "nobody to be left")
    # The process may exit at once, and its thread still gets the exit code.
    for _ in range(20):
        nursery.spawn("exit 7")
        eventually(all_gone, "it to be seen off by its thread")
        nursery.record_death()
        assert nursery.ended[-1][1] == 7
    nursery.close()
