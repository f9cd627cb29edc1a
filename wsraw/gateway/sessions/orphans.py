"""I/O. Processes that the supervisor has started: the gateway kills them if they outlive it.

Once the supervisor is dead, exits are not reported any more, and the system may give the pid of a
dead process to another one. On Linux a pidfd always means the same process (pidfd_open(2)). On
Windows a job object ends them all anyway. On other systems the pid must be enough.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


class Orphans:
    """Processes that the supervisor has started, by the supervisor's numbers."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._pids)

    def add(self, n: int, pid: int) -> None:
        """Add a process that the supervisor has started and not waited for."""
        if self._pids.get(n) == pid:
            return
        self.discard(n)
        self._pids[n] = pid
        if sys.platform == "linux" and hasattr(os, "pidfd_open"):
            try:
                self._descriptors[n] = os.pidfd_open(pid)
            except ProcessLookupError:
                # Its exit will be reported.
                del self._pids[n]
            except OSError:
                # There are no descriptors left, or the kernel is too old.
                pass

    def told(self) -> list[tuple[int, int]]:
        """Number and pid of each process."""
        return list(self._pids.items())

    def discard(self, n: int) -> None:
        """Forget a process whose exit was reported."""
        self._pids.pop(n, None)
        descriptor = self._descriptors.pop(n, None)
        if descriptor is not None:
            os.close(descriptor)

    def kill_all(self) -> None:
        """Kill the remaining processes, and forget them."""
        for n, pid in list(self._pids.items()):
            with suppress(OSError):
                if sys.platform == "linux" and n in self._descriptors:
                    signal.pidfd_send_signal(self._descriptors[n], signal.SIGKILL)
                else:
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.discard(n)
