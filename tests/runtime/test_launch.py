from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.deadline import DEADLINE
from wsraw.runtime import launch

ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="containers have a process 1 of their own"
)
COMMAND = [sys.executable, "-I", "-S", launch.__file__]


def test_what_the_supervisor_says_comes_in_lines_until_its_end() -> None:
    ours, theirs = os.pipe()
    supervisor = launch.Parent(ours)
    os.write(theirs, b"one\n\ntw")
    assert supervisor.line() == b"one"
    assert supervisor.line() == b""
    os.write(theirs, b"o\nhalf")
    os.close(theirs)
    assert supervisor.line() == b"two"
    assert supervisor.line() is None, "it ended in the middle of a word"
    assert supervisor.line() is None
    os.close(ours)


def test_a_program_that_does_not_exist_is_named() -> None:
    done = subprocess.run(
        [*COMMAND, str(os.getpid()), "no-such-program"], capture_output=True, check=False
    )
    assert done.returncode == launch.NO_SUCH_PROGRAM
    assert done.stderr.startswith(b"error: no-such-program: ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child")
def test_a_program_is_terminated_when_its_parent_dies() -> None:
    """Otherwise the program would print something: it starts only after the signal for the
    parent's death is set up.
    """
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
        # The process has closed its end of the pipe, too.
        assert process.communicate(timeout=DEADLINE)[0] == ""


PROCESS_1 = """
import ctypes, os, signal, subprocess, sys
from wsraw.runtime import launch

# Orphans below it come to it, as to process 1.
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
tending = os.getpid()
code = launch.tend()
if code is not None:
    sys.exit(code)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
for n in range(20):
    subprocess.run(["sh", "-c", "(exit 5) & exec true"], check=True)

def children():
    with open(f"/proc/{tending}/task/{tending}/children") as stream:
        return stream.read().split()

while children() != [str(os.getpid())]:
    pass
def heard(*_):
    print("SIGHUP", flush=True)
    sys.exit(7)

signal.signal(signal.SIGHUP, heard)
print("alone", flush=True)
# The signal may come before the wait for it.
while True:
    signal.pause()
"""


def tend(number: signal.Signals) -> tuple[str, int]:
    """The output and the exit code of the program under process 1, after this signal to process
    1.
    """
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS_1], stdout=subprocess.PIPE, encoding="ascii"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "alone\n"
        process.send_signal(number)
        said = process.stdout.read()
    return said, process.returncode


@ON_LINUX
def test_process_1_reaps_children_and_forwards_signals() -> None:
    """As process 1, other servers collected zombies (uvicorn-gunicorn-docker #48, honcho #231)."""
    assert tend(signal.SIGHUP) == ("SIGHUP\n", 7)


@ON_LINUX
def test_a_killed_program_gets_the_exit_code_of_a_shell() -> None:
    assert tend(signal.SIGTERM) == ("", 128 + signal.SIGTERM)


@ON_LINUX
def test_a_process_other_than_1_runs_the_program_itself() -> None:
    code = (
        "from wsraw.runtime import launch; assert launch.as_process_1() is None; print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"went on\n"
