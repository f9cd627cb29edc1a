"""Sans-I/O. Members of groups whose gateway is gone: handlers here are told that they have left.

Such a member has no connection here, and events are of connections. So it gets one that is closed,
for as long as its on_leave takes: with that, all that is promised for events holds for this one,
too. The gateway that is gone may come back, as after a cut cable; then on_join says so.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.link.records import GROUP_LIMIT, OnJoin, OnLeave

MOST_ABSENT: Final = 10_000
"""Events of such members that wait for their handlers; further ones are dropped."""


class Absent:
    """The members that handlers are being told of."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.entries: dict[Entry, None] = {}
        self.dropped = 0
        """Members of whom no handler was told, as too many waited."""

    def tell(self, kind: type[OnJoin | OnLeave], group: str, members: object) -> None:
        """Members of a group have gone, or are there again. What comes may be anything."""
        if not isinstance(members, list) or not 0 < len(group) <= GROUP_LIMIT:
            return
        for member in members:
            match member:
                case [str(ref), str(user), str(pool)] if max(len(ref), len(user)) <= GROUP_LIMIT:
                    self._tell_of(kind, group, ref, user, pool)

    def _tell_of(
        self, kind: type[OnJoin | OnLeave], group: str, ref: str, user: str, name: str
    ) -> None:
        registry = self._registry
        pool = registry.pools.get(name)
        if pool is None or kind not in pool.hears:
            return
        if len(self.entries) >= MOST_ABSENT:
            self.dropped += 1
            return
        about: dict[str, Any] = {"ref": ref}
        if user:
            about["user"] = user
        entry = registry.stand_in(about, pool)
        self.entries[entry] = None
        registry.groups.tell(entry, kind(0, entry.id, group), registry.flow.now)

    def tick(self) -> None:
        """Once a second, forget members whose handlers have returned."""
        for entry in list(self.entries):
            if entry.gone or not (entry.parked or entry.in_flight):
                del self.entries[entry]
                if not entry.gone:
                    self._registry.forget(entry)
