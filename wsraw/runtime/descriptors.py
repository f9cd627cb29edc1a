"""I/O. How many descriptors a process may have, and which of the gateway's are not for connections.

The system gives the lowest number that is free. So as long as no connection has a number from
`limit - reserve` on, those are there for whatever else the gateway opens: above all for the links
of workers, as libzmq ends the process where it gets no descriptor for one.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

log = logging.getLogger("wsraw.files")

OPEN_MAX: Final = 10_240
"""What macOS takes at most, where it says that there is no limit."""

OF_SELECT: Final = 512
"""Sockets that select can watch on Windows, as CPython builds it."""

WITHOUT_LIMIT: Final = 1 << 20

ARE_NUMBERED: Final = sys.platform != "win32"
"""Windows has handles; only what our own loop watches counts there, and links are not among it."""

EACH_WORKER: Final = 4
"""A link and a pidfd, and as much for the one that it replaces."""

LOOK_UP: Final = 3
"""A file, and a socket for each kind of address."""

LEAST: Final = 24
"""Descriptors without which no gateway can serve anybody."""


def raise_limit() -> int:
    """Take all that we may have; returns how many that is."""
    try:
        import resource
    except ImportError:
        return OF_SELECT if sys.platform == "win32" else WITHOUT_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, OPEN_MAX):
        if soft == limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError) as error:
            log.warning("open files cannot be limited to %d: %s", limit, error)
        else:
            soft = limit
            break
    return WITHOUT_LIMIT if soft == resource.RLIM_INFINITY else soft


def soft_limit() -> Any:
    """What we were given, before it is raised: for `give_back`."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def give_back(pid: int, limit: Any) -> None:
    """A worker gets the limit that we were given: programs that use select, or close whatever they
    may have open, are not made for a million. Where the system can do that."""
    try:
        import resource

        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    except (ImportError, AttributeError, OSError, ValueError):
        # It is gone, or has it as we have.
        pass


def for_look_ups(limit: int) -> int:
    """Of that many descriptors, those for looking names up: each takes LOOK_UP of them."""
    return min(192, limit // 8)


def for_growth(limit: int) -> int:
    """Those for workers that come on top of those at the start, and for files."""
    return max(limit // 20, min(32, limit // 8))


def reserve(limit: int, workers: int) -> int:
    """Those that are no connection's."""
    if not ARE_NUMBERED:
        return 0
    return for_look_ups(limit) + for_growth(limit) + EACH_WORKER * workers


def most_workers(limit: int, workers: int) -> int:
    """How many workers that reserve is enough for, where it was made for so many."""
    return workers + for_growth(limit) // EACH_WORKER if ARE_NUMBERED else sys.maxsize
