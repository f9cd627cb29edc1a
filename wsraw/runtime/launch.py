"""I/O. Tying the life of a process to its parent's, where the system offers that (Linux).

As a script it does so and becomes another program: how a worker in another language is started.
It imports little, as it stands before each start of a worker.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1

SI_KERNEL: Final = 0x80
"""Of a signal that no process has sent."""

NO_SUCH_PROGRAM: Final = 127
"""What shells say."""


def die_with(parent: int) -> None:
    """Linux: be told when the parent dies, however it dies. For workers: their handlers may keep
    them from seeing the end of stdin, which tells it everywhere (on Windows a job object does).

    SIGTERM, not SIGKILL: a worker finishes its handler, and what hangs is killed by the gateway.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # It died before we asked, and the signal will never come.
        sys.exit(1)


def unblock_signals() -> None:
    """Whoever has started us may have blocked them, and a process inherits that: then it could only
    be killed, and so could all that it starts."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(parent: int, command: list[str]) -> int:
    """Become the command; returns only if that cannot be."""
    die_with(parent)
    return become(command)


def as_process_1() -> int | None:
    """As process 1 of a container: see off the processes that others have left to us, while the
    program itself goes on in a child. There it gives None, and here the exit code, at its end."""
    if os.getpid() != 1 or not sys.platform.startswith("linux"):
        return None
    return tend()


def tend() -> int | None:
    """Fork; pass signals on to the child, and reap until it ends."""
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
            # Else it comes from the terminal, which has told the child, too.
            os.kill(child, came.si_signo)


def _reap(awaited: int) -> int | None:
    """Reap all that have ended; the exit code of that one if it is among them, as shells say it."""
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
    """Become another program; returns only if that cannot be. On Windows, where nobody can, run it
    and return its exit code."""
    try:
        if sys.platform == "win32":
            import subprocess

            return subprocess.call(command)
        unblock_signals()
        # Python ignores these two, and what is ignored stays so in the next program.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
    return NO_SUCH_PROGRAM


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
