"""I/O. Rate limit for reports of handlers' mistakes, so that a client which finds a bug cannot fill
the log."""

from __future__ import annotations

import time
from typing import Final

from wsraw.workers.reporting.worker_log import log

SHOWN: Final = 10
"""Reports of one mistake within a period."""

PERIOD: Final = 10.0
"""Seconds."""


class Ration:
    """Counts reports in the current period."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        """Reports by mistake."""
        self._began = 0.0

    def allows(self, mistake: str) -> bool:
        """Whether to log another report of a mistake. Announces it if further ones are not."""
        now = time.monotonic()
        if now - self._began > PERIOD:
            self._counts.clear()
            self._began = now
        count = self._counts[mistake] = self._counts.get(mistake, 0) + 1
        if count == SHOWN + 1:
            log.error("more reports of %s are not shown, for %g s at most", mistake, PERIOD)
        return count <= SHOWN


def place_of(error: BaseException) -> str:
    """The exception's type, and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if trace is None:
        return kind
    return f"{kind} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
