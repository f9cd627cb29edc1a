"""Sans-I/O. Members of groups whose gateway is gone: handlers here are told that these have left.

Such a member has no connection here, and events are of connections. So it gets a closed one for as
long as its on_leave takes: then all that is promised for events holds for its on_leave, too. The
gateway that is gone may come back, as after a cut cable; then on_join says so.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.link.records import GROUP_LIMIT, OnJoin, OnLeave

MOST_ABSENT: Final = 10_000
"""Events of such members that may wait for their handlers; further ones are dropped."""


class Absent:
    """The absent members of whom handlers are being told."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.entries: dict[Entry, None] = {}
        self.dropped = 0
        """Absent members of whom no handler was told, because too many waited."""

    def tell(self, kind: type[OnJoin | OnLeave], group: str, members: object) -> None:
        """Tell handlers that members of a group have gone, or are back. The data may be
        anything."""
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
        """Once a second: forget members whose handlers have returned."""
        for entry in list(self.entries):
            if entry.gone or not (entry.parked or entry.in_flight):
                del self.entries[entry]
                if not entry.gone:
                    self._registry.forget(entry)
