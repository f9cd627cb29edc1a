"""I/O. The drill's own run, as a child process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import wsraw
from wsraw.config import programs
from wsraw.config import settings as settings_module
from wsraw.config.checks import from_options
from wsraw.supervisor.processes.process import Process
from wsraw.supervisor.run_folder import folder as folders
from wsraw.tools.drill.load.clients import Address
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.close_log import VARIABLE
from wsraw.tools.drill.target.control import RunControl
from wsraw.tools.drill.target.remote import Link, RemoteControl, RemoteWorkers, make_link

ORPHAN_TIMEOUT: Final = 20.0
"""Seconds after the end of a supervisor until the last process of its run must have ended."""

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 60.0
POLL_INTERVAL: Final = 0.01
MOST_DELIVERIES: Final = 100
LAST_LINES: Final = 30
"""Last lines of the log, shown if the run did not start or stop as it should."""

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
        self.close_log = self.folder / "closes"
        """Where the handlers write each on_close (close_log.py)."""
        self.close_log.mkdir()
        self.failures: list[str] = []
        """Problems at the end."""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._address: Address | None = None
        self._codes: list[int] = []
        """The exit code, once the run has ended."""
        self._remote: RemoteWorkers | None = None
        try:
            link = make_link(self.folder / "keys", _python_path()) if plan.remote else None
        except BaseException:
            self._clean_up()
            raise
        settings = _settings(plan, self.folder, handlers, link)
        self._process = Process(
            [sys.executable, "-P", "-m", "wsraw.tools.drill.target.child", settings],
            {VARIABLE: str(self.close_log), **_python_path()},
            on_line=self._take_line,
            on_exit=self._codes.append,
        )
        try:
            self.address: Address = self._wait_until_it_listens()
            if link is not None:
                variables = {**link.variables, VARIABLE: str(self.close_log), **_python_path()}
                commands = _commands(plan, handlers)
                self._remote = RemoteWorkers(commands, variables, self._take_line)
                self._wait_for_workers(RemoteControl(self.folder, self._remote), len(commands))
        except BaseException:
            # Also after an interrupt: nothing else can stop the run.
            self.kill()
            raise

    def _wait_until_it_listens(self) -> Address:
        self._wait(lambda: self._address or self._codes, START_TIMEOUT)
        if self._address is None:
            raise DrillError("the run did not start:\n" + self.last_lines())
        return self._address

    def _wait_for_workers(self, control: RemoteControl, number: int) -> None:
        failures = control.remote.failures
        self._wait(lambda: failures or control.count_connected() == number, START_TIMEOUT)
        if control.count_connected() < number:
            text = "; ".join(failures) or "the remote workers did not connect"
            raise DrillError(f"{text}:\n{self.last_lines()}")

    def control(self) -> RunControl:
        """The control through which faults are injected."""
        if self._remote is not None:
            return RemoteControl(self.folder, self._remote)
        return RunControl(self.folder)

    def _wait(self, condition: Callable[[], object], timeout: float) -> bool:
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def _take_line(self, line: str) -> None:
        log = self._log
        if log is not None:
            log.write(f"{line}\n")
        self._lines.append(line)
        found = re.search(r" wsraw: listening on ws://(\S+):(\d+) ", line)
        if found and self._address is None:
            self._address = (found[1], int(found[2]))

    def last_lines(self) -> str:
        return "\n".join(self._lines)

    def stop(self, keep_folder: bool) -> int:
        """Stop gracefully; returns the exit code."""
        if self._remote is not None:
            self._remote.stop()
            self.failures += self._remote.failures
        self._process.terminate()
        if not self._wait(lambda: self._codes, STOP_TIMEOUT):
            self.kill()
        self._process.read_rest(STOP_TIMEOUT)
        self._close_log()
        # Supervisor and gateway hold the lock of its folder (docs/worker-protocol.md, rule 19).
        if not self._wait(lambda: not folders.is_live(self.folder), ORPHAN_TIMEOUT):
            self.failures.append("a process of the run was left at its end")
        if not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self._codes[0]

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """Kill the supervisor; its children notice (docs/worker-protocol.md, rule 19)."""
        if self._remote is not None:
            self._remote.stop(0.0)
        self._process.kill()
        self._wait(lambda: self._codes, STOP_TIMEOUT)
        self._process.read_rest(STOP_TIMEOUT)
        self._clean_up()

    def _clean_up(self) -> None:
        self._close_log()
        shutil.rmtree(self.folder, ignore_errors=True)


def _settings(plan: Plan, folder: Path, handlers: Path, link: Link | None) -> str:
    options: dict[str, Any] = {
        "listen": ("127.0.0.1:0",),
        "workers": _workers(plan, handlers) if link is None else (programs.NONE,),
        "run_dir": str(folder),
        "delivery": plan.delivery,
        **(link.settings if link is not None else {}),
    }
    if plan.hang_every:
        options["handler_timeout"] = plan.handler_timeout
    else:
        # No event kills: if the workers of an event are killed repeatedly, it is bad luck.
        options["max_deliveries"] = MOST_DELIVERIES
    return settings_module.to_json(from_options(options))


def _workers(plan: Plan, handlers: Path) -> tuple[str, ...]:
    return (*((f"{handlers}:{plan.workers}",) if plan.workers else ()), *plan.also)


def _commands(plan: Plan, handlers: Path) -> list[Sequence[str]]:
    """The command line of each worker, where the run starts none."""
    python = (sys.executable, "-P", "-m", "wsraw", "worker")
    return [
        entry.program.words or (*python, str(entry.program.file))
        for entry in programs.parse_all(_workers(plan, handlers), os.path.isfile)
        for _ in range(entry.number)
    ]


def _python_path() -> dict[str, str]:
    """The variables with which a child can import a source tree that is not installed, despite
    -P."""
    home = Path(wsraw.__file__).resolve().parent.parent
    if home != Path.cwd():
        return {}
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{home}{os.pathsep}{path}" if path else str(home)}
