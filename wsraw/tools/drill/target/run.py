"""I/O. The drill's own run, as a child process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import wsraw
from wsraw.config import settings as settings_module
from wsraw.config.checks import from_options
from wsraw.supervisor.processes.process import Process
from wsraw.supervisor.run_folder import folder as folders
from wsraw.tools.drill.load.clients import Address
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.close_log import VARIABLE

ORPHAN_TIMEOUT: Final = 20.0
"""Seconds after the end of a supervisor until the last process of its run must have ended."""

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 60.0
LAST_LINES: Final = 30
"""Of the log, shown if the run did not start or stop as it should."""

ECHO: Final = Path(__file__).with_name("echo.py")


class Run:
    """A run with echo.py on a free port, in a run folder of its own. Raises DrillError if it does
    not start."""

    def __init__(self, plan: Plan, handlers: Path = ECHO) -> None:
        self._log: IO[str] | None = None
        try:
            if plan.log:
                self._log = open(plan.log, "w", 1, encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise DrillError(f"--log {plan.log}: {error.strerror}") from error
        self.folder = Path(tempfile.mkdtemp(prefix="wsraw-drill-"))
        self.close_log = self.folder / "close-log"
        """Where the handlers write each on_close (close_log.py)."""
        self.orphaned = False
        """Whether a process was left at the end."""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._address: Address | None = None
        self._code: int | None = None
        self._changed = threading.Condition()
        """Notified when the run listens and when it has ended."""
        self._plan = plan
        self._handlers = handlers
        self._process: Process
        self._start("127.0.0.1:0")

    @property
    def address(self) -> Address:
        assert self._address is not None
        return self._address

    def _start(self, listen: str) -> None:
        settings = _settings(self._plan, self.folder, self._handlers, listen)
        self._address = self._code = None
        self._process = Process(
            [sys.executable, "-P", "-m", "wsraw.tools.drill.target.child", settings],
            {VARIABLE: str(self.close_log), **_python_path()},
            on_line=self._take_line,
            on_exit=self._exited,
        )
        try:
            self._wait(lambda: self._address or self._code is not None, START_TIMEOUT)
        except BaseException:
            # Interrupted while nothing else can stop the run.
            self.kill()
            raise
        if self._address is None:
            self.kill()
            raise DrillError("the run did not start:\n" + self.last_lines())

    def _wait(self, condition: Callable[[], object], timeout: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    def _take_line(self, line: str) -> None:
        log = self._log
        if log is not None:
            log.write(f"{line}\n")
        self._lines.append(line)
        found = re.search(r" wsraw: listening on ws://(\S+):(\d+) ", line)
        if found and self._address is None:
            with self._changed:
                self._address = (found[1], int(found[2]))
                self._changed.notify_all()

    def _exited(self, code: int) -> None:
        with self._changed:
            self._code = code
            self._changed.notify_all()

    def restart(self) -> None:
        """Kill the supervisor, wait until all processes have ended, and start the run again at the
        same address. Raises DrillError."""
        self._kill_process()
        if self._is_left():
            raise DrillError("a process of the run is left after the death of its supervisor")
        host, port = self.address
        self._start(f"{host}:{port}")

    def _is_left(self) -> bool:
        """Whether a process is left after the supervisor's end. Each of them holds the lock of
        the run folder (docs/worker-protocol.md, rule 19)."""
        until = time.monotonic() + ORPHAN_TIMEOUT
        while folders.is_live(self.folder):
            if time.monotonic() > until:
                return True
            time.sleep(0.01)
        return False

    def last_lines(self) -> str:
        return "\n".join(self._lines)

    def stop(self, keep_folder: bool) -> int:
        """Stop gracefully; returns the exit code."""
        self._process.terminate()
        if not self._wait(lambda: self._code is not None, STOP_TIMEOUT):
            self.kill()
        self._process.read_rest(STOP_TIMEOUT)
        self._close_log()
        self.orphaned = self._is_left()
        if not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self._code or 0

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _kill_process(self) -> None:
        self._process.kill()
        self._wait(lambda: self._code is not None, STOP_TIMEOUT)
        self._process.read_rest(STOP_TIMEOUT)

    def kill(self) -> None:
        """Kill the supervisor; its children notice (docs/worker-protocol.md, rule 19)."""
        self._kill_process()
        self._close_log()
        shutil.rmtree(self.folder, ignore_errors=True)


def _settings(plan: Plan, folder: Path, handlers: Path, listen: str) -> str:
    options: dict[str, Any] = {
        "listen": (listen,),
        "workers": (*((f"{handlers}:{plan.workers}",) if plan.workers else ()), *plan.also),
        "run_dir": str(folder),
        "delivery": plan.delivery,
    }
    if plan.hang_every:
        options["handler_timeout"] = plan.handler_timeout
    return settings_module.to_json(from_options(options))


def _python_path() -> dict[str, str]:
    """What lets a child import a source tree that is not installed, despite -P."""
    home = Path(wsraw.__file__).resolve().parent.parent
    if home != Path.cwd():
        return {}
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{home}{os.pathsep}{path}" if path else str(home)}
