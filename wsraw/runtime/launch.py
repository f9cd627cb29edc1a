"""I/O. Tie the life of a process to its parent's (on Linux), and become another program.

As a script it does both: this is how a worker in another language is started. It imports little,
as it runs before each start of such a worker.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1

NO_SUCH_PROGRAM: Final = 127
"""The exit code that shells use."""


def die_with(parent: int) -> None:
    """On Linux, get SIGTERM when the parent dies. A busy worker does not see the end of stdin, by
    which it notices that on other systems (on Windows a job object ends it).

    SIGTERM, not SIGKILL: a worker finishes its handler, and the gateway kills one that hangs.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # It has died already, and the signal will not come.
        sys.exit(1)


def unblock_signals() -> None:
    """Unblock signals that the parent process had blocked. The mask is inherited: only SIGKILL
    would stop us and our children."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become(command: Sequence[str]) -> int:
    """Become another program; returns only if that fails. On Windows, which cannot do that, run it
    and return its exit code."""
    try:
        if sys.platform == "win32":
            import subprocess

            return subprocess.call(command)
        unblock_signals()
        # Python ignores these two, and the next program would inherit that.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
    return NO_SUCH_PROGRAM


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.exit(become(sys.argv[2:]))
