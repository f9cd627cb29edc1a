"""Sans-I/O. The other nodes: who is alive, and whether another one has our name."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

BEAT: Final = 1.0
"""Seconds between two heartbeats of a node."""

EXPIRY: Final = 3.5
"""Seconds after the last heartbeat of a node after which it is gone."""

KEEP: Final = 600.0
"""Seconds for which the numbers of a node that is gone are kept: if it comes back, the messages
that were lost meanwhile are counted."""

MOST_NODES: Final = 10_000
"""Nodes that are known at a time; further ones are ignored, so that bad input cannot fill the
memory."""

CLASHES: Final = 2
"""Heartbeats with our name from another process that count as a clash: a single one may be a late
heartbeat of the process before us."""


Finding = Literal["", "new", "renewed", "restored"]
"""What a heartbeat tells about a node. "": nothing new. new: the node is there. renewed: it is
there, and another process speaks for it than before. restored: it is there, and the process heard
before belonged to a second node with the same name, which now stays out."""


class Node(NamedTuple):
    """Another node, by its last heartbeat."""

    name: str
    instance: str
    began: float
    """When its agent was started, in seconds since 1970."""
    place: str
    """Its machine and process."""
    heard_at: float


class Nodes:
    """All nodes but this one."""

    def __init__(self, name: str, instance: str, began: float) -> None:
        self.name = name
        self.instance = instance
        self.began = began
        self.others: dict[str, Node] = {}
        self.twin: Node | None = None
        """Another node with our name; if there are several, the one that was started first."""
        self._clashes = 0
        self._later: dict[str, str] = {}
        """Name → the instance of a second node with that name, which is ignored."""
        self._gone: dict[str, tuple[float, str]] = {}
        """The nodes that have gone: when, and their last instance."""

    def heard(self, name: str, instance: str, about: dict[str, Any], now: float) -> Finding:
        """Handle a heartbeat."""
        began, place = about.get("began"), about.get("place")
        if not isinstance(began, float) or not isinstance(place, str):
            return ""
        node = Node(name, instance, began, place[:200], now)
        if name == self.name:
            self._heard_own(node)
            return ""
        before = self.others.get(name)
        if before is None:
            if len(self.others) >= MOST_NODES:
                return ""
        elif self.keeps_out(name, instance):
            return ""
        self.others[name] = node
        _, gone = self._gone.pop(name, (0.0, instance))
        if before is None:
            return "new" if gone == instance else "renewed"
        if before.instance == instance:
            return ""
        if _is_earlier(node, before):
            # The process with this name still lives, so the one heard before was not its successor.
            self._later[name] = before.instance
            return "restored"
        return "renewed"

    def _heard_own(self, node: Node) -> None:
        if node.instance == self.instance:
            return
        self._clashes += 1
        if self.twin is None or node.instance == self.twin.instance or _is_earlier(node, self.twin):
            self.twin = node

    def keeps_out(self, name: str, instance: str) -> bool:
        """Whether a process belongs to a second node with the name of a node that is there. It may
        have sent something before it noticed."""
        return instance == self._later.get(name)

    def left(self, name: str, instance: str, now: float) -> bool:
        """A node announces that it leaves; True if it was known."""
        node = self.others.get(name)
        if node is None or node.instance != instance:
            return False
        self._lose(name, now)
        return True

    def _lose(self, name: str, now: float) -> None:
        self._gone[name] = now, self.others.pop(name).instance
        self._later.pop(name, None)

    def expire(self, now: float) -> list[str]:
        """Forget the nodes that have been silent for too long; return their names."""
        gone = [each.name for each in self.others.values() if now - each.heard_at > EXPIRY]
        for name in gone:
            self._lose(name, now)
        if self.twin is not None and now - self.twin.heard_at > EXPIRY:
            self.twin = None
            self._clashes = 0
        return gone

    def forget(self, now: float) -> list[str]:
        """The names of the nodes that have been gone for long, once each."""
        found = [name for name, (since, _) in self._gone.items() if now - since > KEEP]
        for name in found:
            del self._gone[name]
        return found

    @property
    def clash(self) -> Node | None:
        """The other node that has our name, if that is certain."""
        return self.twin if self._clashes >= CLASHES else None

    @property
    def must_leave(self) -> bool:
        """Whether another node has our name, and had it first."""
        twin = self.clash
        return twin is not None and (twin.began, twin.instance) < (self.began, self.instance)


def _is_earlier(node: Node, other: Node) -> bool:
    """Whether one process was started before another one."""
    return (node.began, node.instance) < (other.began, other.instance)
