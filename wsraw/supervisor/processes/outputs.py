"""I/O. Programs that are run for their output, in threads. They end with us."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

_running: set[subprocess.Popen[str]] = set()


def output_of(
    command: Sequence[str], timeout: float, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program for its text, as subprocess.run does. Raises TimeoutExpired, OSError."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        **options,
    ) as process:
        _running.add(process)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end_all() -> None:
    """Kill these programs: their output is not needed any more."""
    for process in list(_running):
        process.kill()
