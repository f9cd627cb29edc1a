"""I/O. What the admin process asks the run: over the control link, as the command line does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from wsraw.link.records import Done
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
        self._failure = ""
        self._failed_at = 0.0

    def figures(self) -> dict[str, Any]:
        """The figures of `wsraw status --json`, without percentiles. Raises NoAnswerError."""
        began = time.monotonic()
        with self._lock:
            if self._failed_at > began:
                # While this one waited: another attempt of its own would take as long again.
                raise NoAnswerError(self._failure)
            if not self._figures or time.monotonic() - self._asked_at > FRESH_FOR:
                self._figures = {}
                try:
                    self._figures = self._state("figures")
                except NoAnswerError as error:
                    self._failure, self._failed_at = str(error), time.monotonic()
                    raise
                self._asked_at = time.monotonic()
            return self._figures

    def status(self) -> dict[str, Any]:
        """What `wsraw status --json` says. Raises NoAnswerError."""
        return self._state("status")

    def _state(self, what: str) -> dict[str, Any]:
        done = self.ask(what, (), ANSWER_WITHIN)
        if not done.ok:
            raise NoAnswerError(f"the run does not answer: {done.text}")
        found: dict[str, Any] = done.data
        return found

    def connections(self, options: dict[str, Any]) -> dict[str, Any]:
        """Connections that fit, as `rows`, and how many do, as `matched`. Raises NoAnswerError."""
        rows: list[Any] = []
        for done in self._pages("connections", options):
            if not done.ok:
                raise NoAnswerError(done.text)
            rows += done.data["rows"]
        return {"rows": rows, "matched": done.data["matched"]}

    def log(self, after: int) -> list[tuple[int, str, str]]:
        """Lines of the log after that number: number, level, text. Raises NoAnswerError."""
        done = self.ask("log", (str(after),), ANSWER_WITHIN)
        return [tuple(line) for line in done.data] if done.ok else []

    def ask_gateway(self, what: str, options: dict[str, Any]) -> Done:
        """A request that has one answer. Raises NoAnswerError."""
        (done,) = self._pages(what, options)
        return done

    def ask(self, what: str, args: Sequence[str], timeout: float) -> Done:
        """A request to the supervisor. Raises NoAnswerError."""
        try:
            return client.ask(self._folder, what, args, timeout)
        except (client.NoRunError, client.RefusedError, TimeoutError) as error:
            raise NoAnswerError(f"the run does not answer: {error}") from error

    def _pages(self, what: str, options: dict[str, Any]) -> Iterator[Done]:
        try:
            yield from client.pages(self._folder, what, options, ANSWER_WITHIN)
        except (client.NoRunError, client.RefusedError, TimeoutError) as error:
            raise NoAnswerError(f"the run does not answer: {error}") from error
