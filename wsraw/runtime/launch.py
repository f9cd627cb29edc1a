"""I/O. Tie the life of a process to its parent's, read what the parent writes, become another
program.

As a script, this module does the first and the last: this is how a worker in another language is
started. The module imports little, because it runs before each start of such a worker.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1

SI_KERNEL: Final = 0x80
"""The code of a signal that no process has sent."""

NO_SUCH_PROGRAM: Final = 127
"""The exit code that shells use."""

HAS_SIGNALS: Final = hasattr(signal, "SIGHUP")
"""Whether signals can ask a process for something. On Windows they end the process at once, so
there the supervisor writes a word to the stdin of its children."""

LEAVE: Final = b"leave"
"""The word that stands for SIGTERM."""

STACK: Final = b"stack"
"""The word that stands for SIGABRT."""


class Parent:
    """Lines of the supervisor on stdin. Their end means that the supervisor is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._heard = b""

    def line(self) -> bytes | None:
        """The next line, without its newline; None at the end. Blocks."""
        while b"\n" not in self._heard:
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:
                data = b""
            if not data:
                return None
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def die_with(parent: int) -> None:
    """On Linux, get SIGTERM when the parent dies. On other systems, the end of stdin shows this,
    which a busy worker does not see (on Windows a job object ends it).

    SIGTERM, not SIGKILL: a worker finishes its handler, and the gateway kills one that hangs.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # The parent has died already, and the signal will not come.
        sys.exit(1)


def unblock_signals() -> None:
    """Unblock signals that the parent had blocked. The mask is inherited: otherwise only SIGKILL
    would stop us and our children."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def as_process_1() -> int | None:
    """As process 1 of a container, reap orphaned processes while the program runs in a child.
    Returns None in the child, and its exit code in process 1."""
    if os.getpid() != 1 or not sys.platform.startswith("linux"):
        return None
    return tend()


def tend() -> int | None:
    """Fork; in the parent, forward signals to the child and reap until it ends."""
    if sys.platform == "win32":
        return None
    passed_on = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
    passed_on |= {signal.SIGUSR1, signal.SIGUSR2}
    awaited = passed_on | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        came = signal.sigwaitinfo(awaited)
        if came.si_signo == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code
        elif came.si_code != SI_KERNEL:
            # A signal of the terminal reaches the child directly.
            os.kill(child, came.si_signo)


def _reap(awaited: int) -> int | None:
    """Reap all ended processes; returns the exit code of `awaited`, as in shells, if it ended."""
    if sys.platform == "win32":
        return None
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == awaited:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def become(command: Sequence[str]) -> int:
    """Become another program; returns only if that fails. Windows cannot do that: there, run the
    program and return its exit code."""
    try:
        if sys.platform == "win32":
            import subprocess

            return subprocess.call(command)
        unblock_signals()
        if HAS_SIGNALS:
            # Python ignores these two signals, and the next program would inherit that.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
    return NO_SUCH_PROGRAM


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.exit(become(sys.argv[2:]))
