"""Python on Linux with no more than Python has on Windows: for `make test-portable`, which puts
this folder into PYTHONPATH. So every process of a test imports this file, before anything else.

What wsraw does on Windows for want of something, it does for the same reason here. What needs
Windows itself (its job objects, its console, Winsock) is left to `make test-windows`.
"""

import _signal
import _socket
import os
import select
import time
from math import floor

# No unix sockets: the link goes over loopback TCP, and a socket pair, too.
for _name in ("AF_UNIX", "socketpair", "SO_REUSEPORT", "SO_PEERCRED"):
    delattr(_socket, _name)

# select alone; with these, the module selectors would have better.
for _name in ("epoll", "poll"):
    delattr(select, _name)

# Processes do not fork, and of another one a number is all that is known.
del os.fork, os.register_at_fork, os.pidfd_open, _signal.pidfd_send_signal

# No signal that Windows has not.
_KILL = _signal.SIGKILL
_KNOWN = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")
for _name in dir(_signal):
    if _name.startswith("SIG") and not _name.startswith("SIG_") and _name not in _KNOWN:
        delattr(_signal, _name)

# Only now, as they look for what was deleted.
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
from typing import Any  # noqa: E402

# Output is not gathered. (The method itself cannot be deleted.)


class _Missing:
    def __get__(self, instance: object, owner: object) -> None:
        raise AttributeError("not on Windows")


socket.socket.sendmsg = _Missing()  # type: ignore[assignment, method-assign]

# A process is ended at once, without a word, by SIGTERM, too.
_kill = os.kill


def _terminate(pid: int, number: int) -> None:
    _kill(pid, _KILL if number == signal.SIGTERM else number)


def _send_signal(self: subprocess.Popen[Any], number: int) -> None:
    if self.poll() is None:
        _terminate(self.pid, number)


def _end(self: subprocess.Popen[Any]) -> None:
    self._is_ended = True  # type: ignore[attr-defined]
    _send_signal(self, signal.SIGTERM)


# Nor is its exit code negative: it is what subprocess, os.kill, a C library or the system gives.
_CODES = {
    -_KILL: signal.SIGTERM,
    -signal.SIGABRT: 3,
    -signal.SIGSEGV: 0xC0000005,
    -signal.SIGINT: 0xC000013A,
}
_handle_exitstatus = subprocess.Popen._handle_exitstatus  # type: ignore[attr-defined]


def _exit_code(self: subprocess.Popen[Any], *status: Any) -> None:
    _handle_exitstatus(self, *status)
    if self.returncode == -_KILL and hasattr(self, "_is_ended"):
        self.returncode = 1
    self.returncode = _CODES.get(self.returncode, self.returncode)


os.kill = _terminate
subprocess.Popen._handle_exitstatus = _exit_code  # type: ignore[attr-defined]
subprocess.Popen.send_signal = _send_signal  # type: ignore[method-assign]
subprocess.Popen.kill = subprocess.Popen.terminate = _end  # type: ignore[method-assign]

# A clock of steps of 15.6 ms (before Python 3.13).
_STEPS = 64
_monotonic = time.monotonic
_clock_info = time.get_clock_info


def _coarse() -> float:
    return floor(_monotonic() * _STEPS) / _STEPS


def _coarse_info(name: str) -> Any:
    info = _clock_info(name)  # type: ignore[arg-type]
    if name == "monotonic":
        info.resolution = 1 / _STEPS
    return info


time.monotonic = _coarse
time.get_clock_info = _coarse_info
