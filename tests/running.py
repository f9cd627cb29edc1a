"""A whole run as a child process: `wsraw run …`, its log, and its child processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.needs import KILL
from wsraw.supervisor.control.signals import REPEATED

ROOT = Path(__file__).resolve().parent.parent

SYNCHRONIZE = 0x100000
WAIT_TIMEOUT = 258
"""Constants of Windows: an access right to a process, and the result of waiting for one that is
alive.
"""


def command(*arguments: str) -> list[str]:
    """The command of the `wsraw` script: nothing is imported from the current folder."""
    return [sys.executable, "-P", "-m", "wsraw", *arguments]


def environment() -> dict[str, str]:
    """Our environment, with the package in the path from any folder."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}


def wsraw(
    *arguments: str, cwd: Path | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends; `before` is a command in front of it."""
    return subprocess.run(
        [*before, *command(*arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
        check=False,
    )


def is_alive(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    if sys.platform == "win32":
        # os.kill(pid, 0) sends Ctrl-C on Windows.
        import ctypes

        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.OpenProcess.restype = ctypes.c_void_p
        process = kernel32.OpenProcess(SYNCHRONIZE, False, pid)
        if not process:
            return False
        handle = ctypes.c_void_p(process)
        try:
            return bool(kernel32.WaitForSingleObject(handle, 0) == WAIT_TIMEOUT)
        finally:
            kernel32.CloseHandle(handle)
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


class Running:
    """`wsraw run` on a free port. Leaving the block kills the remaining processes, and fails if
    the run has left children.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        listen: Sequence[str] = (),
        keep_open: Sequence[int] = (),
        subcommand: str = "run",
    ) -> None:
        """`keep_open` are descriptors that the run inherits."""
        # A killed run cannot remove its run folder, so the folder is inside one of ours.
        self._folder = tempfile.TemporaryDirectory(prefix="run-")
        self.folder = Path(self._folder.name)
        options = [f"--listen={address}" for address in listen or ["127.0.0.1:0"]]
        named = [word for word in arguments if word.startswith("--run-dir=")]
        self.run_dir = Path(named[0].removeprefix("--run-dir=")) if named else None
        self.process = subprocess.Popen(
            command(subcommand, "--log-level=debug", *options, *arguments),
            cwd=cwd,
            env=environment() | dict.fromkeys(["TMPDIR", "XDG_RUNTIME_DIR"], str(self.folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=keep_open,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        try:
            eventually(lambda: not any(map(is_alive, self.pids())), f"all to be gone\n{self}")
        finally:
            for pid in filter(is_alive, self.pids()):
                os.kill(pid, KILL)
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self._folder.cleanup()

    def __str__(self) -> str:
        return "\n".join(self.lines)

    # --- the log ---

    def line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for the count-th line that the pattern is found in."""

        def look() -> re.Match[str] | None:
            found = [match for line in list(self.lines) if (match := re.search(pattern, line))]
            return found[count - 1] if len(found) >= count else None

        try:
            found = eventually(look, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self}") from None
        assert found is not None
        return found

    def ready(self) -> Running:
        """Wait until clients can be served."""
        self.line(r"listening on .*; ready")
        return self

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return int(self.line(r"listening on \w+://[^ ]+:(\d+)")[1])

    # --- the processes ---

    def pids(self, name: str = "(?:gateway|worker [0-9]+)") -> list[int]:
        """The pids of all children of that name that were ever started."""
        pattern = f"debug wsraw: {name} started, pid ([0-9]+)"
        return [int(match[1]) for line in list(self.lines) if (match := re.search(pattern, line))]

    def pid(self, name: str) -> int:
        """Wait for the pid of a child."""
        return int(self.line(f"debug wsraw: {name} started, pid ([0-9]+)")[1])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def send_again(self, number: int) -> None:
        """Send a signal late enough not to count as a repetition."""
        time.sleep(2 * REPEATED)
        self.send(number)

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end\n{self}") from None
        self._reader.join()
        return code
