"""Sans-I/O. Which process a token belongs to."""

from __future__ import annotations

from typing import Final

from wsraw.link.rules import is_same_secret

GONE_TOKENS_KEPT: Final = 1000
"""Tokens of ended processes that are remembered, because their hello may still be in transit."""


class Tokens:
    """The token of each process that the supervisor starts; number 0 has the token of workers
    started by hand."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._gone: dict[str, int] = {}

    def add(self, token: str, n: int) -> None:
        """Expect a process with this token; each process has one."""
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
        """The number of the process with this token; None if there is none."""
        found = None
        for known, number in self._numbers.items():
            # All tokens are compared, each in constant time: the time must not show which was
            # nearly right.
            if is_same_secret(known, token):
                found = number
        return found

    def gone(self, token: str) -> int | None:
        """The number of the ended process that had this token."""
        return self._gone.get(token)
