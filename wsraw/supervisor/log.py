"""I/O. The log: one line of stderr for each thing that is worth knowing.

Whoever reads our stderr may stop (Ctrl-S, a pager, a stuck collector), and then a write waits for
as long as that lasts. So one thread writes, and nobody waits for it: neither the loop nor, through
their pipes, the gateway and the workers. What it cannot keep up with is dropped and counted.

Others have a say in what is in a line; none can write a second one, or to the terminal's controls.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from typing import Final, TextIO

from wsraw.runtime.printable import printable

LEVELS: Final = ("debug", "info", "warning", "error")

BYTES_KEPT: Final = 8 * 1024 * 1024
"""Of lines that wait for the reader of our stderr; what comes after them is lost and counted."""

OWN_BYTES: Final = 256 * 1024
"""Beyond that, for lines of our own: what children print does not take their place."""

TRY_AGAIN: Final = 1.0
"""Seconds, or the next line, until a stderr that failed is tried again."""

WRITTEN_AT_ONCE: Final = 128 * 1024
"""Bytes, so that what is being written adds little to what is kept."""


class Log:
    """`HH:MM:SS level name: text`, from `level` on. Any thread may write."""

    def __init__(self, stream: TextIO, level: str) -> None:
        self._stream = stream
        self._least = LEVELS.index(level)
        self._lines: deque[str] = deque()
        self._held = 0
        """Bytes of them, as they lie in memory: a text has up to four for each character."""
        self._lost = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        self._writer.start()

    def say(self, level: str, text: str) -> None:
        """A line of the supervisor's own."""
        if LEVELS.index(level) >= self._least:
            self._write(level, "wsraw", text, BYTES_KEPT + OWN_BYTES)

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

    def _write(self, level: str, name: str, text: str, most: int = BYTES_KEPT) -> None:
        line = f"{time.strftime('%H:%M:%S')} {level} {name}: {printable(text)}\n"
        size = sys.getsizeof(line)
        with self._changed:
            if self._held + size > most:
                self._lost += 1
                return
            self._lines.append(line)
            self._held += size
            self._changed.notify()

    def _take(self) -> tuple[str, int]:
        """Some of what waits, and how much was lost once all of it is out; of how many lines that
        tells."""
        parts: list[str] = []
        size = 0
        while self._lines and size < WRITTEN_AT_ONCE:
            line = self._lines.popleft()
            size += sys.getsizeof(line)
            parts.append(line)
        self._held -= size
        count = len(parts)
        if self._lost and not self._lines:
            what = "line" if self._lost == 1 else "lines"
            parts.append(f"{time.strftime('%H:%M:%S')} warning wsraw: {self._lost} {what} lost\n")
            count += self._lost
            self._lost = 0
        return "".join(parts), count

    def _work(self) -> None:
        if sys.platform != "win32":
            # A terminal may send these to a background job that writes (stty tostop), each time
            # it writes. A thread that blocks them just writes; from others they change the scale.
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
                # A closed terminal, a full disk; that must not end the run.
                with self._changed:
                    if self._closing:
                        return
                    self._lost += count
                    self._changed.wait(TRY_AGAIN)
