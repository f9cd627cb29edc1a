"""I/O. Which files changed, for `--reload`: looked at once a second, as that works everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

MOST_FILES: Final = 2000
"""Looked at; a folder with more than that is no project, and must not hold the supervisor up."""

NOT_OURS: Final = {"__pycache__", "node_modules", "site-packages", "vendor", "venv"}


class Watch:
    """Files, and for each one all of the same suffix in its folder or below: what a handlers file
    (or `echo.mjs`) may import from there."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._watched = [file.resolve() for file in files]
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """Files that came, went or were written since the last call."""
        before, self._seen = self._seen, self._look()
        paths = before.keys() | self._seen.keys()
        return sorted(path for path in paths if before.get(path) != self._seen.get(path))

    def _look(self) -> dict[Path, tuple[int, int]]:
        seen = {}
        for path in (path for file in self._watched for path in _with_siblings(file)):
            try:
                status = path.stat()
            except OSError:
                continue
            seen[path] = status.st_mtime_ns, status.st_size
        return seen


def _with_siblings(file: Path) -> Iterator[Path]:
    yield file
    if not file.suffix:
        # A program of its own; its folder may be /usr/bin.
        return
    left = MOST_FILES
    for folder, folders, names in os.walk(file.parent):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in NOT_OURS]
        for name in names:
            if name.endswith(file.suffix):
                yield Path(folder, name)
                left -= 1
        if left <= 0:
            return
