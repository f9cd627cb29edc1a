"""I/O. The folder in which the handlers of the drill's own run write each on_close (echo.py).

Each process has a file of its own there, named by its pid. With one file for all, lines would be
lost on Windows: there, appending is two steps, finding the end and writing, and another process can
write in between.

A handler can write a line twice: if its worker is killed before the event counts as handled, the
event comes again with a higher `delivery`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from wsraw.tools.drill.target.close_records import CloseReport

VARIABLE: Final = "DRILL_CLOSE_LOG"
"""The environment variable that names the folder."""


class CloseLog:
    """Reads added lines. Each line has peer, code, cause, state, connection id and delivery."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = defaultdict(int)
        self._seen: dict[str, set[str]] = defaultdict(set)
        """The deliveries of each connection's end."""

    def exists(self) -> bool:
        """Whether the handlers write reports: they create a file when they are loaded."""
        return any(self._files())

    def read(self) -> list[CloseReport]:
        """The reports since the last call, in the order in which their connections began."""
        lines = [line for file in self._files() for line in self._read(file)]
        reports = []
        for name, code, cause, state, con, delivery in sorted(lines, key=_place):
            seen = self._seen[con]
            if not seen or delivery in seen:
                reports.append(CloseReport(name, code, cause, state))
            seen.add(delivery)
        return reports

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.exists() else []

    def _read(self, file: Path) -> list[list[str]]:
        with open(file, "rb") as stream:
            stream.seek(self._offsets[file])
            data = stream.read()
        # The next call reads a line that is still being written.
        data = data[: data.rfind(b"\n") + 1]
        self._offsets[file] += len(data)
        lines = data.decode("utf-8", "backslashreplace").splitlines()
        return [(line.split() + ["?"] * 6)[:6] for line in lines]


def _place(line: list[str]) -> tuple[int, int]:
    """Connection id and delivery, which only grow."""
    con, delivery = (int(word) if word.isdecimal() else 0 for word in line[4:])
    return con, delivery
