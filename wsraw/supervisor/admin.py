"""I/O. The admin process, as the supervisor sees it. It lives until the last moment, so that a stop
can be watched."""

from __future__ import annotations

import socket
from collections.abc import Callable

from wsraw.config.addresses import Listen
from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.processes.helper import Helper
from wsraw.supervisor.replacing.records import HelperRecord


class Admin(Helper):
    """Its socket, which stays bound while it is replaced, and its process. Raises OSError if the
    address cannot be bound."""

    def __init__(
        self, listen: Listen, loop: Loop, log: Log, sock: socket.socket | None = None
    ) -> None:
        """`sock`: that of the program before us, which listens there."""
        super().__init__("admin", loop, log)
        self._socket: socket.socket = sock or listening.bind(listen)
        self.url = f"http://{listening.printable(self._socket.getsockname())}"

    def record(self, number: Callable[[Child], int]) -> HelperRecord:
        """What the program that takes our place is to know; children by their numbers there."""
        return HelperRecord(number(self.child), self._socket.fileno())

    def go_on(self, children: Children, child: Child) -> None:
        """With the process that is there, or another one if it has died."""
        self.go_on_with(children, child)
        if not self._is_up:
            self._spawn()

    def begin(self, children: Children) -> None:
        """Start the process."""
        self._children = children
        paths = "/metrics, /healthz, /readyz and the admin page"
        self._log.say("info", f"admin: {paths} at {self.url}")
        self._spawn()

    def start(self, children: Children) -> None:
        """Start the process, with the socket."""
        children.spawn_admin(self.child, self._socket)

    def leave(self) -> None:
        """End the process, and give the address back."""
        super().leave()
        self.close()

    def close(self) -> None:
        """Give the address back."""
        self._socket.close()
