"""Sans-I/O. Who asked for what, and gets one answer when all of it has come about.

An errand has parts, each of which is settled by itself: the reload of each pool, and the gateway's
reading of certificates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")


class Answer(NamedTuple, Generic[W]):
    """For who has asked: whether all of it went well, and how it went in words."""

    who: W
    ok: bool
    text: str


class _Errand(Generic[W]):
    def __init__(self, who: W, what: str, parts: Iterable[str]) -> None:
        self.who = who
        self.what = what
        self.outcomes: dict[str, tuple[bool, str] | None] = dict.fromkeys(parts)
        """Of each part in its order; None: it is not settled."""


class Errands(Generic[W]):
    """All that are under way."""

    def __init__(self) -> None:
        self._errands: list[_Errand[W]] = []

    def begin(self, who: W, what: str, parts: Iterable[str]) -> None:
        """Somebody wants it; of the same thing with the same part there may be several."""
        self._errands.append(_Errand(who, what, parts))

    def settle(self, what: str, part: str, ok: bool, text: str = "") -> list[Answer[W]]:
        """That part is done, or was refused: the answers to all who waited for no more than it."""
        for errand in self._errands:
            if errand.what == what and errand.outcomes.get(part, True) is None:
                errand.outcomes[part] = ok, text
        return self._through()

    def end(self, what: str, ok: bool, text: str) -> list[Answer[W]]:
        """Nothing more will come of it: that is the answer to what is not settled."""
        for errand in self._errands:
            if errand.what == what:
                errand.outcomes = {"": (ok, text)}
        return self._through()

    def _through(self) -> list[Answer[W]]:
        answers = []
        for errand in self._errands:
            outcomes = [outcome for outcome in errand.outcomes.values() if outcome is not None]
            if len(outcomes) == len(errand.outcomes):
                text = "; ".join(text for _, text in outcomes if text)
                answers.append(Answer(errand.who, all(ok for ok, _ in outcomes), text))
        self._errands = [each for each in self._errands if None in each.outcomes.values()]
        return answers
