"""I/O. What the admin process asks the run: over the control link, as the command line does."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

from wsraw.supervisor.control import client

ANSWER_WITHIN: Final = 5.0
"""Seconds. The supervisor waits a second for the gateway; more than that it only takes if it was
stopped."""

FRESH_FOR: Final = 0.25
"""Seconds for which figures are used again: several that ask at once cost the run one request."""


class NoAnswerError(Exception):
    """The run does not answer; the text says why."""


class Run:
    """The run that this process belongs to. May be used by several threads."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._figures: dict[str, Any] = {}
        self._asked_at = 0.0

    def figures(self) -> dict[str, Any]:
        """The figures of `wsraw status --json`, without percentiles. Raises NoAnswerError."""
        with self._lock:
            if not self._figures or time.monotonic() - self._asked_at > FRESH_FOR:
                self._figures = self._ask()
                self._asked_at = time.monotonic()
            return self._figures

    def _ask(self) -> dict[str, Any]:
        self._figures = {}
        try:
            done = client.ask(self._folder, "figures", (), ANSWER_WITHIN)
        except (client.NoRunError, client.RefusedError, TimeoutError) as error:
            raise NoAnswerError(f"the run does not answer: {error}") from error
        if not done.ok:
            raise NoAnswerError(f"the run does not answer: {done.text}")
        figures: dict[str, Any] = done.data
        return figures
