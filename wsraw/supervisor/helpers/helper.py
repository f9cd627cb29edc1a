"""I/O. A process beside the run that never delays it: the admin process or a cluster's agent.

The policy does not decide about it: nothing waits for its start, and when it dies, that is logged,
and another one is started.
"""

from __future__ import annotations

import random
from typing import Final

from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.actions import Termination
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.restarts import PERIOD, Restarts
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children

INTENSITY: Final = 5
"""Deaths at the start within PERIOD after which a start is tried only every half minute."""


class Helper:
    """A process that is started again whenever it ends. `start` starts it."""

    def __init__(self, title: str, children: Children, loop: Loop, log: Log) -> None:
        self.child = Child(None, title=title)
        self._children = children
        self._loop = loop
        self._log = log
        self._restarts = Restarts(INTENSITY, random.random)
        self._is_up = False
        """Whether the process runs."""
        self._is_replaced = False
        """The process must end, and another one follows at once."""
        self._has_left = False

    def start(self) -> None:
        """Start the process."""
        raise NotImplementedError

    def go_on_with(self, child: Child) -> None:
        """Continue with the process that the program before us has started, if it still exists."""
        self.child = child
        self._is_up = self._children.pid(child) is not None

    def restart(self) -> None:
        """Replace the process, because of changed settings."""
        if self._is_up:
            self._is_replaced = True
            self._end()

    def leave(self) -> None:
        """End the process for good."""
        self._has_left = True
        if self._is_up:
            self._end()

    def _end(self) -> None:
        self._children.end(self.child, Termination.KILL)

    def _spawn(self) -> None:
        if self._has_left:
            return
        self._is_up = True
        self.child.n += 1
        self.child.spawned_at = self.child.ready_at = self._loop.now
        self.start()

    def exited(self, why: str) -> None:
        """Start another process, after a pause that grows while it dies again and again."""
        self._is_up = False
        if self._has_left:
            return
        if self._is_replaced:
            self._is_replaced = False
            self._spawn()
            return
        self.child.restarts += 1
        began = self._restarts.record_death(self.child, self.child.ready_at, self._loop.now)
        wait = self.child.spawn_at - self._loop.now
        name = self.child.title
        self._log.say("warning", f"{name} {why}; starting another in {wait:.1f} s")
        if began:
            text = f"more than {INTENSITY} early deaths of {name} within {PERIOD:g} s"
            self._log.say("error", f"{text}; clients are served all the same")
        self._loop.call_at(self.child.spawn_at, self._spawn)
