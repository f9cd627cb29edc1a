"""I/O. Rate limit for reports of handlers' exceptions, so that a client which finds a bug cannot
fill the log.

Of each kind of exception at a place in the code the first few are logged; the others are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from wsraw.workers.reporting.worker_log import log

SHOWN: Final = 10
"""Reports of one kind within a period."""

PERIOD: Final = 10.0
"""Seconds."""

KINDS: Final = 100
"""Kinds distinguished within a period; generated code may have any number."""


class LeftOutError(Exception):
    """The gateway has rejected a command."""


Report = Callable[[str, BaseException], None]


class Rationed:
    """Reports exceptions up to the limit. Thread-safe."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        """Reports by kind in this period."""
        self._began = 0.0

    def __call__(self, what: str, error: BaseException) -> None:
        """Report or count an exception."""
        mistake = _place_of(error)
        with self._lock:
            now = time.monotonic()
            if now - self._began > PERIOD:
                self._say_left_out()
                self._began = now
            if mistake not in self._counts and len(self._counts) >= KINDS:
                mistake = "other exceptions"
            count = self._counts[mistake] = self._counts.get(mistake, 0) + 1
        if count <= SHOWN:
            self._report(what, error)
        elif count == SHOWN + 1:
            # In case no further exception triggers the summary.
            self._tell_later()

    def _tell_later(self) -> None:
        timer = threading.Timer(PERIOD, self.flush)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            # Out of threads; the next exception or the end triggers it.
            pass

    def flush(self) -> None:
        """Log the counts of reports left out so far."""
        with self._lock:
            self._say_left_out()

    def _say_left_out(self) -> None:
        for mistake, count in self._counts.items():
            if count > SHOWN:
                left_out = count - SHOWN
                log.error("%d more reports of %s are not shown", left_out, mistake)
        self._counts.clear()


def _place_of(error: BaseException) -> str:
    """The exception's type, and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if trace is None:
        return kind
    return f"{kind} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
