"""Sans-I/O. Which process a token belongs to."""

from __future__ import annotations

from typing import Final

from wsraw.link.rules import is_same_secret

GONE_TOKENS_KEPT: Final = 1000
"""Tokens of processes that are gone, should their hello still be on the way."""


class Tokens:
    """Each process that the supervisor starts has a token; number 0 has that of workers started by
    hand."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._gone: dict[str, int] = {}

    def add(self, token: str, n: int) -> None:
        """Expect a process with that token; a process has one."""
        self._numbers = {t: number for t, number in self._numbers.items() if number != n or not n}
        self._numbers[token] = n

    def remove(self, n: int) -> None:
        """The process has exited."""
        for token in [token for token, number in self._numbers.items() if number == n]:
            del self._numbers[token]
            self._gone[token] = n
            if len(self._gone) > GONE_TOKENS_KEPT:
                del self._gone[next(iter(self._gone))]

    def number(self, token: str) -> int | None:
        """The process with that token; None: there is none."""
        found = None
        for known, number in self._numbers.items():
            # All of them, each in constant time: the time taken must not say which came close.
            if is_same_secret(known, token):
                found = number
        return found

    def gone(self, token: str) -> int | None:
        """The process that had that token, if it has exited."""
        return self._gone.get(token)
