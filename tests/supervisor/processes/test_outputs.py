"""Programs that are run for their output, and their end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from tests.deadline import DEADLINE, eventually
from wsraw.supervisor.processes import outputs
from wsraw.supervisor.processes.outputs import output_of

HANGS = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_output_and_exit_code_are_the_answer() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = output_of([sys.executable, "-c", code], DEADLINE, stderr=subprocess.PIPE)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_a_program_that_takes_too_long_is_killed() -> None:
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        output_of(HANGS, 0.1)
    assert time.monotonic() - begin < DEADLINE


def test_a_program_ends_with_us() -> None:
    codes = []
    asking = threading.Thread(
        target=lambda: codes.append(output_of(HANGS, 10 * DEADLINE).returncode), daemon=True
    )
    asking.start()
    eventually(lambda: outputs._running)
    outputs.end_all()
    asking.join(DEADLINE)
    assert codes
    assert codes[0] != 0
