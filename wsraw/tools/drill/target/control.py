"""I/O. The run under test, through its control endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from wsraw.supervisor.control import client
from wsraw.supervisor.decisions.restarts import STABLE_AFTER
from wsraw.tools.drill.plan import DrillError

STATUS_TIMEOUT: Final = 10.0
RELOAD_TIMEOUT: Final = 60.0
"""Seconds for a reload, which waits for workers that are suspended."""


class RunControl:
    """A run, by its folder; used by several threads. Methods raise DrillError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def status(self) -> dict[str, Any]:
        """The status, like `wsraw status --json`."""
        data: dict[str, Any] = self._ask("status", STATUS_TIMEOUT)
        return data

    def workers(self) -> Sequence[int]:
        """The pids of the workers that are ready, or were."""
        return self._pids(lambda worker: worker["state"] != "starting")

    def proved(self) -> Sequence[int]:
        """The pids of the workers that have handled an event.

        A worker that is killed before looks like a handlers file that crashes at once: the run
        would wait longer before each restart, and nothing would be handled where workers are
        killed faster than they start.
        """
        return self._pids(lambda worker: worker["acked"])

    def _pids(self, condition: Callable[[dict[str, Any]], object]) -> list[int]:
        workers = self.status()["workers"]
        return [worker["pid"] for worker in workers if worker["pid"] and condition(worker)]

    def gateway(self) -> int:
        """The pid of the gateway once it counts as stable, else 0: a gateway that is killed earlier
        looks like one that cannot start."""
        gateway = self.status()["gateway"]
        stable = gateway["state"] == "ready" and gateway["age"] > 1.5 * STABLE_AFTER
        return gateway["pid"] or 0 if stable else 0

    def reload(self) -> None:
        """Replace all workers; returns when that is done."""
        self._ask("reload", RELOAD_TIMEOUT)

    def upgrade(self, python: str = "") -> None:
        """Replace supervisor and gateway, by those of another Python if one is given; return when
        that is done."""
        self._ask("upgrade", RELOAD_TIMEOUT, python)

    def _ask(self, what: str, timeout: float, *args: str) -> Any:
        try:
            done = client.ask(self._folder, what, list(filter(None, args)), timeout)
        except (client.NoRunError, client.RequestRefusedError, TimeoutError) as error:
            raise DrillError(f"{what}: {error}") from error
        if not done.ok:
            raise DrillError(f"{what}: {done.text}")
        return done.data
