from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.deadline import DEADLINE
from wsraw.runtime import launch

COMMAND = [sys.executable, "-I", "-S", launch.__file__]


def test_a_program_that_does_not_exist_is_named() -> None:
    done = subprocess.run(
        [*COMMAND, str(os.getpid()), "no-such-program"], capture_output=True, check=False
    )
    assert done.returncode == launch.NO_SUCH_PROGRAM
    assert done.stderr.startswith(b"error: no-such-program: ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child")
def test_a_program_is_terminated_when_its_parent_dies() -> None:
    """The program begins after the parent's death was asked for: it would print otherwise."""
    parent = (
        "import os, subprocess, sys\n"
        "program = ['sh', '-c', 'echo $$; exec sleep 60']\n"
        "subprocess.Popen([*sys.argv[1:], str(os.getpid()), *program])\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, *COMMAND], stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) != process.pid
        process.send_signal(signal.SIGKILL)
        # Its end of the pipe is closed, too.
        assert process.communicate(timeout=DEADLINE)[0] == ""
