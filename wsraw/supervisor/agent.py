"""I/O. The agent of a cluster, as the supervisor sees it: beside the run, and never in its way.

Like the admin process it is no part of what the policy decides. While it is away the gateway serves
its own clients, and counts what other nodes do not get.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any, Final

from wsraw.link.records import AGENT, Spawned
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.actions import Ending
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.restarts import PERIOD, Restarts
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import HelperRecord

INTENSITY: Final = 5
"""Deaths at the start within PERIOD after which it is only tried every half minute."""


class Agent:
    """Its process, which is started when the gateway can be reached."""

    def __init__(self, loop: Loop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._children: Children | None = None
        self._endpoint = ""
        self.child = Child(None, title="agent")
        self.child.token = secrets.token_hex(16)
        self._restarts = Restarts(INTENSITY, random.random)
        self._is_up = False
        """Whether there is a process."""
        self._is_stopping = False
        self._is_restarting = False

    def record(self, number: Callable[[Child], int]) -> HelperRecord:
        """What the program that takes our place is to know; children by their numbers there."""
        return HelperRecord(number(self.child), endpoint=self._endpoint)

    def go_on(self, children: Children, child: Child, endpoint: str) -> None:
        """With the process that is there, or another one if it has died."""
        self._children, self.child, self._endpoint = children, child, endpoint
        self._is_up = children.pid(child) is not None
        if endpoint and not self._is_up:
            self._spawn()

    def restart(self) -> None:
        """Replace the process, for other settings."""
        if self._is_up and self._children is not None:
            self._is_restarting = True
            self._children.end(self.child, Ending.KILL)

    def leave(self) -> None:
        """End the process: the settings do not name a cluster any more."""
        self._is_stopping = True
        if self._is_up and self._children is not None:
            self._children.end(self.child, Ending.KILL)

    def known(self, children: Children, endpoint: str) -> Spawned:
        """The gateway can be reached there: start the process, or let it go there. Gives what the
        gateway is to be told, so that it knows the process by its token."""
        self._children = children
        before, self._endpoint = self._endpoint, endpoint
        if not before:
            self._spawn()
        elif before != endpoint and self._is_up:
            # It knows the old place only; its exit starts another one.
            children.end(self.child, Ending.KILL)
        return Spawned(AGENT, self.child.token, 0)

    def _spawn(self) -> None:
        assert self._children is not None
        if self._is_stopping:
            return
        self._is_up = True
        self.child.n += 1
        self.child.spawned_at = self.child.ready_at = self._loop.now
        self._children.spawn_agent(self.child, self._endpoint)

    def exited(self, why: str, is_running: bool) -> None:
        """It has died: start another, after a pause that grows while it dies again and again.
        While the run stops, it has left."""
        self._is_up = False
        if not is_running or self._is_stopping:
            self._is_stopping = True
            return
        if self._is_restarting:
            self._is_restarting = False
            self._spawn()
            return
        self.child.restarts += 1
        now = self._loop.now
        began = self._restarts.record_death(self.child, self.child.ready_at, now)
        wait = self.child.spawn_at - now
        self._log.say("warning", f"agent {why}; starting another in {wait:.1f} s")
        if began:
            text = f"more than {INTENSITY} early deaths of agent within {PERIOD:g} s"
            self._log.say("error", f"{text}; clients of this node are served all the same")
        self._loop.call_at(self.child.spawn_at, self._spawn)

    def status(self, children: Children) -> dict[str, Any]:
        """For `wsraw status`."""
        return {
            "pid": children.pid(self.child),
            "restarts": self.child.restarts,
            "rss": children.memory(self.child),
        }
