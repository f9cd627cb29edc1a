"""I/O. The output of a worker that a supervisor has started: a pipe that it reads.

A supervisor that stands still (stopped, or starved of memory) does not read, and a handler that
prints would wait for it, look hung, and be killed. So a write waits a little, then drops what the
pipe does not take, until the pipe takes something again; how much was lost is said then. (The
supervisor itself never waits for who reads its log: see supervisor/log.py.)
"""

from __future__ import annotations

import io
import logging
import select
import sys
from typing import Any, Final

PATIENCE: Final = 1.0
"""Seconds that a write waits for a pipe that is full."""


class Pipe(io.FileIO):
    """A pipe of ours; the descriptor stays open when this is closed."""

    def __init__(self, fd: int, patience: float) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._patience = patience
        self._is_stuck = False
        self._is_in_line = False
        self._lost = 0

    def write(self, data: Any) -> int:
        """Write what the pipe takes; the rest counts as written, and is lost."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            if not self._poll.poll(0 if self._is_stuck else self._patience * 1000):
                self._is_stuck = True
                self._lost += bytes(view[at:]).count(b"\n")
                break
            if self._is_stuck:
                self._is_stuck = False
                lost, self._lost = self._lost, 0
                end = b"\n" if self._is_in_line else b""
                super().write(end + b"warning: %d lines lost: nobody read them\n" % lost)
            # So much fits into a pipe that says it has room, and never blocks.
            at += super().write(view[at : at + select.PIPE_BUF])
            self._is_in_line = view[at - 1] != ord("\n")
        return len(view)


_replaced: Final[list[object]] = []
"""The streams that were there before; they would close the descriptors with them."""


def wait_for_nobody(patience: float = PATIENCE) -> None:
    """Let print and logging lose lines rather than wait for who reads them. Where pipes cannot be
    polled (Windows) it stays as it is."""
    if not hasattr(select, "poll"):
        return
    before = sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            _replaced.append(stream)
            stream.flush()
            new = _open(stream, patience)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
    # Of its own: a handler may close sys.stderr.
    for handler in logging.getLogger("wsraw").handlers:
        if (
            isinstance(handler, logging.StreamHandler)
            and handler.stream is before
            and isinstance(before, io.TextIOWrapper)
        ):
            handler.setStream(_open(before, patience))


def _open(stream: io.TextIOWrapper, patience: float) -> io.TextIOWrapper:
    raw = Pipe(stream.fileno(), patience)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )
