"""I/O. Report the state of the run to the service manager, as in sd_notify(3): one datagram per
message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Final

from wsraw.runtime.log.line import Level

EXTENSION: Final = 15.0
"""Seconds that a start or a stop may still take, from each request on; requested again each second.
The run has deadlines of its own (start_timeout, stop_timeout), and `wsraw drain` has none."""

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceState(Enum):
    """States of the run, in the words of the protocol."""

    STARTING = ""
    READY = "READY=1"
    RELOADING = "RELOADING=1"
    STOPPING = "STOPPING=1"


class Notifier:
    """Sends to the socket that the variables name; these are removed from `environ`, because
    programs of handlers must not report for the run. Does nothing if there is none."""

    def __init__(
        self, environ: MutableMapping[str, str], say: Callable[[Level, str], object]
    ) -> None:
        """`say` is called with the level and the text of a line for the log."""
        path, usec, pid = (environ.pop(name, "") for name in VARIABLES)
        # A leading @ means an abstract socket.
        self.variables: dict[str, str] = {}
        """The variables for the program that replaces us."""
        if path:
            self.variables["NOTIFY_SOCKET"] = path
        if usec:
            self.variables |= {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        if not path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            self._address = ""
        is_watched = self._address and usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_interval = int(usec) / 1e6 / 2 if is_watched else 0.0
        """Seconds between two calls of `keep_alive`; 0: the service manager does not expect any."""
        self._say = say
        self._has_complained = False
        self._state = ServiceState.STARTING
        self._status = ""

    def enter(self, state: ServiceState) -> None:
        """The run has entered that state. A message that cannot be sent is sent by the next
        call."""
        if state is self._state:
            return
        lines = [state.value]
        if state is ServiceState.RELOADING:
            # With Type=notify-reload, the time identifies the reload.
            lines.append(f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if self._send(*lines):
            self._state = state

    def describe(self, text: str) -> None:
        """Show this line in `systemctl status`, and give a start or a stop more time."""
        lines = []
        if text != self._status:
            lines.append(f"STATUS={text}")
        if self._state in (ServiceState.STARTING, ServiceState.STOPPING):
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}")
        if lines and self._send(*lines):
            self._status = text

    def keep_alive(self) -> None:
        """Report that the supervisor's loop runs."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        """Send a message. False if it must be sent again later."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # The service manager may be busy; the loop must not wait for it.
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not isinstance(error, BlockingIOError) and not self._has_complained:
                self._has_complained = True
                text = f"cannot report to the service manager: {error.strerror}"
                self._say("warning", f"{text} (NOTIFY_SOCKET)")
            return False
        self._has_complained = False
        return True
