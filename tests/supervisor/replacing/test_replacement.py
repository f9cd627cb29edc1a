"""The trial of a program; tests/e2e/test_replacing.py really replaces one."""

from __future__ import annotations

import os
import queue
import signal
import sys

import pytest

from tests.deadline import DEADLINE
from wsraw.supervisor.replacing import replacement

pytestmark = pytest.mark.skipif(not replacement.CAN_REPLACE, reason="nothing to be tried here")


def tried(code: str, timeout: float = DEADLINE) -> str:
    """The result of a trial of this code."""
    said: queue.Queue[str] = queue.Queue()
    replacement.Trial(b"state", [sys.executable, "-c", code], timeout, said.put)
    return said.get(timeout=DEADLINE)


READ = "from wsraw.supervisor.replacing.replacement import taken; "


def test_a_program_that_understands_says_so() -> None:
    assert tried(f"{READ}assert taken() == (b'state', True); print('ready')") == ""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('ready'); raise SystemExit(3)", "cannot go on here: ready"),
        ("raise SystemExit(3)", "cannot go on here: exit code 3"),
        ("print('what?')", "cannot go on here: what?"),
        ("import sys; sys.exit('this version is too old')", "this version is too old"),
    ],
)
def test_a_program_that_does_not_is_refused(code: str, why: str) -> None:
    assert why in tried(code)


def test_a_program_that_hangs_is_refused() -> None:
    assert "was not ready within 0.5 s" in tried("import time; time.sleep(600)", 0.5)


def test_a_program_that_is_not_there_is_refused() -> None:
    said: queue.Queue[str] = queue.Queue()
    replacement.Trial(b"", ["/nowhere/python"], 1.0, said.put)
    assert said.get(timeout=DEADLINE) == "/nowhere/python: No such file or directory"


def test_without_a_predecessor_nothing_is_taken() -> None:
    assert replacement.taken() is None


def test_a_replacement_that_cannot_be_executed_changes_nothing() -> None:
    reader, writer = os.pipe()
    try:
        error = replacement.become(
            b"state", ["/nowhere/python"], [reader], {}, [signal.Signals.SIGTERM]
        )
        assert isinstance(error, FileNotFoundError)
        assert not os.get_inheritable(reader)
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        probe = os.dup(reader)
        os.close(probe)
        # The descriptor of the state is closed again.
        assert probe == writer + 1 or probe > writer
    finally:
        os.close(reader)
        os.close(writer)
