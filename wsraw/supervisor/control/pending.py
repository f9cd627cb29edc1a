"""Sans-I/O. Requests of the command line that are under way; each gets one answer.

A request has parts that are settled one by one: the reload of each pool, and of the certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

W = TypeVar("W")


class PendingRequests(Generic[W]):
    """All requests under way. `answer` gets who asked, whether all parts succeeded, and a text."""

    def __init__(self, answer: Callable[[W, bool, str], object]) -> None:
        self._answer = answer
        self._pending: list[tuple[W, str, dict[str, tuple[bool, str] | None]]] = []
        """Who asked, for what, and the outcome by part, in order; None while it is not settled."""

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
        """All of them: who asked, for what, and the parts with what has become of them."""
        return [
            (who, what, [(part, *(known or (None, ""))) for part, known in outcomes.items()])
            for who, what, outcomes in self._pending
        ]

    def go_on(self, who: W, what: str, parts: Iterable[tuple[str, bool | None, str]]) -> None:
        """Add one of `waiting`, of the program before us."""
        outcomes = {part: None if ok is None else (ok, text) for part, ok, text in parts}
        self._pending.append((who, what, outcomes))

    def end(self, what: str, ok: bool, text: str) -> None:
        """Give this answer to all such requests that are not settled."""
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
            # What was refused comes first: nobody reads on after "reloaded".
            known.sort(key=lambda outcome: outcome[0])
            texts = [text for _, text in known if text]
            text = ("\n" if any("\n" in each for each in texts) else "; ").join(texts)
            self._answer(who, all(ok for ok, _ in known), text)
