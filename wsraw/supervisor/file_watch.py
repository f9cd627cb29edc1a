"""I/O. Watches files for `--reload` by scanning them, which works on every platform."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Final

from wsraw.config import programs
from wsraw.runtime.loop import Loop
from wsraw.supervisor.log import Log

LOOK: Final = 1.0
"""Seconds between two scans."""

PAUSE: Final = 20.0
"""Pause after a scan, as a multiple of its duration, because signals and exits wait for the
scan."""

MOST_ENTRIES: Final = 50_000
"""Files and folders that a scan reads below one folder: about 0.1 s."""

INSTALLED: Final = {"__pycache__", "node_modules", "site-packages", "venv"}
"""Names of folders with installed code, like folders that hold a pyvenv.cfg."""


class Watching:
    """Watches the files of the present handlers, and no others. Calls `changed` when one
    changes."""

    def __init__(self, loop: Loop, log: Log, changed: Callable[[], object]) -> None:
        self._loop = loop
        self._log = log
        self._changed = changed
        self._watch: FileWatch | None = None

    def end(self) -> None:
        """Stop watching."""
        self._watch = None

    def begin(self, words: Iterable[str | None], folder: str) -> None:
        """Watch those of these words that are paths of files, relative to that folder."""
        paths = [Path(folder, word) for word in words if word]
        files = [path for path in paths if os.path.isfile(path)]
        self.end()
        if not files:
            text = "--reload: no worker is a Python file, so there is nothing to watch"
            self._log.say("warning", text)
            return
        self._watch = FileWatch(files, partial(self._log.say, "warning"))
        self._loop.call_later(LOOK, partial(self._look, self._watch))

    def _look(self, watch: FileWatch) -> None:
        if watch is not self._watch:
            return
        began = time.monotonic()
        changed = watch.changed()
        took = time.monotonic() - began
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            self._log.say("info", f"{changed[0].name}{more} changed: reloading")
            self._changed()
        self._loop.call_later(max(LOOK, PAUSE * took), partial(self._look, watch))


class FileWatch:
    """Watches files, and all files of the same suffix in and below their folders, which they may
    import. For a file in a package, the folder that contains the package counts as its folder.

    Each scan follows links again, so a link with a new target is a change. `warn` is called with a
    line for each folder that is too large to be scanned whole.
    """

    def __init__(self, files: Iterable[Path], warn: Callable[[str], object]) -> None:
        self._files = [os.fspath(file) for file in files]
        self._warn = warn
        self._warned: set[str] = set()
        self._seen = self._look()
        """The signature of each file's content."""

    def changed(self) -> list[Path]:
        """Files that were added, removed or written since the last call."""
        before, self._seen = self._seen, self._look()
        paths = before.keys() | self._seen.keys()
        return sorted(Path(path) for path in paths if before.get(path) != self._seen.get(path))

    def _look(self) -> dict[str, tuple[object, ...]]:
        # Strings, because with Path objects a scan takes five times as long.
        seen: dict[str, tuple[object, ...]] = {}
        walked = set()
        for file in self._files:
            place = os.path.realpath(file)
            _note(seen, file, place)
            # A file without a suffix is a program; its folder may be /usr/bin.
            top, suffix = os.path.dirname(file), os.path.splitext(file)[1]
            # sys.path[0] is the folder of the resolved file.
            folder = os.path.dirname(place)
            if suffix == ".py":
                project = os.fspath(programs.place(PurePath(place), os.path.isfile).folder)
                if project != folder:
                    top = folder = project
            if suffix and (top, folder, suffix) not in walked:
                walked.add((top, folder, suffix))
                for path, real in self._below(top, folder, suffix):
                    _note(seen, path, real)
        return seen

    def _below(self, top: str, real_top: str, suffix: str) -> Iterator[tuple[str, str]]:
        """Files by shown name and resolved path. The search is breadth first, so that near files
        are found even if the folder is too large."""
        left = MOST_ENTRIES
        folders = deque([(top, real_top)])
        entered = set()
        while folders:
            folder, real = folders.popleft()
            # Links may form a circle.
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
                if is_file or (_may_be_imported(entry.name) and _is_folder(entry)):
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


def _may_be_imported(name: str) -> bool:
    return not name.startswith(".") and name not in INSTALLED


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _note(seen: dict[str, tuple[object, ...]], shown: str, real: str) -> None:
    try:
        status = os.stat(real)
    except OSError:
        # Removed.
        return
    if stat.S_ISREG(status.st_mode):
        # Not the inode, which network and shared file systems change at will. A file that replaces
        # another one of the same time and size has its own ctime.
        seen[shown] = real, status.st_size, status.st_mtime_ns, status.st_ctime_ns
