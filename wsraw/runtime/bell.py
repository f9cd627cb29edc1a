"""I/O. The bell that wakes a poll."""

from __future__ import annotations

import socket


class Bell:
    """Wakes a poll from a thread or a signal handler; a socket pair, also for Windows."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if self._writer.family in (socket.AF_INET, socket.AF_INET6):
            # Windows has no other pairs. A ring soon after another must not wait until TCP has
            # acknowledged the first one, which happens late without data in the other direction.
            self._writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def reader(self) -> int:
        """The descriptor to poll."""
        return self._reader.fileno()

    @property
    def writer(self) -> int:
        """The descriptor for ``signal.set_wakeup_fd``."""
        return self._writer.fileno()

    def ring(self) -> None:
        """Wake the poll. Thread-safe."""
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # Full: it rings already. Closed: nothing polls.

    def quiet(self) -> None:
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
