"""The part of the supervisor that requests, signals and the check of canaries use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from wsraw.config.settings import Settings
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control.link import Control
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.policy import Policy
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.open_files import OpenFiles


class ControlledRun(Protocol):
    """The supervisor."""

    log: Log
    loop: Loop
    policy: Policy
    control: Control
    open_files: OpenFiles
    ended_by: str

    @property
    def settings(self) -> Settings: ...

    def act(self, actions: list[a.Action]) -> None:
        """Carry out what the policy has decided."""

    def stop(self, why: str, how: str, seconds: float | None = None) -> None:
        """Stop gracefully; a second call can only bring the deadline forward."""

    def reload(self, names: Sequence[str]) -> None:
        """Apply changed settings and certificates, and reload the workers of these pools."""

    def upgrade(self, python: str = "") -> str:
        """Begin to replace the gateway, by the wsraw of another Python if one is given. Returns why
        that is refused, or ""."""

    def status(self, report: dict[str, Any] | None) -> dict[str, Any]:
        """The state of the run; `report` is the gateway's part."""
