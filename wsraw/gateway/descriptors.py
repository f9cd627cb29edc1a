"""I/O. How many descriptors the gateway may have: each connection is one."""

from __future__ import annotations

import logging
import sys
from typing import Final

log = logging.getLogger("wsraw.gateway")

OPEN_MAX: Final = 10_240
"""What macOS takes at most, where it says that there is no limit."""

OF_SELECT: Final = 512
"""Sockets that select can watch on Windows, as CPython builds it."""

WITHOUT_LIMIT: Final = 1 << 20


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
