"""Sans-I/O. Requests of the command line that are under way; each gets one answer.

A request has parts that are settled one by one: the reload of each pool, and of the certificates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")


class Answer(NamedTuple, Generic[W]):
    """The answer to a request: whether all parts succeeded, and a text."""

    who: W
    ok: bool
    text: str


class _Pending(Generic[W]):
    def __init__(self, who: W, what: str, parts: Iterable[str]) -> None:
        self.who = who
        self.what = what
        self.outcomes: dict[str, tuple[bool, str] | None] = dict.fromkeys(parts)
        """By part, in order; None while it is not settled."""


class PendingRequests(Generic[W]):
    """All requests under way."""

    def __init__(self) -> None:
        self._pending: list[_Pending[W]] = []

    def begin(self, who: W, what: str, parts: Iterable[str]) -> None:
        """Add a request; several may wait for the same part."""
        self._pending.append(_Pending(who, what, parts))

    def settle(self, what: str, part: str, ok: bool, text: str = "") -> list[Answer[W]]:
        """A part is done or was refused. Returns the answers that are complete now."""
        for pending in self._pending:
            if pending.what == what and pending.outcomes.get(part, True) is None:
                pending.outcomes[part] = ok, text
        return self._completed()

    def end(self, what: str, ok: bool, text: str) -> list[Answer[W]]:
        """Give this answer to all such requests that are not settled."""
        for pending in self._pending:
            if pending.what == what:
                pending.outcomes = {"": (ok, text)}
        return self._completed()

    def _completed(self) -> list[Answer[W]]:
        answers = []
        for pending in self._pending:
            outcomes = [outcome for outcome in pending.outcomes.values() if outcome is not None]
            if len(outcomes) == len(pending.outcomes):
                text = "; ".join(text for _, text in outcomes if text)
                answers.append(Answer(pending.who, all(ok for ok, _ in outcomes), text))
        self._pending = [each for each in self._pending if None in each.outcomes.values()]
        return answers
