"""I/O. What the admin process asks the run: over the control link, as the command line does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from wsraw.link.records import Done
from wsraw.supervisor.control import client

ANSWER_WITHIN: Final = 5.0
"""Seconds. The supervisor waits one second for the gateway; it takes longer itself only if it was
stopped."""

FRESH_FOR: Final = 0.25
"""Seconds for which figures are reused: several clients that ask at once cost the run one
request."""

PAGE_FRESH_FOR: Final = 0.75
"""Seconds for which pages reuse figures. A page asks once a second, so it always gets new ones."""


class NoAnswerError(Exception):
    """The run does not answer; the text says why."""


class _Shared:
    """An answer that several threads use while it is fresh."""

    def __init__(self, fresh_for: float, ask: Callable[[], dict[str, Any]]) -> None:
        self._fresh_for = fresh_for
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: tuple[float, dict[str, Any]] | None = None
        self._failure = ""
        self._failed_at = 0.0

    def get(self) -> tuple[float, dict[str, Any]]:
        """The answer, and the clock's time at which it came. Raises NoAnswerError."""
        began = time.monotonic()
        with self._lock:
            if self._failed_at > began:
                # The attempt failed while this thread waited: another one would take as long again.
                raise NoAnswerError(self._failure)
            if self._answer is None or time.monotonic() - self._answer[0] > self._fresh_for:
                self._answer = None
                try:
                    answer = self._ask()
                except NoAnswerError as error:
                    self._failure, self._failed_at = str(error), time.monotonic()
                    raise
                self._answer = time.monotonic(), answer
            return self._answer


class Run:
    """The run that this process belongs to. May be used by several threads."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._figures = _Shared(FRESH_FOR, lambda: self._state("figures"))
        self._status = _Shared(PAGE_FRESH_FOR, lambda: self._state("status"))

    def figures(self) -> dict[str, Any]:
        """The figures of `wsraw status --json`, without percentiles. Raises NoAnswerError."""
        return self._figures.get()[1]

    def status(self) -> tuple[float, dict[str, Any]]:
        """What `wsraw status --json` says, and when it was said. Raises NoAnswerError."""
        return self._status.get()

    def _state(self, what: str) -> dict[str, Any]:
        done = self.ask(what, (), ANSWER_WITHIN)
        if not done.ok:
            raise NoAnswerError(f"the run does not answer: {done.text}")
        found: dict[str, Any] = done.data
        return found

    def connections(self, options: dict[str, Any]) -> dict[str, Any]:
        """Connections that match, as `rows`, and how many there are, as `matched`. Raises
        NoAnswerError."""
        rows: list[Any] = []
        for done in self._pages("connections", options):
            if not done.ok:
                raise NoAnswerError(done.text)
            rows += done.data["rows"]
        return {"rows": rows, "matched": done.data["matched"]}

    def log(self, after: int) -> list[tuple[int, str, str]]:
        """Lines of the log after the one with this number: number, level, text. Raises
        NoAnswerError."""
        done = self.ask("log", (str(after),), ANSWER_WITHIN)
        return [tuple(line) for line in done.data] if done.ok else []

    def ask_gateway(self, what: str, options: dict[str, Any]) -> Done:
        """Send the gateway a request that has one answer. Raises NoAnswerError."""
        (done,) = self._pages(what, options)
        return done

    def ask(self, what: str, args: Sequence[str], timeout: float) -> Done:
        """Send the supervisor a request. Raises NoAnswerError."""
        try:
            return client.ask(self._folder, what, args, timeout)
        except (client.NoRunError, client.RequestRefusedError, TimeoutError) as error:
            raise NoAnswerError(f"the run does not answer: {error}") from error

    def _pages(self, what: str, options: dict[str, Any]) -> Iterator[Done]:
        try:
            for done in client.pages(self._folder, what, options, ANSWER_WITHIN):
                if done.unanswered:
                    raise NoAnswerError(done.text)
                yield done
        except (client.NoRunError, client.RequestRefusedError, TimeoutError) as error:
            raise NoAnswerError(f"the run does not answer: {error}") from error
