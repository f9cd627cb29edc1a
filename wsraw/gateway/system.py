"""I/O. The process's use of its machine: memory, garbage collections, CPU time of turns.

Python's garbage collector collects the young generations as usual, which takes almost no time. The
oldest generation contains all open connections and the data that waits for them. Collecting it
takes 15 µs a connection, and more for the data; meanwhile no client is served. It finds almost
nothing: connections leave no reference cycles that we know of. Python would collect it whenever it
has grown by a quarter, which clients can cause in the middle of a flood. So it is done here, in a
quiet moment, after a number of new connections.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

IF_NOT_KNOWN: Final = 1 << 30
"""Bytes to assume where the platform does not report its memory."""

OF_CONTAINERS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if sys.platform == "linux"
    else ()
)
"""The files with a container's limit, for both versions of cgroups. Without a limit, the file says
so, or holds a number larger than any memory."""

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""A parameter of mallopt(3)."""

MAPPED_FROM: Final = 4 * 1024 * 1024
"""Bytes of an allocation that gets pages of its own, which go back to the system when it is
freed."""

KEPT_FREE: Final = 16 * 1024 * 1024
"""Bytes of freed memory at the end of the heap above which it is given back."""

NEVER: Final = 1 << 30
"""Collections of the middle generation before Python collects the oldest one by itself."""

LEAST: Final = 10_000
"""New connections before the next collection, or as many as are open, if that is more."""

AT_LAST: Final = 10
"""Factor: after this many times as many connections, a collection runs even if it is not quiet."""

FEW: Final = 1000
"""Open connections with which a collection takes 10 ms. With 10,000 it takes 90 ms, in which
clients wait, so it is delayed as if it were never quiet: hardly any gateway needs it."""

LONG: Final = 0.02
"""Seconds of CPU time: clients notice a turn of this length."""

ASKED_BY: Final = "MEASURE_WSRAW_TURNS"
"""The environment variable that turns measuring on; `wsraw status --json` shows the figures.
(Variables that begin with WSRAW_ are not passed on to children.)"""


def quarter(limits: Iterable[str | Path] = OF_CONTAINERS) -> int:
    """The default of `memory_limit` in bytes: a quarter of the machine's memory, or of a
    container's limit."""
    known = _of_this_machine()
    for path in limits:
        try:
            known.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            # The file does not exist, or says `max`.
            pass
    return min(known, default=4 * IF_NOT_KNOWN) // 4


def _of_this_machine() -> list[int]:
    """The system's memory in bytes; of several figures, the smallest."""
    if sys.platform == "win32":
        import ctypes

        # MEMORYSTATUSEX: its own size and the load in the first of eight, then the memory, the
        # pages of files, and the addresses: how much there is of each, and how much is free. (What
        # a job may have shows in the pages, and what 32 bits can have, in the addresses.)
        status = (ctypes.c_ulonglong * 8)(64)
        if not ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(status):
            return []
        return [status[1], status[3], status[5]]
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return []


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next large messages. Otherwise it gives that memory back
    to the system, and new pages take a third of the gateway's CPU time for a message of 1 MiB.
    Settings in the environment (MALLOC_…, mallopt(3)) and other allocators are left alone."""
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    if is_set or not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


class Collector:
    """Decides when to collect garbage; for a process of its own, as its settings are global."""

    def __init__(self) -> None:
        self._collected_at = 0
        self._has_adopted = False
        """What was taken over is not collected until there is time."""

    def adopted(self) -> None:
        """Much was taken over from another gateway, and clients wait: do not collect it for now."""
        gc.freeze()
        self._has_adopted = True

    def begin(self) -> None:
        """Exclude everything loaded so far from collections: each of them would cost 30 ms more."""
        gc.collect()
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def collect_if_due(self, total: int, still_open: int, quiet: bool) -> bool:
        """To be called once a second with the number of connections since the start, how many are
        open, and whether no client waits. Returns whether it has collected."""
        new = total - self._collected_at
        least = max(LEAST, still_open)
        if new <= (least if quiet and still_open <= FEW else AT_LAST * least):
            return False
        self._collected_at = total
        if self._has_adopted:
            self._has_adopted = False
            gc.unfreeze()
        gc.collect()
        return True


class TurnTimes:
    """The CPU time of the loop's turns, for benchmarks. On a busy machine, wall-clock time says
    little about the gateway, and waiting for sockets costs no CPU time."""

    def __init__(self) -> None:
        self._last = time.thread_time()
        self._turns = 0
        self._long_turns = 0
        self._longest = 0.0

    def end_turn(self) -> None:
        last, self._last = self._last, time.thread_time()
        took = self._last - last
        self._turns += 1
        self._long_turns += took > LONG
        self._longest = max(self._longest, took)

    def figures(self) -> dict[str, float]:
        """Figures since the start; times in seconds."""
        return {"turns": self._turns, "long": self._long_turns, "longest": self._longest}
