"""Sans-I/O. Log lines that somebody outside can cause: a burst of them, then a few a second.

Whoever makes us complain must not fill the disk, nor bury what others say.
"""

from __future__ import annotations

import logging
from typing import Any, Final

BURST: Final = 20
"""Lines written at once, after a time without any."""

A_SECOND: Final = 1.0
"""Lines a second after that."""


class LimitedLog:
    """A bucket for all such lines together; how many were left out is told once there is room."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tokens = float(BURST)
        self._filled_at = 0.0
        self._left_out = 0
        self.now = 0.0
        """The loop's clock; whoever owns this sets it."""

    def say(self, level: str, text: str, *args: Any) -> None:
        """Log a line, or count it as left out."""
        passed = max(0.0, self.now - self._filled_at)
        self._filled_at = self.now
        self._tokens = min(float(BURST), self._tokens + passed * A_SECOND)
        if self._tokens < 1.0:
            self._left_out += 1
            return
        self._tokens -= 1.0
        self._log.log(logging.getLevelNamesMapping()[level.upper()], text, *args)
        self.tell()

    def tell(self) -> None:
        """Say how many lines were left out, if there is room for that."""
        if self._left_out and self._tokens >= 1.0:
            self._tokens -= 1.0
            self._log.warning("%d more such lines were left out", self._left_out)
            self._left_out = 0
