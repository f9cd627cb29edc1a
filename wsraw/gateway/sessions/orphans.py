"""I/O. Processes that the supervisor has started: the gateway kills them if they outlive it.

Once the supervisor is dead nobody reports exits, and the system may give the number of a dead
process to another one. On Linux a descriptor means one process for ever (pidfd_open(2)). On Windows
a job object ends them all anyway. On other systems the number must do.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


class Orphans:
    """Processes that the supervisor has started, by its numbers for them."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._pids)

    def add(self, n: int, pid: int) -> None:
        """A process that the supervisor has started, and not waited for."""
        if self._pids.get(n) == pid:
            return
        self.discard(n)
        self._pids[n] = pid
        if sys.platform == "linux" and hasattr(os, "pidfd_open"):
            try:
                self._descriptors[n] = os.pidfd_open(pid)
            except ProcessLookupError:
                # Its exit is on the way.
                del self._pids[n]
            except OSError:
                # Out of descriptors, or an old kernel.
                pass

    def told(self) -> list[tuple[int, int]]:
        """Number and pid of each."""
        return list(self._pids.items())

    def discard(self, n: int) -> None:
        """Forget a process whose exit was reported."""
        self._pids.pop(n, None)
        descriptor = self._descriptors.pop(n, None)
        if descriptor is not None:
            os.close(descriptor)

    def kill_all(self) -> None:
        """End those that are left, and forget them."""
        for n, pid in list(self._pids.items()):
            with suppress(OSError):
                if sys.platform == "linux" and n in self._descriptors:
                    signal.pidfd_send_signal(self._descriptors[n], signal.SIGKILL)
                else:
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.discard(n)
