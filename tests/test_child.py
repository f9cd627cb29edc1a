from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.deadline import DEADLINE
from tests.running import command, environment
from wsraw.config import settings as s

SETTINGS = s.to_json(s.Settings(listen=("192.0.2.1:1",)))


def child(
    *arguments: str, said: str = f"{SETTINGS}\n", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Spawn a child as the supervisor does, with no process at its other ends."""
    given = {
        "WSRAW_PARENT": str(os.getpid()),
        "WSRAW_STDIN": "1",
        "WSRAW_PATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        command(*arguments),
        env=environment() | given | variables,
        input=said,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )


WORKER = {"WSRAW_ENDPOINT": "tcp://127.0.0.1:9", "WSRAW_TOKEN": "t", "WSRAW_POOL": "default"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_whose_parent_is_gone_exits() -> None:
    done = child("worker", "/no/such/handlers.py", **WORKER, WSRAW_PARENT="1")
    assert done.returncode == 1
    assert done.stderr == ""


def test_the_child_becomes_a_worker() -> None:
    done = child("worker", "/no/such/handlers.py", **WORKER)
    assert done.returncode == 3
    assert "/no/such/handlers.py" in done.stderr


def test_the_child_becomes_a_gateway() -> None:
    control = {"WSRAW_CONTROL": "", "WSRAW_CONTROL_TOKEN": "t", "WSRAW_EPOCH": "1"}
    done = child("gateway", **control)
    assert done.returncode == 3
    assert "cannot listen on 192.0.2.1:1" in done.stderr


def test_invalid_settings_end_the_child() -> None:
    assert child("worker", said="{\n").returncode == 1


def test_a_child_whose_parent_dies_before_the_settings_are_complete_exits() -> None:
    done = child("worker", said=SETTINGS[:10])
    assert (done.returncode, done.stderr) == (1, "")
