"""I/O. The run that is drilled: one of our own as a child process, or one that is up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any, Final

import wsraw
from wsraw.config import settings as settings_module
from wsraw.config.checks import from_options
from wsraw.supervisor.run_folder import folder as folders
from wsraw.tools.drill.load.clients import Address
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.ledger import VARIABLE

ORPHAN_TIMEOUT: Final = 20.0
"""Seconds after the end of a supervisor within which the last process of its run must be gone."""

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 60.0
LAST_LINES: Final = 30
"""Of the log, shown where the run did not begin or end as it should."""

ECHO: Final = Path(__file__).with_name("echo.py")


class RunError(Exception):
    """The run did not begin as it should; the text says why."""


class Run:
    """What `wsraw run` does (child.py), with echo.py, on a free port, in a run folder of its own.

    Raises RunError when it does not come up.
    """

    def __init__(self, plan: Plan, handlers: Path = ECHO) -> None:
        self._log: IO[str] | None = None
        try:
            if plan.log:
                self._log = open(plan.log, "w", 1, encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"--log {plan.log}: {error.strerror}") from error
        self.folder = Path(tempfile.mkdtemp(prefix="wsraw-drill-"))
        self.ledger = self.folder / "ledger"
        """Where on_close is written down, if gateways die (ledger.py)."""
        self.deaths = 0
        """Workers that died of something, as the log tells."""
        self.orphaned = False
        """Whether a process was left at the end."""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._address: Address | None = None
        self._up = threading.Event()
        self._plan = plan
        self._handlers = handlers
        self._process: subprocess.Popen[str]
        self._reader: threading.Thread
        self._start("127.0.0.1:0")
        assert self._address is not None
        self.address: Address = self._address

    def _start(self, listen: str) -> None:
        environment = _environment()
        if self._plan.everybody_dies:
            environment[VARIABLE] = str(self.ledger)
        settings = _settings(self._plan, self.folder, self._handlers, listen)
        self._address = None
        self._up.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "wsraw.tools.drill.target.child", settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            **_own_group(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._up.wait(START_TIMEOUT)
        except BaseException:
            # Interrupted before anybody else knows of it.
            self.kill()
            raise
        if self._address is None:
            self.kill()
            raise RunError("the run did not start:\n" + self.last_lines())

    def begin_anew(self) -> None:
        """Kill the supervisor, see everybody go, and start it again at the same address. Raises
        RunError."""
        self._process.kill()
        self._process.wait()
        left = self.is_left()
        self._reader.join(STOP_TIMEOUT)
        self._close_stdin()
        if left:
            raise RunError("a process of the run is left after the death of its supervisor")
        host, port = self.address
        self._start(f"{host}:{port}")

    def is_left(self) -> bool:
        """Whether a process of the run is left after the supervisor's end. All of them hold its
        lock (docs/worker-protocol.md, rule 19)."""
        until = time.monotonic() + ORPHAN_TIMEOUT
        while folders.is_live(self.folder):
            if time.monotonic() > until:
                return True
            time.sleep(0.01)
        return False

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if self._log is not None:
                    self._log.write(line)
                self._lines.append(line.rstrip("\n"))
                if self._address is None:
                    found = re.search(r" wsraw: listening on ws://(\S+):(\d+) ", line)
                    if found:
                        self._address = (found[1], int(found[2]))
                        self._up.set()
                elif re.search(r" warning wsraw: worker \d+ ", line):
                    self.deaths += 1
        self._up.set()

    def stop(self, keep_folder: bool) -> int:
        """Stop it in good order; returns its exit code."""
        self._close_stdin()
        try:
            code = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode
        self._reader.join(STOP_TIMEOUT)
        self._close_log()
        self.orphaned = self.is_left()
        if not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        return code

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            # It is gone.
            pass

    def kill(self) -> None:
        """End it now; its children notice (docs/worker-protocol.md, rule 19)."""
        self._process.kill()
        self._process.wait()
        self._reader.join(STOP_TIMEOUT)
        self._close_stdin()
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


def _environment() -> dict[str, str]:
    """Ours. A source tree that is not installed must be found in spite of -P."""
    home = Path(wsraw.__file__).resolve().parent.parent
    if home != Path.cwd():
        return dict(os.environ)
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{path}" if path else str(home)}


def _own_group() -> dict[str, Any]:
    """Ctrl-C is for the drill alone: it ends the run when the clients are done."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}
