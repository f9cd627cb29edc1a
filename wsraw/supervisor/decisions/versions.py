"""Sans-I/O. The versions of a pool's handlers: which one its workers load, and the way back.

Each reload begins a version. Its workers load it from disk, and keep the files that they have
loaded (workers/loading/versions.py). A rollback loads the kept files of the version before the
present one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_KEPT: Final = 5
"""Versions of a pool to which a rollback can go, including the present one."""


class Version(NamedTuple):
    """The version that a worker loads."""

    number: int
    """Versions are numbered from 1, across all pools of a run."""
    is_kept: bool = False
    """Its kept files are loaded, and not those on disk."""


FIRST: Final = Version(1)


class Versions:
    """The version that new workers load, and those that have served before."""

    def __init__(self) -> None:
        self.wanted = FIRST
        """The version that a worker loads that starts now."""
        self._served = [FIRST.number]
        """The versions that all workers have had; the last one is the present one."""
        self._before = FIRST
        """The wanted version before the reload or rollback that is in progress."""
        self._is_going_back = False

    @property
    def present(self) -> int:
        """The version that all workers have, or had before the reload that is in progress."""
        return self._served[-1]

    @property
    def previous(self) -> int:
        """The number of the version before the present one; 0 if there is none."""
        return self._served[-2] if len(self._served) > 1 else 0

    def target(self, *, is_reloading: bool) -> int:
        """The number of the version that a rollback goes to; 0 if there is none. During a reload,
        that is the present one."""
        if is_reloading and not self._is_going_back and self.wanted.number != self.present:
            return self.present
        return self.previous

    @property
    def kept(self) -> set[int]:
        """The versions whose files are needed."""
        return {*self._served, self.wanted.number}

    def hold(self, *, is_kept: bool) -> None:
        """Another version is on trial, and may be on disk: a worker that starts now loads the kept
        files of the present version, if there are any."""
        self._before = self.wanted
        self.wanted = Version(self.present, is_kept or self.wanted.is_kept)

    def let_go(self) -> None:
        """The trial is over. The files on disk may be those of the trial: until the next reload, a
        worker that starts still loads the kept files of the present version."""
        if not self.wanted.is_kept:
            self.wanted = self._before

    def has_served(self, number: int) -> bool:
        """Whether all workers have had this version, or still have it."""
        return number in self._served

    def reload(self, number: int) -> None:
        """Begin with a new version, from disk."""
        self._begin(Version(number), is_going_back=False)

    def promote(self, version: Version) -> None:
        """Begin with the version that was on trial."""
        self._begin(version, is_going_back=False)

    def go_back(self, number: int) -> None:
        """Begin with an earlier version, or with the present one."""
        self._begin(Version(number, is_kept=True), is_going_back=True)

    def _begin(self, version: Version, *, is_going_back: bool) -> None:
        if self.wanted.number == self.present:
            self._before = self.wanted
        self.wanted = version
        self._is_going_back = is_going_back

    def served(self) -> bool:
        """All workers have the wanted version. Returns whether that was a rollback."""
        is_back, self._is_going_back = self._is_going_back, False
        if is_back:
            self._served = self._served[: self._served.index(self.wanted.number) + 1]
        elif self.wanted.number != self.present:
            self._served = [*self._served, self.wanted.number][-MOST_KEPT:]
        return is_back

    def refused(self) -> None:
        """The wanted version does not load, and the workers stay as they are. A worker that is
        started for a dead one loads the files on disk, which may work by then, unless the refused
        version, or the one before it, was loaded from kept files: then it loads the one before."""
        if self.wanted.is_kept or self._before.is_kept:
            self.wanted = self._before
            self._is_going_back = False
