"""Sans-I/O. The last lines of the log, for people who look at a run later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

MOST_LINES: Final = 300
MOST_CHARACTERS: Final = 128 * 1024
"""Characters of all kept lines together."""
LONGEST: Final = 2000
"""Characters of one kept line; the log itself has all of it."""


class RecentLine(NamedTuple):
    """A line of the log that is kept."""

    number: int
    level: str
    text: str


class RecentLines:
    """The last lines, the oldest first. Older ones make room."""

    def __init__(self) -> None:
        self._lines: deque[RecentLine] = deque()
        self._size = 0
        self._last = 0

    def add(self, level: str, text: str) -> None:
        """Keep a line."""
        self._last += 1
        line = RecentLine(self._last, level, text.rstrip("\n")[:LONGEST])
        self._lines.append(line)
        self._size += len(line.text)
        while len(self._lines) > MOST_LINES or self._size > MOST_CHARACTERS:
            self._size -= len(self._lines.popleft().text)

    def go_on(self, lines: Iterable[RecentLine]) -> None:
        """Continue with the lines of the program before us."""
        for line in lines:
            self.add(line.level, line.text)
            self._last = line.number
            self._lines[-1] = line

    def after(self, number: int) -> list[RecentLine]:
        """The lines with a higher number; all for 0. Lines in between may be gone."""
        return [line for line in self._lines if line.number > number]
