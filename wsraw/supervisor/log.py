"""I/O. The log: one line of stderr for each thing that is worth knowing.

Whoever reads our stderr may stop (Ctrl-S, a pager, a stuck collector), and then a write waits for
as long as that lasts. So one thread writes, and nobody waits for it: neither the loop nor, through
their pipes, the gateway and the workers. What it cannot keep up with is dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")

LINES_KEPT: Final = 10_000
"""Lines that wait for the reader of our stderr; what comes after them is lost, and said to be."""


class Log:
    """`HH:MM:SS level name: text`, from `level` on. Any thread may write."""

    def __init__(self, stream: TextIO, level: str) -> None:
        self._stream = stream
        self._least = LEVELS.index(level)
        self._lines: deque[str] = deque()
        self._lost = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        self._writer.start()

    def say(self, level: str, text: str) -> None:
        """A line of the supervisor's own."""
        if LEVELS.index(level) >= self._least:
            self._write(level, "wsraw", text)

    def relay(self, name: str, line: str) -> None:
        """A line that a child wrote; it may begin with its level and a colon.

        Always shown: the gateway has looked at log_level itself, and what handlers print is not
        ours to hide.
        """
        level, colon, text = line.partition(": ")
        if colon and level in LEVELS:
            self._write(level, name, text)
        else:
            self._write("info", name, line)

    def close(self, seconds: float = 1.0) -> None:
        """Give what was said so long to be written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(seconds)

    def _write(self, level: str, name: str, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {level} {name}: {text}\n"
        with self._changed:
            if len(self._lines) >= LINES_KEPT:
                self._lost += 1
                return
            self._lines.append(line)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                text = "".join(self._lines)
                self._lines.clear()
                if self._lost:
                    text += f"{time.strftime('%H:%M:%S')} warning wsraw: {self._lost} lines lost\n"
                    self._lost = 0
                over = self._closing and not text
            if over:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads it any more (a closed terminal); that must not end the run.
                pass
