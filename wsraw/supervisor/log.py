"""I/O. The log: lines on stderr.

The reader of our stderr may stop (Ctrl-S, a pager, a stuck collector), and then writes block. So a
thread writes, and neither the loop nor, through their pipes, gateway and workers wait for it. Lines
beyond a bound are dropped and counted.

Text from outside cannot add lines or control the terminal.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import deque
from typing import Final, TextIO

from wsraw.runtime.printable import LogLine, printable

LEVELS: Final = ("debug", "info", "warning", "error")

BYTES_KEPT: Final = 8 * 1024 * 1024
"""Bytes of lines that wait to be written; later lines are dropped and counted."""

OWN_BYTES: Final = 256 * 1024
"""Bytes beyond that for our own lines, so that output of children does not displace them."""

TRY_AGAIN: Final = 1.0
"""Seconds until a failed stderr is tried again, unless a new line comes first."""

WRITTEN_AT_ONCE: Final = 128 * 1024
"""Bytes of one write."""


class LogHandler(logging.Handler):
    """Lines of the modules that all processes share (runtime/), which log as children do."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.setFormatter(LogLine())
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log each line of it."""
        level = record.levelname.lower()
        for line in self.format(record).splitlines():
            self._log.say(level if level in LEVELS else LEVELS[-1], line)


class Log:
    """Writes `HH:MM:SS level name: text` from `level` on. Thread-safe."""

    def __init__(self, stream: TextIO, level: str) -> None:
        self._stream = stream
        self._least = LEVELS.index(level)
        self._lines: deque[str] = deque()
        self._size = 0
        """Bytes of the lines in memory, up to four for each character."""
        self._lost = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        self._writer.start()

    def say(self, level: str, text: str) -> None:
        """Log a line of the supervisor."""
        if LEVELS.index(level) >= self._least:
            self._write(level, "wsraw", text, BYTES_KEPT + OWN_BYTES)

    def relay(self, name: str, line: str) -> None:
        """Log a line of a child, which may begin with its level and a colon.

        It is always shown: the gateway applies log_level itself, and output of handlers is not
        filtered.
        """
        level, colon, text = line.partition(": ")
        if colon and level in LEVELS:
            self._write(level, name, text)
        else:
            self._write("info", name, line)

    def close(self, seconds: float = 1.0) -> None:
        """Wait up to `seconds` until all lines are written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(seconds)

    def _write(self, level: str, name: str, text: str, most: int = BYTES_KEPT) -> None:
        line = f"{time.strftime('%H:%M:%S')} {level} {name}: {printable(text)}\n"
        size = sys.getsizeof(line)
        with self._changed:
            if self._size + size > most:
                self._lost += 1
                return
            self._lines.append(line)
            self._size += size
            self._changed.notify()

    def _take(self) -> tuple[str, int]:
        """The next text to write, with a note on dropped lines at the end; and how many lines it
        covers."""
        parts: list[str] = []
        size = 0
        while self._lines and size < WRITTEN_AT_ONCE:
            line = self._lines.popleft()
            size += sys.getsizeof(line)
            parts.append(line)
        self._size -= size
        count = len(parts)
        if self._lost and not self._lines:
            what = "line" if self._lost == 1 else "lines"
            parts.append(f"{time.strftime('%H:%M:%S')} warning wsraw: {self._lost} {what} lost\n")
            count += self._lost
            self._lost = 0
        return "".join(parts), count

    def _work(self) -> None:
        if hasattr(signal, "SIGTTOU"):
            # A terminal with `stty tostop` sends these to a background job that writes. Blocked
            # here, the write succeeds; elsewhere they change the number of workers.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU, signal.SIGTTIN))
        while True:
            with self._changed:
                while not self._lines and not self._lost and not self._closing:
                    self._changed.wait()
                text, count = self._take()
                over = self._closing and not text
            if over:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                # A closed terminal or a full disk must not end the run.
                with self._changed:
                    if self._closing:
                        return
                    self._lost += count
                    self._changed.wait(TRY_AGAIN)
