"""I/O. The limit on descriptors, and the reserve that the gateway keeps for other uses than
connections.

The system assigns the lowest free number. So if no connection has a number of `limit - reserve` or
above, these numbers are free for everything else, above all for links of workers. For links to
other machines, libzmq even aborts the process if it gets no descriptor.
"""

from __future__ import annotations

import logging
import selectors
import sys
from typing import Any, Final

from wsraw.runtime import selector

log = logging.getLogger("wsraw.files")

OPEN_MAX: Final = 10_240
"""The most that macOS accepts, although it reports no limit."""

ON_WINDOWS: Final = 8192
"""Sockets that a gateway on Windows is meant for by default. The system has no such limit, but its
select looks at each socket in every turn."""

FD_SETSIZE: Final = 1024
"""Descriptors that select can watch on other systems are below this number; a higher one raises an
exception in the middle of a turn. Needed where there is no epoll, kqueue or poll, and in tests."""

WITHOUT_LIMIT: Final = 1 << 20

ARE_NUMBERED: Final = sys.platform != "win32"
"""Windows has handles, in no order and without a limit."""

EACH_WORKER: Final = 4
"""Descriptors of a worker: a link and a pidfd, and the same for the worker that it replaces."""

LOOK_UP: Final = 3
"""Descriptors of a look-up: a file, and a socket for each kind of address."""

LEAST: Final = 24
"""Descriptors without which a gateway cannot serve any client."""


def raise_limit() -> int:
    """Raise the limit as far as allowed, and as the selector can watch; returns the new limit."""
    try:
        import resource
    except ImportError:
        return ON_WINDOWS if sys.platform == "win32" else WITHOUT_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = [hard, OPEN_MAX]
    if issubclass(selector.Selector, selectors.SelectSelector):
        possible = [FD_SETSIZE] if not 0 <= hard < FD_SETSIZE else [hard]
    for limit in possible:
        if soft == limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError) as error:
            log.warning("the limit on open files cannot be set to %d: %s", limit, error)
        else:
            soft = limit
            break
    return WITHOUT_LIMIT if soft == resource.RLIM_INFINITY else soft


def soft_limit() -> tuple[int, int] | None:
    """The limit before it is raised, for `give_back`; None where there is none."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def give_back(pid: int, limit: Any) -> None:
    """Set a worker's limit to our original one, if the system can: programs that use select, or
    close all possible descriptors, cannot handle a million."""
    try:
        import resource

        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    except (ImportError, AttributeError, OSError, ValueError):
        # The worker has ended, or keeps our limit.
        pass


def for_look_ups(limit: int) -> int:
    """Descriptors for resolving names; each resolution takes LOOK_UP."""
    return min(192, limit // 8)


def for_growth(limit: int) -> int:
    """Descriptors for workers beyond those at the start, and for files."""
    return max(limit // 20, min(32, limit // 8))


def reserve(limit: int, workers: int) -> int:
    """Descriptors that connections do not get."""
    if not ARE_NUMBERED:
        return 0
    return for_look_ups(limit) + for_growth(limit) + EACH_WORKER * workers


def most_workers(limit: int, workers: int) -> int:
    """How many workers a reserve for that number is enough for."""
    return workers + for_growth(limit) // EACH_WORKER if ARE_NUMBERED else sys.maxsize
