"""I/O. What is reported of the handlers' mistakes, rationed: a client that finds one must not fill
the log, nor keep the worker busy with writing it down.

Of each mistake, a kind of exception at a place in the code, the first few are shown whole. Of the
others a line says how many there were.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from wsraw.workers.reporting.worker_log import log

SHOWN: Final = 10
"""Reports of one mistake within a period."""

PERIOD: Final = 10.0
"""Seconds."""

MISTAKES: Final = 100
"""Told apart within a period; code that is made anew for each message has as many as it likes."""


class LeftOutError(Exception):
    """The gateway did not do what a handler has commanded."""


Report = Callable[[str, BaseException], None]


class Rationed:
    """Reports exceptions, up to the ration. From any thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        """Of each mistake in this period."""
        self._began = 0.0

    def __call__(self, what: str, error: BaseException) -> None:
        """Show it, or count it."""
        mistake = _place_of(error)
        with self._lock:
            now = time.monotonic()
            if now - self._began > PERIOD:
                self._say_left_out()
                self._began = now
            if mistake not in self._counts and len(self._counts) >= MISTAKES:
                mistake = "other exceptions"
            count = self._counts[mistake] = self._counts.get(mistake, 0) + 1
        if count <= SHOWN:
            self._report(what, error)
        elif count == SHOWN + 1:
            # Even if there is never another one that would tell.
            self._tell_later()

    def _tell_later(self) -> None:
        timer = threading.Timer(PERIOD, self.flush)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            # There are too many threads; the next exception tells, or the end.
            pass

    def flush(self) -> None:
        """Say what has been left out so far."""
        with self._lock:
            self._say_left_out()

    def _say_left_out(self) -> None:
        for mistake, count in self._counts.items():
            if count > SHOWN:
                left_out = count - SHOWN
                log.error("%d more reports of %s are not shown", left_out, mistake)
        self._counts.clear()


def _place_of(error: BaseException) -> str:
    """A kind of exception, and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if trace is None:
        return kind
    return f"{kind} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
