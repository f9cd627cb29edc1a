"""I/O. The output of a spawned worker: a pipe to the supervisor that never blocks for long.

A suspended supervisor does not read, and a handler that prints would block, look hung, and be
killed. So a write waits a little, then drops data until the pipe takes some again, and then reports
how many lines were lost.

Text that is printed while a handler runs for a connection becomes lines that name the connection
(line.py).
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from wsraw.runtime.log.line import (
    MARK,
    MESSAGE_BYTES,
    NOTHING,
    LogLine,
    Subject,
    encode,
    pieces,
    printed,
)
from wsraw.runtime.printable import printable
from wsraw.workers.reporting.capture import use_stderr

LONGEST_WAIT: Final = 1.0
"""Seconds that a write waits for a full pipe."""

KEPT_WHOLE: Final = 64 * 1024
"""Bytes of a printed line that are written at once. A longer one does not name its connection."""

AT_ONCE: Final = getattr(select, "PIPE_BUF", KEPT_WHOLE)
"""Bytes that a writable pipe takes without blocking."""

_writing = threading.RLock()
"""Held during a write, so that a line that exceeds PIPE_BUF is not mixed with output of another
thread. Reentrant, because a signal handler may print."""


class OutputPipe(io.FileIO):
    """A non-blocking stream over a pipe; closing it leaves the descriptor open."""

    def __init__(self, fd: int, timeout: float, current: Callable[[], Subject] = Subject) -> None:
        """`current` returns the connection for which the calling code runs."""
        super().__init__(fd, "wb", closefd=False)
        self._current = current
        self._poll = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)
        self._timeout = timeout
        self._is_stuck = False
        self._is_in_line = False
        self._lost = 0

    def write(self, data: Any) -> int:
        """Write what the pipe takes; the rest is lost but counts as written."""
        with _writing:
            view = memoryview(data).cast("B")
            subject = NOTHING if self._is_in_line else self._current()
            if subject.connection:
                self._write(memoryview(with_subject(bytes(view), subject)))
            else:
                self._write(view)
            return len(view)

    def _write(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            seconds = 0.0 if self._is_stuck else self._timeout
            # Windows cannot poll pipes: there it blocks.
            if self._poll is not None and not self._poll.poll(seconds * 1000):
                self._is_stuck = True
                self._lost += bytes(view[at:]).count(b"\n")
                break
            if self._is_stuck:
                self._is_stuck = False
                lost, self._lost = self._lost, 0
                end = b"\n" if self._is_in_line else b""
                super().write(end + b"warning: %d lines lost: nobody read them\n" % lost)
            at += super().write(view[at : at + AT_ONCE])
            self._is_in_line = view[at - 1] != ord("\n")


def with_subject(data: bytes, subject: Subject) -> bytes:
    """Whole lines of text as lines that name their subject. Lines with the mark, empty lines and
    the beginning of a line stay as they are."""
    *lines, rest = data.split(b"\n")
    found: list[bytes] = []
    for line in lines:
        if line.isspace() or not line or MARK.encode() in line:
            found.append(line)
            continue
        level, text = printed(line.decode("utf-8", "replace").rstrip("\r"))
        for piece in pieces(printable(text), MESSAGE_BYTES):
            told = LogLine(level, piece, "", subject.connection, subject.peer)
            found.append(encode(told).encode())
    return b"\n".join((*found, rest))


_replaced: Final[list[object]] = []
"""The original streams, kept alive because their destruction would close the descriptors."""


def never_block(timeout: float = LONGEST_WAIT, current: Callable[[], Subject] = Subject) -> None:
    """Let print and logging drop lines instead of blocking, where pipes can be polled (not on
    Windows), and let printed lines name their subject."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew_lock)
    before = sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            _replaced.append(stream)
            stream.flush()
            raw = io.BufferedWriter(OutputPipe(stream.fileno(), timeout, current), KEPT_WHOLE)
            new = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
    use_stderr(before)


def _renew_lock() -> None:
    """Renew the lock in a forked child, where the thread that may hold it does not exist."""
    global _writing
    _writing = threading.RLock()
