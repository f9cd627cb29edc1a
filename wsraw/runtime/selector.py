"""I/O. The selector of this platform, and what wsraw's loop needs of it beyond the library's."""

from __future__ import annotations

import math
import select
import selectors
import sys
from typing import Any, Final

MOST_READY: Final = 256
"""Descriptors handled in a turn. epoll reports those that are left in the next one, and first."""

# As globals: they are asked for twice for each ready descriptor.
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

if sys.platform == "linux":
    _READABLE: Final = select.EPOLLIN

    class Selector(selectors.EpollSelector):
        """Asks for MOST_READY at most. The library's asks for as many as there are, and makes room
        for all of them each time: with 10,000 connections that is 120 KB a turn."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As the library's; but there is always a timeout."""
            assert timeout is not None
            keys: Any = self._fd_to_key  # type: ignore[attr-defined]
            epoll: select.epoll = self._selector  # type: ignore[attr-defined]
            ready = []
            # epoll counts in milliseconds: round up, so as not to come too early again and again.
            for fd, event in epoll.poll(math.ceil(timeout * 1e3) * 1e-3, MOST_READY):
                key = keys.get(fd)
                if key is None:
                    continue
                if event == _READABLE:
                    # Nearly always.
                    ready.append((key, key.events & READ))
                else:
                    # What is neither, an error or a hang-up, is for whoever waits for anything.
                    mask = READ if event & ~select.EPOLLOUT else 0
                    if event & ~select.EPOLLIN:
                        mask |= WRITE
                    ready.append((key, mask & key.events))
            return ready

else:
    Selector = selectors.DefaultSelector
