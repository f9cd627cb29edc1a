"""I/O. Become another program: check in a child whether it accepts the state, and then execute it.

The process stays the same: its pid, its children and all descriptors that the record names. If the
program cannot be started, nothing changes. A failure after that ends the run, like the death of a
supervisor.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from wsraw.runtime.printable import os_error, printable
from wsraw.supervisor.processes.outputs import output_of
from wsraw.supervisor.processes.process import CAN_HOLD

CAN_REPLACE: Final = CAN_HOLD and hasattr(os, "execve")

STATE: Final = "WSRAW_REPLACES"
"""The variable with the number of the descriptor that has the record."""

TRIAL: Final = "WSRAW_TRIAL"
"""The variable that says that the record is only checked."""

UNDERSTOOD: Final = "ready"
"""The output of a program that can continue the run."""

LONGEST: Final = 60.0
"""Seconds that a check may take, where start_timeout sets no limit."""

SHOWN: Final = 500
"""Characters of the program's output that a refusal shows."""


def own_command() -> list[str]:
    """The command line of this program, which may run newer code by now."""
    return [sys.executable, *sys.orig_argv[1:]]


def command_of(python: str) -> list[str]:
    """The command line of this program with the wsraw of another Python."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    ours = spec.name.removesuffix(".__main__") if spec is not None else ""
    module = ours if ours.partition(".")[0] == "wsraw" else "wsraw"
    # -P: modules in the user's folder must not shadow ours or Python's.
    return [python, "-P", "-m", module, *sys.argv[1:]]


def taken() -> tuple[bytes, bool] | None:
    """The record of the program that we replace, and whether this is only a check; None if there is
    none. Removes the variables for this."""
    number, trial = os.environ.pop(STATE, ""), os.environ.pop(TRIAL, "")
    if not number:
        return None
    with os.fdopen(int(number), "rb") as file:
        file.seek(0)
        return file.read(), bool(trial)


def _file(data: bytes) -> int:
    """A descriptor with this content. Raises OSError."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("wsraw")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    with open(os.dup(number), "wb") as file:
        file.write(data)
    return number


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment, with more variables."""
    return {**os.environ, **more}


class Trial:
    """Runs the program in a child, which reads settings and record, and changes nothing."""

    def __init__(
        self,
        data: bytes,
        command: Sequence[str],
        timeout: float,
        done: Callable[[str], object],
        folder: str = "",
    ) -> None:
        """`done` is called in a thread, with why the program cannot continue the run, or "".
        `folder`: where the program starts, if the folder exists."""
        self._folder = folder if os.path.isdir(folder) else None
        self._data = data
        self._command = command
        self._timeout = timeout or LONGEST
        self._done = done
        threading.Thread(target=self._run, name="trial", daemon=True).start()

    def _run(self) -> None:
        try:
            number = _file(self._data)
        except OSError as error:
            self._done(os_error(error))
            return
        try:
            why = self._try(number)
        except Exception as error:
            why = f"a bug in wsraw: {error!r}"
        finally:
            os.close(number)
        self._done(why)

    def _try(self, number: int) -> str:
        try:
            done = output_of(
                self._command,
                self._timeout,
                env=environment({STATE: str(number), TRIAL: "1"}),
                stderr=subprocess.STDOUT,
                errors="replace",
                pass_fds=[number],
                cwd=self._folder,
            )
        except subprocess.TimeoutExpired:
            return f"the new program was not ready within {self._timeout:g} s"
        except OSError as error:
            return os_error(error)
        lines = done.stdout.strip().splitlines()
        if done.returncode == 0 and lines[-1:] == [UNDERSTOOD]:
            return ""
        said = "; ".join(map(printable, lines[-3:]))[-SHOWN:] or f"exit code {done.returncode}"
        return f"the new program cannot go on here: {said}"


def _here() -> int | None:
    """The current folder; None if it is gone."""
    try:
        return os.open(".", os.O_RDONLY)
    except OSError:
        return None


def become(
    data: bytes,
    command: Sequence[str],
    numbers: Iterable[int],
    variables: Mapping[str, str],
    signals: Iterable[signal.Signals],
    folder: str = "",
) -> OSError:
    """Become that program, with these descriptors, in that folder if it exists. Returns only if
    that fails: then nothing has changed."""
    here = _here()
    if os.path.isdir(folder):
        with suppress(OSError):
            os.chdir(folder)
    kept: list[int] = []
    before: set[signal.Signals | int] = set()
    try:
        kept = [_file(data), *numbers]
        for number in kept:
            os.set_inheritable(number, True)
        if sys.platform != "win32":
            # Pending signals wait until the new program handles them.
            before = set(signal.pthread_sigmask(signal.SIG_BLOCK, signals))
        os.execve(command[0], list(command), environment({**variables, STATE: str(kept[0])}))
    except OSError as failure:
        error = failure
    if here is not None:
        with suppress(OSError):
            os.chdir(here)
        os.close(here)
    for number in kept:
        with suppress(OSError):
            os.set_inheritable(number, False)
    if kept:
        os.close(kept[0])
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return error
