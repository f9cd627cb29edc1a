"""I/O. A rate limit for reports of handlers' mistakes, so that a client that triggers a bug cannot
fill the log."""

from __future__ import annotations

import threading
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
        """Number of reports by mistake."""
        self._began = 0.0
        self._timer: threading.Timer | None = None

    def allows(self, mistake: str) -> bool:
        """Whether to log another report of a mistake. Reports that are not logged are counted, and
        the count is logged when the period is over."""
        now = time.monotonic()
        if now - self._began > PERIOD:
            self.tell()
            self._began = now
        count = self._counts[mistake] = self._counts.get(mistake, 0) + 1
        if count == SHOWN + 1 and self._timer is None:
            self._tell_later(self._began + PERIOD - now)
        return count <= SHOWN

    def tell(self) -> None:
        """Log the counts of reports that were not logged, and start again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        counts, self._counts = self._counts, {}
        for mistake, count in counts.items():
            if count > SHOWN:
                log.error("%s (%d more in %g s)", mistake, count - SHOWN, PERIOD)

    def _tell_later(self, seconds: float) -> None:
        """Report later, in a thread that lives only while there is something to report: a plain
        worker has no other timer while it waits."""
        timer = threading.Timer(seconds, self.tell)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            # No thread can be started: the next report logs the counts.
            return
        self._timer = timer


def place_of(error: BaseException) -> str:
    """The type of an exception, and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if trace is None:
        return kind
    return f"{kind} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
