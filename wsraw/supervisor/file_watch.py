"""I/O. Which files changed, for `--reload`: looked at once a second, as that works everywhere."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

MOST_ENTRIES: Final = 50_000
"""Files and folders that a look goes through, below one folder: about 0.1 s."""

NOT_OURS: Final = {"__pycache__", "node_modules", "site-packages", "venv"}
"""Folders of this name are installed, not written; so are those with a pyvenv.cfg."""

VENDOR: Final = "vendor"
"""Where PHP, Go and Ruby install; of a Python project it is a folder like any other."""

Look = tuple[str, int, int, int]
"""What is seen of a file: its place behind all links, its size and its times."""


class Watch:
    """Files, and for each one all of the same suffix in its folder or below: what a handlers file
    (or `echo.mjs`) may import from there.

    Paths stay as they were given, and each look follows the links in them: a link that leads
    elsewhere is a change of all that is behind it. `warn` is called with a line for each folder
    that is too large to be looked at whole.
    """

    def __init__(self, files: Iterable[Path], warn: Callable[[str], object]) -> None:
        self._files = [os.fspath(file) for file in files]
        self._warn = warn
        self._warned: set[str] = set()
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """Files that came, went or were written since the last call."""
        before, self._seen = self._seen, self._look()
        paths = before.keys() | self._seen.keys()
        return sorted(Path(path) for path in paths if before.get(path) != self._seen.get(path))

    def _look(self) -> dict[str, Look]:
        # All by their names: objects for paths would make a look five times as long.
        seen: dict[str, Look] = {}
        walked = set()
        for file in self._files:
            # Python's first folder on sys.path is that of the file itself, behind all links.
            place = os.path.realpath(file)
            folder = os.path.dirname(place)
            _note(seen, file, place)
            # What has no suffix is a program of its own; its folder may be /usr/bin.
            top, suffix = os.path.dirname(file), os.path.splitext(file)[1]
            if suffix and (top, folder, suffix) not in walked:
                walked.add((top, folder, suffix))
                for path, real in self._below(top, folder, suffix):
                    _note(seen, path, real)
        return seen

    def _below(self, top: str, real_top: str, suffix: str) -> Iterator[tuple[str, str]]:
        """Files, by the name to be shown and by that behind all links. Breadth first: of a folder
        that is too large, what is near is seen."""
        left = MOST_ENTRIES
        folders = deque([(top, real_top)])
        entered = set()
        while folders:
            folder, real = folders.popleft()
            # Links may lead in a circle.
            if real in entered:
                continue
            entered.add(real)
            try:
                with os.scandir(real) as entries:
                    found = list(entries)
            except OSError:
                continue
            if real != real_top and any(entry.name == "pyvenv.cfg" for entry in found):
                continue
            for entry in found:
                if left == 0:
                    self._warn_once(top)
                    return
                left -= 1
                is_file = entry.name.endswith(suffix)
                if is_file or (_is_ours(entry.name, suffix) and _is_folder(entry)):
                    shown, place = os.path.join(folder, entry.name), entry.path
                    if entry.is_symlink():
                        place = os.path.realpath(place)
                    if is_file:
                        yield shown, place
                    else:
                        folders.append((shown, place))

    def _warn_once(self, folder: str) -> None:
        if folder not in self._warned:
            self._warned.add(folder)
            self._warn(
                f"--reload: there are more than {MOST_ENTRIES:,} files and folders in {folder}; "
                "not all of them are watched. Keep the handlers in a folder of their own"
            )


def _is_ours(name: str, suffix: str) -> bool:
    if name.startswith(".") or name in NOT_OURS:
        return False
    return name != VENDOR or suffix == ".py"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _note(seen: dict[str, Look], shown: str, real: str) -> None:
    try:
        status = os.stat(real)
    except OSError:
        # Not there, or not any more.
        return
    if stat.S_ISREG(status.st_mode):
        # Not its inode, as file systems over a network or into a virtual machine change that at
        # will. A file that takes another one's place, with its time and size, has its own ctime.
        seen[shown] = real, status.st_size, status.st_mtime_ns, status.st_ctime_ns
