"""I/O. The supervisor's view of the admin process. That process lives until the last moment, so
that a stop can be watched.

An admin process that hangs is as bad as a dead one: a health check without an answer may end the
whole run. So it is asked over HTTP, as its clients ask it, and anything that comes back is an
answer, even a reset.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop
from wsraw.supervisor.decisions.actions import Termination
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.helpers.helper import Helper
from wsraw.supervisor.log import Log
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import HelperRecord

REQUEST: Final = b"HEAD / HTTP/1.0\r\n\r\n"

ASK_EVERY: Final = 5.0
"""Seconds from an answer to the next probe; less with a short timeout."""

PROBES: Final = 4
"""Such intervals within the timeout."""

START: Final = 60.0
"""Seconds that a process has to answer its first probe, at least."""


class Probe:
    """A request to the address where a process should listen. Nothing here waits."""

    def __init__(self, listener: socket.socket) -> None:
        """Raises OSError."""
        host, port, *rest = listener.getsockname()
        # If the address stands for all addresses, loopback is among them.
        place = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, *rest)
        self._socket = socket.socket(listener.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.connect_ex(place)
        self._is_sent = False

    def is_answered(self) -> bool:
        """Whether anything has come back."""
        try:
            if not self._is_sent:
                self._socket.sendall(REQUEST)
                self._is_sent = True
            self._socket.recv(1)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno not in _NOT_CONNECTED
        return True

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


_NOT_CONNECTED: Final = (errno.ENOTCONN, errno.EAGAIN, errno.EPIPE)
"""Errors of a send while the connection is not made yet, because the listener's queue is full."""


class AdminHelper(Helper):
    """The admin process, and its socket, which stays bound while the process is replaced."""

    def __init__(self, sock: socket.socket, children: Children, loop: Loop, log: Log) -> None:
        super().__init__("admin", children, loop, log)
        self._socket = sock
        self._probe: Probe | None = None
        self._asked_at = loop.now
        """When the probe was sent; without one, when the last one was answered."""
        self._is_proved = False
        """Whether this process has answered yet."""
        self._is_ending = False
        """Whether the process was told to end because it does not answer."""
        self.url = f"http://{listening.printable(sock.getsockname())}"

    def record(self, number: Callable[[Child], int]) -> HelperRecord:
        """What the program that replaces us must know; children by their numbers in its list."""
        return HelperRecord(number(self.child), self._socket.fileno())

    def go_on(self, child: Child) -> None:
        """Continue with the running process, or start another one if it has died."""
        self.go_on_with(child)
        if not self._is_up:
            self._spawn()

    def begin(self) -> None:
        """Start the process."""
        paths = "/metrics, /healthz, /readyz and the admin page"
        self._log.say("info", f"admin: {paths} at {self.url}")
        self._spawn()

    def start(self) -> None:
        """Start the process, with the socket."""
        self._children.spawn_admin(self.child, self._socket)
        self._is_proved = self._is_ending = False
        self._drop_probe()

    def look(self, timeout: float) -> None:
        """To be called every second: ask the process, and end it if it has not answered for that
        long; 0: never. While the supervisor or the machine was suspended, no time passes."""
        now = self._loop.now
        if not (timeout and self._is_up):
            self._drop_probe()
            return
        if self._probe is None:
            if now >= self._asked_at + min(ASK_EVERY, timeout / PROBES):
                with suppress(OSError):
                    # Otherwise no descriptor is free: a second later there may be one.
                    self._probe = Probe(self._socket)
                    self._asked_at = now
                    self._probe.is_answered()
            return
        if self._probe.is_answered():
            self._drop_probe()
            self._is_proved = True
            return
        most = timeout if self._is_proved else max(timeout, START)
        if now >= self._asked_at + most:
            if not self._is_ending:
                self._log.say("warning", f"ending admin: it has not answered for {most:g} s")
            # A process that aborts logs its stack. If it cannot even do that, it is killed at the
            # next check.
            self._children.end(
                self.child, Termination.KILL if self._is_ending else Termination.ABORT
            )
            self._is_ending = True

    def _drop_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
        self._probe = None
        self._asked_at = self._loop.now

    def leave(self) -> None:
        """End the process, and release the address."""
        super().leave()
        self.close()

    def close(self) -> None:
        """Release the address."""
        self._drop_probe()
        self._socket.close()
