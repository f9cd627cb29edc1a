"""I/O. The descriptors that connections may use: numbers below the reserve."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Final

from wsraw.gateway.admission.per_address import MOST_REFUSED
from wsraw.runtime.descriptors import ARE_NUMBERED, LOOK_UP, for_look_ups, reserve

LEAST_RESERVE: Final = 32
"""Descriptors that are never given to clients: those of the link, of files, and of connections that
handlers open."""

TOO_MANY: Final = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Descriptors:
    """The descriptors for connections, accepted and opened."""

    def __init__(self, limit: int = 0, workers: int = 0) -> None:
        """A limit of 0 means no limit."""
        self.limit = limit
        self._workers = workers
        self._top = sys.maxsize
        self.expect(workers)

    def expect(self, workers: int) -> None:
        """Reserve descriptors for this many workers, and at least for those expected at the
        start."""
        if self.limit and ARE_NUMBERED:
            self._top = self.limit - reserve(self.limit, max(workers, self._workers))

    @property
    def look_ups(self) -> int:
        """The number of names that may be looked up at the same time."""
        return for_look_ups(self.limit) // LOOK_UP if self.limit else sys.maxsize

    def is_beyond(self, sock: socket.socket) -> bool:
        """Whether this socket's descriptor is in the reserve."""
        return sock.fileno() >= self._top

    def is_last(self, number: int) -> bool:
        """Whether the descriptor after this one is in the reserve."""
        return number >= self._top - 1

    def has_room(self) -> bool:
        """Whether there is a descriptor for one more connection. Never raises."""
        try:
            with socket.socket() as probe:
                return not self.is_beyond(probe)
        except OSError:
            return False

    def most_connections(self) -> int:
        """How many connections fit beside all open descriptors and clients that wait for a refusal,
        if a tenth is left for connections that handlers open; 0 without a limit."""
        if not self.limit:
            return 0
        most = self.limit - max(LEAST_RESERVE, self.limit // 10)
        if ARE_NUMBERED:
            try:
                with socket.socket() as probe:
                    taken = probe.fileno()
            except OSError:
                return 1
            most = min(most, self._top - taken - min(MOST_REFUSED, self.limit // 16))
        return max(1, most)
