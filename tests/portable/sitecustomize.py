"""Reduce Python on Linux to the features that it has on Windows, for `make test-portable`, which
puts this folder into PYTHONPATH. So every process of a test imports this file before anything else.

Wherever wsraw takes another way on Windows because a feature is missing, it takes that way here,
too. `make test-windows` tests what needs Windows itself (its job objects, its console, Winsock).
"""

import _signal
import _socket
import os
import select
import time
from math import floor

# Without unix sockets, the link and socket pairs use loopback TCP.
for _name in ("AF_UNIX", "socketpair", "SO_REUSEPORT", "SO_PEERCRED"):
    delattr(_socket, _name)

# Only select is left; the module selectors would prefer these.
for _name in ("epoll", "poll"):
    delattr(select, _name)

# Processes cannot fork, and other processes are known only by number.
del os.fork, os.register_at_fork, os.pidfd_open, _signal.pidfd_send_signal

# Signals that Windows does not have.
_KILL = _signal.SIGKILL
_KNOWN = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")
for _name in dir(_signal):
    if _name.startswith("SIG") and not _name.startswith("SIG_") and _name not in _KNOWN:
        delattr(_signal, _name)

# These are imported only now, as they look for the deleted features.
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
from typing import Any  # noqa: E402

# Output is not gathered by sendmsg. (The method itself cannot be deleted.)


class _Missing:
    def __get__(self, instance: object, owner: object) -> None:
        raise AttributeError("not on Windows")


socket.socket.sendmsg = _Missing()  # type: ignore[assignment, method-assign]

# Any signal ends a process at once, SIGTERM too.
_kill = os.kill


def _terminate(pid: int, number: int) -> None:
    _kill(pid, _KILL if number == signal.SIGTERM else number)


def _send_signal(self: subprocess.Popen[Any], number: int) -> None:
    if self.poll() is None:
        _terminate(self.pid, number)


def _end(self: subprocess.Popen[Any]) -> None:
    self._is_ended = True  # type: ignore[attr-defined]
    _send_signal(self, signal.SIGTERM)


# Exit codes are not negative: subprocess, os.kill, a C library or the system sets them.
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

# The clock has steps of 15.6 ms (as before Python 3.13).
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
