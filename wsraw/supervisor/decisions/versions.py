"""Sans-I/O. The versions of a pool's handlers: which one its workers load, and the way back.

Each reload begins a version, which its workers load from disk, and keep as they have loaded it
(workers/loading/versions.py). A rollback goes to the version before the present one, as it was
kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_KEPT: Final = 5
"""Versions of a pool to which a rollback can go, with the present one."""


class Version(NamedTuple):
    """What a worker loads."""

    number: int
    """From 1; the pools of a run share the count."""
    is_kept: bool = False
    """It is loaded as it was kept, and not from disk."""


FIRST: Final = Version(1)


class Versions:
    """The version that new workers load, and those that have served before."""

    def __init__(self) -> None:
        self.wanted = FIRST
        """What a worker loads that starts now."""
        self._served = [FIRST.number]
        """The versions that all workers have had; the last one is the present one."""
        self._before = FIRST
        """What was wanted before the reload or the rollback that is under way."""
        self._is_going_back = False

    @property
    def present(self) -> int:
        """The version that all workers have, or had before the reload that is under way."""
        return self._served[-1]

    @property
    def previous(self) -> int:
        """The version before the present one; 0: there is none."""
        return self._served[-2] if len(self._served) > 1 else 0

    def target(self, *, is_reloading: bool) -> int:
        """The version that a rollback goes to; 0: there is none. That of a reload which is under
        way is the present one."""
        if is_reloading and not self._is_going_back and self.wanted.number != self.present:
            return self.present
        return self.previous

    @property
    def kept(self) -> set[int]:
        """The versions whose files are needed."""
        return {*self._served, self.wanted.number}

    def hold(self, *, is_kept: bool) -> None:
        """Another version is on trial, and may be on disk: a worker that starts now loads the
        present one as it was kept, if it was."""
        self._before = self.wanted
        self.wanted = Version(self.present, is_kept or self.wanted.is_kept)

    def let_go(self) -> None:
        """The trial is over. On disk may be what was tried: a worker that starts goes on to load
        the present version as it was kept, until the next reload."""
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
        """Begin with an earlier one, or with the present one."""
        self._begin(Version(number, is_kept=True), is_going_back=True)

    def _begin(self, version: Version, *, is_going_back: bool) -> None:
        if self.wanted.number == self.present:
            self._before = self.wanted
        self.wanted = version
        self._is_going_back = is_going_back

    def served(self) -> bool:
        """All workers have what is wanted. Returns whether that was a rollback."""
        is_back, self._is_going_back = self._is_going_back, False
        if is_back:
            self._served = self._served[: self._served.index(self.wanted.number) + 1]
        elif self.wanted.number != self.present:
            self._served = [*self._served, self.wanted.number][-MOST_KEPT:]
        return is_back

    def refused(self) -> None:
        """It does not load, and the workers stay as they were. One that dies is followed by what is
        on disk, which may load by then; unless it was not from disk itself."""
        if self.wanted.is_kept or self._before.is_kept:
            self.wanted = self._before
            self._is_going_back = False
