"""I/O. The selector of this platform, made faster for epoll."""

from __future__ import annotations

import math
import select
import selectors
import sys
from typing import Any, Final

MOST_READY: Final = 256
"""Most descriptors per turn. epoll reports the others first in the next turn."""

# Globals, as they are used twice for each ready descriptor.
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

if sys.platform == "linux":
    _READABLE: Final = select.EPOLLIN

    class Selector(selectors.EpollSelector):
        """Asks for at most MOST_READY events. The library's selector allocates room for all
        descriptors each time: 120 KB a turn with 10,000 connections."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As in the library, but with a timeout always."""
            assert timeout is not None
            keys: Any = self._fd_to_key  # type: ignore[attr-defined]
            epoll: select.epoll = self._selector  # type: ignore[attr-defined]
            ready = []
            # epoll counts in milliseconds: round up, so as not to wake too early repeatedly.
            for fd, event in epoll.poll(math.ceil(timeout * 1e3) * 1e-3, MOST_READY):
                key = keys.get(fd)
                if key is None:
                    continue
                if event == _READABLE:
                    # The usual case.
                    ready.append((key, key.events & READ))
                else:
                    # An error or a hang-up is both.
                    mask = READ if event & ~select.EPOLLOUT else 0
                    if event & ~select.EPOLLIN:
                        mask |= WRITE
                    ready.append((key, mask & key.events))
            return ready

else:
    Selector = selectors.DefaultSelector
