"""I/O. The limit on open files, and how many workers it allows."""

from __future__ import annotations

from wsraw.config import programs
from wsraw.runtime import descriptors


class OpenFiles:
    """Raises the limit of this process."""

    def __init__(self, given: tuple[int, int] | None, count: int) -> None:
        """For a run that begins with this many workers. `given`: the limit before the program
        before us raised it."""
        self.given = given or descriptors.soft_limit()
        """The limit that workers get."""
        self._limit = descriptors.raise_limit()
        self._most = min(programs.MOST, descriptors.most_workers(self._limit, count))

    def refusal_to_begin(self, count: int) -> str:
        """Why a run cannot begin with this many workers, or ""."""
        limit = self._limit
        need = limit
        while count and descriptors.reserve(need, count) + descriptors.LEAST > need:
            need += 1
        if need == limit:
            return ""
        return (
            f"{count} workers need {need} open files, and {limit} may be open; raise "
            "that limit (ulimit -Hn), or start fewer"
        )

    def refusal_to_scale(self, count: int) -> str:
        """Why this many workers in all are too many, or ""."""
        if count <= self._most:
            return ""
        if self._most == programs.MOST:
            return f"there can be {programs.MOST} workers at most"
        return (
            f"there are open files for {self._most} workers at most; raise their limit (ulimit "
            "-Hn) and start the run again"
        )
