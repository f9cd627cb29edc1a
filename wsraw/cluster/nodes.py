"""Sans-I/O. The other nodes: who is alive, and whether another one has our name."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

BEAT: Final = 1.0
"""Seconds between two heartbeats of a node."""

EXPIRY: Final = 3.5
"""Seconds after the last heartbeat of a node after which it is gone."""

KEEP: Final = 600.0
"""Seconds for which the numbers of a node that is gone are kept: if it comes back, what was lost
meanwhile is counted."""

MOST_NODES: Final = 10_000
"""Nodes that are known at a time: further ones are not seen. Bad input must not fill our memory."""

CLASHES: Final = 2
"""Heartbeats of another process with our name that make a clash: one may be late, of the process
before us."""


class Node(NamedTuple):
    """Another node, by its last heartbeat."""

    name: str
    life: str
    began: float
    """When its agent was started, in seconds since 1970."""
    place: str
    """Its machine and process."""
    heard_at: float


class Nodes:
    """All nodes but this one."""

    def __init__(self, name: str, life: str, began: float) -> None:
        self.name = name
        self.life = life
        self.began = began
        self.others: dict[str, Node] = {}
        self.twin: Node | None = None
        """The last one that was heard with our name."""
        self._clashes = 0
        self._gone: dict[str, float] = {}
        """Those that have gone, and when."""

    def heard(self, name: str, life: str, about: dict[str, Any], now: float) -> bool:
        """A heartbeat has come; True: it is of a node that was not known."""
        began, place = about.get("began"), about.get("place")
        if not isinstance(began, float) or not isinstance(place, str):
            return False
        node = Node(name, life, began, place[:200], now)
        if name == self.name:
            if life != self.life:
                self._clashes += 1
                self.twin = node
            return False
        if name not in self.others and len(self.others) >= MOST_NODES:
            return False
        before = self.others.get(name)
        self.others[name] = node
        self._gone.pop(name, None)
        return before is None or before.life != life

    def left(self, name: str, life: str, now: float) -> bool:
        """A node says that it goes; True if it was known."""
        node = self.others.get(name)
        if node is None or node.life != life:
            return False
        del self.others[name]
        self._gone[name] = now
        return True

    def expire(self, now: float) -> list[str]:
        """Forget the nodes that have been silent for too long; give their names."""
        gone = [each.name for each in self.others.values() if now - each.heard_at > EXPIRY]
        for name in gone:
            del self.others[name]
            self._gone[name] = now
        if self.twin is not None and now - self.twin.heard_at > EXPIRY:
            self.twin = None
            self._clashes = 0
        return gone

    def forget(self, now: float) -> list[str]:
        """The names of those that have been gone for long, once each."""
        found = [name for name, since in self._gone.items() if now - since > KEEP]
        for name in found:
            del self._gone[name]
        return found

    @property
    def clash(self) -> Node | None:
        """The node that has our name, if that is certain."""
        return self.twin if self._clashes >= CLASHES else None

    @property
    def must_leave(self) -> bool:
        """Whether another node has our name, and had it first."""
        twin = self.clash
        return twin is not None and (twin.began, twin.life) < (self.began, self.life)
