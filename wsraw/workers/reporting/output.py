"""I/O. The output of a spawned worker: a pipe to the supervisor that never blocks for long.

A suspended supervisor does not read, and a handler that prints would block, look hung, and be
killed. So a write waits a little, then drops data until the pipe takes some again, and then reports
how many lines were lost.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import Any, Final

from wsraw.workers.reporting.capture import use_stderr

LONGEST_WAIT: Final = 1.0
"""Seconds that a write waits for a full pipe."""


_writing = threading.RLock()
"""Held for the length of a write, so that a line which exceeds PIPE_BUF is not mixed with what
another thread prints. Reentrant, as a signal handler may print."""


class Pipe(io.FileIO):
    """A non-blocking stream over a pipe; closing it leaves the descriptor open."""

    def __init__(self, fd: int, timeout: float) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._timeout = timeout
        self._is_stuck = False
        self._is_in_line = False
        self._lost = 0

    def write(self, data: Any) -> int:
        """Write what the pipe takes; the rest is lost but counts as written."""
        with _writing:
            return self._write(memoryview(data).cast("B"))

    def _write(self, view: memoryview) -> int:
        at = 0
        while at < len(view):
            if not self._poll.poll(0 if self._is_stuck else self._timeout * 1000):
                self._is_stuck = True
                self._lost += bytes(view[at:]).count(b"\n")
                break
            if self._is_stuck:
                self._is_stuck = False
                lost, self._lost = self._lost, 0
                end = b"\n" if self._is_in_line else b""
                super().write(end + b"warning: %d lines lost: nobody read them\n" % lost)
            # A pipe that is writable takes PIPE_BUF bytes without blocking.
            at += super().write(view[at : at + select.PIPE_BUF])
            self._is_in_line = view[at - 1] != ord("\n")
        return len(view)


_replaced: Final[list[object]] = []
"""The original streams, kept alive because their end would close the descriptors."""


def never_block(timeout: float = LONGEST_WAIT) -> None:
    """Make print and logging drop lines rather than block. No effect where pipes cannot be polled
    (Windows)."""
    if not hasattr(select, "poll"):
        return
    os.register_at_fork(after_in_child=_renew_lock)
    before = sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            _replaced.append(stream)
            stream.flush()
            raw = io.BufferedWriter(Pipe(stream.fileno(), timeout))
            new = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
    use_stderr(before)


def _renew_lock() -> None:
    """In a forked child, where the thread that may hold it does not exist."""
    global _writing
    _writing = threading.RLock()
