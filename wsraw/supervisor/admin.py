"""I/O. The admin process, as the supervisor sees it: beside the run, and never in its way.

It is no part of what the policy decides: nothing waits for its start, and its death is logged and
repaired, and changes nothing else. It lives until the last moment, so that a stop can be watched.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.actions import Ending
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.restarts import PERIOD, Restarts
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import HelperRecord

INTENSITY: Final = 5
"""Deaths at the start within PERIOD after which it is only tried every half minute."""


class Admin:
    """Its socket, which stays bound while it is replaced, and its process. Raises OSError if the
    address cannot be bound."""

    def __init__(
        self, listen: Listen, loop: Loop, log: Log, sock: socket.socket | None = None
    ) -> None:
        """`sock`: that of the program before us, which listens there."""
        self._socket: socket.socket = sock or listening.bind(listen)
        self._loop = loop
        self._log = log
        self._children: Children | None = None
        self.child = Child(None, title="admin")
        self._restarts = Restarts(INTENSITY, random.random)
        self._is_restarting = False
        self._has_left = False
        self.url = f"http://{listening.printable(self._socket.getsockname())}"

    def record(self, number: Callable[[Child], int]) -> HelperRecord:
        """What the program that takes our place is to know; children by their numbers there."""
        return HelperRecord(number(self.child), self._socket.fileno())

    def go_on(self, children: Children, child: Child) -> None:
        """With the process that is there, or another one if it has died."""
        self._children, self.child = children, child
        if children.pid(child) is None:
            self._spawn()

    def begin(self, children: Children) -> None:
        """Start the process."""
        self._children = children
        paths = "/metrics, /healthz, /readyz and the admin page"
        self._log.say("info", f"admin: {paths} at {self.url}")
        self._spawn()

    def restart(self) -> None:
        """Replace the process, for other settings."""
        assert self._children is not None
        self._is_restarting = True
        self._children.end(self.child, Ending.KILL)

    def leave(self) -> None:
        """End the process, and give the address back."""
        self._has_left = True
        if self._children is not None:
            self._children.end(self.child, Ending.KILL)
        self.close()

    def _spawn(self) -> None:
        assert self._children is not None
        if self._has_left:
            return
        self.child.n += 1
        self.child.spawned_at = self.child.ready_at = self._loop.now
        self._children.spawn_admin(self.child, self._socket)

    def exited(self, why: str) -> None:
        """It has died: start another, after a pause that grows while it dies again and again."""
        if self._is_restarting or self._has_left:
            self._is_restarting = False
            self._spawn()
            return
        now = self._loop.now
        began = self._restarts.record_death(self.child, self.child.ready_at, now)
        wait = self.child.spawn_at - now
        self._log.say("warning", f"admin {why}; starting another in {wait:.1f} s")
        if began:
            text = f"more than {INTENSITY} early deaths of admin within {PERIOD:g} s"
            self._log.say("error", f"{text}; clients are served all the same")
        self._loop.call_at(self.child.spawn_at, self._spawn)

    def close(self) -> None:
        """Give the address back."""
        self._socket.close()
