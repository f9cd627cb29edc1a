"""I/O. The log: one line of stderr for each thing that is worth knowing."""

from __future__ import annotations

import threading
import time
from typing import Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")


class Log:
    """`HH:MM:SS level name: text`, from `level` on. Any thread may write."""

    def __init__(self, stream: TextIO, level: str) -> None:
        self._stream = stream
        self._least = LEVELS.index(level)
        self._lock = threading.Lock()

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

    def _write(self, level: str, name: str, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {level} {name}: {text}\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads it any more (a closed terminal); that must not end the run.
                pass
