"""Sans-I/O. Which connections are in which group."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Final

from wsraw.gateway.delivery.accounts import MEMBER, Flow
from wsraw.gateway.delivery.entry import Entry
from wsraw.link.records import GROUP_LIMIT

MOST_GROUPS: Final = 1000
"""Of one connection."""


class Groups:
    """Members by group; a group exists while it has any. Members are in the order they joined."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._members: dict[str, dict[Entry, None]] = {}

    def join(self, entry: Entry, group: str) -> str | None:
        """Joining twice is joining once. Gives why it cannot be."""
        if len(group) > GROUP_LIMIT:
            return f"the name of a group has at most {GROUP_LIMIT} characters"
        if entry.groups is None:
            entry.groups = set()
        if len(entry.groups) >= MOST_GROUPS and group not in entry.groups:
            return f"connection {entry.id} is in {MOST_GROUPS} groups already"
        if group not in entry.groups:
            entry.groups.add(group)
            self._flow.keep_for(entry, _weight(group))
        self._members.setdefault(group, {})[entry] = None
        return None

    def leave(self, entry: Entry, group: str) -> None:
        """Leaving what one is not in is fine."""
        if entry.groups is not None and group in entry.groups:
            entry.groups.discard(group)
            self._flow.keep_for(entry, -_weight(group))
        members = self._members.get(group)
        if members is not None:
            members.pop(entry, None)
            if not members:
                del self._members[group]

    def forget(self, entry: Entry) -> None:
        """The connection is gone: it leaves all its groups."""
        for group in list(entry.groups or ()):
            self.leave(entry, group)

    def members(self, group: str) -> Collection[Entry]:
        """Who is in the group now."""
        return self._members.get(group, {}).keys()


def _weight(group: str) -> int:
    return MEMBER + sys.getsizeof(group)
