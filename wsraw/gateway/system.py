"""I/O. How much memory there is for us."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

IF_NOT_KNOWN: Final = 1 << 30
"""Bytes, where the platform does not say how much there is."""

OF_CONTAINERS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container finds its limit, with the two versions of cgroups. Without one it stands there
that there is none, or a number larger than any memory."""


def quarter(limits: Iterable[str | Path] = OF_CONTAINERS) -> int:
    """The default of `memory_limit`, in bytes: a quarter of the machine's memory, or of what a
    container may have of it."""
    try:
        known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        known = []
    for path in limits:
        try:
            known.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            # It is not there, or says `max`.
            pass
    return min(known, default=4 * IF_NOT_KNOWN) // 4
