"""Sans-I/O. Connections by name: the members of groups, or the connections of users."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection
from itertools import islice

from wsraw.gateway.delivery.entry import Entry


class Table:
    """Members by name, in the order in which they were added. A name exists while it has
    members."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Entry, int]] = {}
        """By name, the members, each with a number that grows with every one added, so that a
        listing can continue even if members have left."""
        self._added = 0
        self.watcher: Callable[[str, bool], object] | None = None
        """Called with a name and True when it gets its first member, and with False when it loses
        its last one."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> Collection[str]:
        """All names that have members."""
        return self._members.keys()

    def add(self, name: str, entry: Entry) -> None:
        """Add a connection that is not there yet."""
        members = self._members.get(name)
        is_first = members is None
        if members is None:
            members = self._members[name] = {}
        self._added += 1
        members[entry] = self._added
        if is_first and self.watcher is not None:
            self.watcher(name, True)

    def remove(self, name: str, entry: Entry) -> None:
        """Remove a connection that is there."""
        members = self._members[name]
        del members[entry]
        if not members:
            del self._members[name]
            if self.watcher is not None:
                self.watcher(name, False)

    def of(self, name: str) -> Collection[Entry]:
        """The present members: a view, not a copy."""
        return self._members.get(name, {}).keys()

    def page(self, name: str, after: int, most: int) -> tuple[list[int], int]:
        """The ids of up to this many members that were added after the one with number `after`, and
        the number of the last one if there are more, else 0."""
        members = self._members.get(name)
        if members is None:
            return [], 0
        start = bisect_right(list(members.values()), after) if after else 0
        page = list(islice(members, start, start + most))
        if start + len(page) >= len(members):
            return [entry.id for entry in page], 0
        return [entry.id for entry in page], members[page[-1]] if page else after
