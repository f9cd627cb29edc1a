"""Sans-I/O. Requests of the command line that are in progress; each gets one answer.

A request has parts that are settled one by one: the reload of each pool, and of the certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

W = TypeVar("W")


class PendingRequests(Generic[W]):
    """The requests in progress. `answer` gets the link that asked, whether all parts succeeded, and
    a text."""

    def __init__(self, answer: Callable[[W, bool, str], object]) -> None:
        self._answer = answer
        self._pending: list[tuple[W, str, dict[str, tuple[bool, str] | None]]] = []
        """The link that asked, its request, and the outcome by part, in order; None while it is not
        settled."""

    def begin(self, who: W, what: str, parts: Iterable[str]) -> None:
        """Add a request; several may wait for the same part."""
        self._pending.append((who, what, dict.fromkeys(parts)))

    def settle(self, what: str, part: str, ok: bool, text: str = "") -> None:
        """A part is done or was refused: answer the requests that are complete now."""
        for _, wanted, outcomes in self._pending:
            if wanted == what and outcomes.get(part, True) is None:
                outcomes[part] = ok, text
        self._answer_complete()

    def waiting(self) -> list[tuple[W, str, list[tuple[str, bool | None, str]]]]:
        """All requests in progress: the link that asked, the request, and the outcome of each
        part."""
        return [
            (who, what, [(part, *(known or (None, ""))) for part, known in outcomes.items()])
            for who, what, outcomes in self._pending
        ]

    def go_on(self, who: W, what: str, parts: Iterable[tuple[str, bool | None, str]]) -> None:
        """Add a request that was `waiting` in the program before us."""
        outcomes = {part: None if ok is None else (ok, text) for part, ok, text in parts}
        self._pending.append((who, what, outcomes))

    def end(self, what: str, ok: bool, text: str) -> None:
        """End all unsettled requests of this kind with this answer."""
        for _, wanted, outcomes in self._pending:
            if wanted == what:
                outcomes.clear()
                outcomes[""] = ok, text
        self._answer_complete()

    def _answer_complete(self) -> None:
        pending, self._pending = self._pending, []
        for who, what, outcomes in pending:
            known = [outcome for outcome in outcomes.values() if outcome is not None]
            if len(known) < len(outcomes):
                self._pending.append((who, what, outcomes))
                continue
            # Refusals come first: after "reloaded", people stop reading.
            known.sort(key=lambda outcome: outcome[0])
            texts = [text for _, text in known if text]
            text = ("\n" if any("\n" in each for each in texts) else "; ").join(texts)
            self._answer(who, all(ok for ok, _ in known), text)
