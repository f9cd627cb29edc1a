"""I/O. The admin process and the agent of a cluster, as far as the settings want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wsraw.config.addresses import parse_admin
from wsraw.config.settings import Settings
from wsraw.link.records import Spawned
from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.actions import Termination
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.helpers.admin import AdminHelper
from wsraw.supervisor.helpers.agent import AgentHelper
from wsraw.supervisor.helpers.helper import Helper
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import HelperRecord, RunRecord
from wsraw.supervisor.upgrading import OF_ADMIN, OF_AGENT


class Helpers:
    """The helpers of a run. `tell` tells the gateway who the agent is."""

    def __init__(
        self, children: Children, loop: Loop, log: Log, tell: Callable[[Spawned], object]
    ) -> None:
        self._children = children
        self._loop = loop
        self._log = log
        self._tell = tell
        self._admin: AdminHelper | None = None
        self._next_admin: AdminHelper | None = None
        """The next admin process, of settings that are about to change, if its address is another
        one."""
        self._agent: AgentHelper | None = None
        self._dismissed: set[Child] = set()
        """Processes that must end and are not replaced."""

    def open(self, settings: Settings) -> None:
        """Bind the address of the admin process. Raises OSError."""
        if settings.admin:
            self._admin = self._open_admin(settings)
        if settings.cluster:
            self._agent = AgentHelper(self._children, self._loop, self._log)

    def _open_admin(self, settings: Settings) -> AdminHelper:
        sock = listening.bind(parse_admin(settings.admin))
        return AdminHelper(sock, self._children, self._loop, self._log)

    def begin(self) -> None:
        """Start the admin process; the agent follows when the gateway can be reached."""
        if self._admin is not None:
            self._admin.begin()

    def look(self, timeout: float) -> None:
        """To be called every second: end an admin process that does not answer for that long."""
        if self._admin is not None:
            self._admin.look(timeout)

    def reached(self, endpoint: str) -> None:
        """The gateway can be reached at this endpoint."""
        if self._agent is not None:
            self._tell(self._agent.known(endpoint))

    # --- another program in our place ---

    def records(
        self, number: Callable[[Child], int]
    ) -> tuple[HelperRecord | None, HelperRecord | None]:
        """What the program that replaces us must know about both."""
        return (
            self._admin.record(number) if self._admin is not None else None,
            self._agent.record(number) if self._agent is not None else None,
        )

    def adopt(self, record: RunRecord, settings: Settings) -> None:
        """Take the address from the program before us. Raises OSError."""
        if record.admin is not None:
            sock = listening.adopt(str(record.admin.socket))
            self._admin = AdminHelper(sock, self._children, self._loop, self._log)
        if settings.cluster:
            self._agent = AgentHelper(self._children, self._loop, self._log)

    def go_on(self, record: RunRecord, children: Sequence[Child]) -> None:
        """Continue with the processes of the program before us."""
        if self._admin is not None and record.admin is not None:
            self._admin.go_on(children[record.admin.child])
        if self._agent is not None and record.agent is not None:
            self._agent.go_on(children[record.agent.child], record.agent.endpoint)

    # --- other settings ---

    def prepare(self, settings: Settings, old: Settings) -> str:
        """Bind a new address for the admin process. Returns why that failed, or ""."""
        if settings.admin and settings.admin != old.admin:
            try:
                self._next_admin = self._open_admin(settings)
            except OSError as error:
                return error.strerror or str(error)
        return ""

    def drop_next(self) -> None:
        """The settings stay as they are: drop what was prepared."""
        if self._next_admin is not None:
            self._next_admin.close()
            self._next_admin = None

    def change(self, settings: Settings, names: Sequence[str], endpoint: str) -> None:
        """Apply these settings; the settings with these names have changed."""
        new, self._next_admin = self._next_admin, None
        if "admin" in names:
            if self._admin is not None:
                self._dismiss(self._admin)
            self._admin = new
            self.begin()
        elif self._admin is not None and not OF_ADMIN.isdisjoint(names):
            self._admin.restart()
        if OF_AGENT.isdisjoint(names):
            return
        if self._agent is not None and settings.cluster:
            self._agent.restart()
        elif self._agent is not None:
            self._dismiss(self._agent)
            self._agent = None
        elif settings.cluster:
            self._agent = AgentHelper(self._children, self._loop, self._log)
            self.reached(endpoint)

    def _dismiss(self, helper: Helper) -> None:
        if self._children.pid(helper.child) is not None:
            self._dismissed.add(helper.child)
        helper.leave()

    # --- the end ---

    def exited(self, child: Child, why: str, *, is_running: bool) -> bool:
        """Whether the exited process was one of these: then no other part needs to know."""
        if self._admin is not None and child is self._admin.child:
            self._admin.exited(why)
        elif self._agent is not None and child is self._agent.child:
            if not is_running:
                # The run is ending, so the agent is not started again.
                self._agent.leave()
            self._agent.exited(why)
        elif child in self._dismissed:
            self._dismissed.discard(child)
        else:
            return False
        return True

    def kill_agent(self, why: str) -> None:
        """Kill the agent, because the gateway asks for that."""
        self._log.say("warning", f"killing the agent of the cluster: {why}")
        if self._agent is not None:
            self._children.end(self._agent.child, Termination.KILL)

    def close(self) -> None:
        """Release the address."""
        if self._admin is not None:
            self._admin.close()

    def status(self) -> dict[str, Any]:
        """For `wsraw status`."""
        return {
            "admin": self._admin.url if self._admin is not None else None,
            "agent": self._agent.status() if self._agent is not None else None,
        }
