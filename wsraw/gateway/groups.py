"""Sans-I/O. Which connections are in which group."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Final

from wsraw.gateway.flow import Flow
from wsraw.gateway.route import Route
from wsraw.gateway.weights import MEMBER
from wsraw.messages import GROUP_LIMIT

MOST_GROUPS: Final = 1000
"""Of one connection."""


class Groups:
    """Members by group; a group exists while it has any. Members are in the order they joined."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._members: dict[str, dict[Route, None]] = {}

    def join(self, route: Route, group: str) -> str | None:
        """Joining twice is joining once. Gives why it cannot be."""
        if len(group) > GROUP_LIMIT:
            return f"the name of a group has at most {GROUP_LIMIT} characters"
        if route.groups is None:
            route.groups = set()
        if len(route.groups) >= MOST_GROUPS and group not in route.groups:
            return f"connection {route.id} is in {MOST_GROUPS} groups already"
        if group not in route.groups:
            route.groups.add(group)
            self._flow.keep_for(route, _weight(group))
        self._members.setdefault(group, {})[route] = None
        return None

    def leave(self, route: Route, group: str) -> None:
        """Leaving what one is not in is fine."""
        if route.groups is not None and group in route.groups:
            route.groups.discard(group)
            self._flow.keep_for(route, -_weight(group))
        members = self._members.get(group)
        if members is not None:
            members.pop(route, None)
            if not members:
                del self._members[group]

    def forget(self, route: Route) -> None:
        """The connection is gone: it leaves all its groups."""
        for group in list(route.groups or ()):
            self.leave(route, group)

    def members(self, group: str) -> Collection[Route]:
        """Who is in the group now."""
        return self._members.get(group, {}).keys()


def _weight(group: str) -> int:
    return MEMBER + sys.getsizeof(group)
