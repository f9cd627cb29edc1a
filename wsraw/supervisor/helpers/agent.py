"""I/O. The supervisor's view of a cluster's agent. While the agent is away, the gateway serves its
own clients, and counts what other nodes miss."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from wsraw.link.records import AGENT, Spawned
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.helpers.helper import Helper
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import HelperRecord


class AgentHelper(Helper):
    """The process of the agent, which is started once the gateway can be reached."""

    def __init__(self, children: Children, loop: Loop, log: Log) -> None:
        super().__init__("agent", children, loop, log)
        self.child.token = os.urandom(16).hex()
        self._endpoint = ""

    def record(self, number: Callable[[Child], int]) -> HelperRecord:
        """What the program that replaces us must know; children by their numbers in its list."""
        return HelperRecord(number(self.child), endpoint=self._endpoint)

    def go_on(self, child: Child, endpoint: str) -> None:
        """Continue with the running process, or start another one if it has died."""
        self.go_on_with(child)
        self._endpoint = endpoint
        if endpoint and not self._is_up:
            self._spawn()

    def known(self, endpoint: str) -> Spawned:
        """The gateway can be reached at this endpoint: start the process, or let it connect there.
        Returns the record with which the gateway recognizes the process by its token."""
        before, self._endpoint = self._endpoint, endpoint
        if not before:
            self._spawn()
        elif before != endpoint and self._is_up:
            # The process knows only the old endpoint; its exit starts another one.
            self._end()
        return Spawned(AGENT, self.child.token, 0)

    def start(self) -> None:
        """Start the process, which connects to the gateway."""
        self._children.spawn_agent(self.child, self._endpoint)

    def status(self) -> dict[str, Any]:
        """For `wsraw status`."""
        return {
            "pid": self._children.pid(self.child),
            "restarts": self.child.restarts,
            "rss": self._children.memory(self.child),
        }
