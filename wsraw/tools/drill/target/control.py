"""I/O. The run that is troubled, through its control endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from wsraw.supervisor.control import client
from wsraw.supervisor.decisions.restarts import STABLE_AFTER
from wsraw.tools.drill.target.run import ECHO, Run, RunError
from wsraw.tools.drill.trouble import TroubleError

STATUS_TIMEOUT: Final = 10.0
CHANGE_TIMEOUT: Final = 60.0
"""Seconds for a reload or a change of scale. Both wait for workers that are stopped just then."""


class Controlled:
    """A run, by its folder."""

    def __init__(self, folder: Path, run: Run | None = None) -> None:
        """`run` is the same one, if it is the drill's own."""
        self._folder = folder
        self._run = run

    def status(self) -> dict[str, Any]:
        """What `wsraw status --json` shows. Raises TroubleError."""
        data: dict[str, Any] = self._ask("status", (), STATUS_TIMEOUT)
        return data

    def workers(self) -> Sequence[int]:
        """The pids of its workers that are, or were, ready. Raises TroubleError.

        One that is starting holds nothing yet. To kill it would look like a file that crashes at
        once, and show no more than that the run then waits longer and longer.
        """
        return [
            worker["pid"]
            for worker in self.status()["workers"]
            if worker["pid"] and worker["state"] != "starting"
        ]

    def gateway(self) -> int:
        """The pid of its gateway, once that has proved itself; else 0. Raises TroubleError.

        As with workers: one that is killed before that would look like one that cannot start.
        """
        gateway = self.status()["gateway"]
        proved = gateway["state"] == "ready" and gateway["age"] > 1.5 * STABLE_AFTER
        return gateway["pid"] or 0 if proved else 0

    def kill_supervisor(self) -> None:
        """Kill that, and begin anew. Raises TroubleError."""
        assert self._run is not None
        try:
            self._run.begin_anew()
        except RunError as error:
            raise TroubleError(str(error)) from error

    def reload(self) -> None:
        """Replace all workers. Raises TroubleError."""
        self._ask("reload", (), CHANGE_TIMEOUT)

    def scale(self, count: int) -> None:
        """Have so many workers. Raises TroubleError."""
        # By name, as there may be others beside them.
        which = f"{ECHO.name}={count}" if self._run is not None else str(count)
        self._ask("scale", (which,), CHANGE_TIMEOUT)

    def _ask(self, what: str, args: Sequence[str], timeout: float) -> Any:
        try:
            done = client.ask(self._folder, what, args, timeout)
        except (client.NoRunError, TimeoutError) as error:
            raise TroubleError(f"{what}: {error}") from error
        if not done.ok:
            raise TroubleError(f"{what}: {done.text}")
        return done.data
