"""Sans-I/O. The members of groups with presence, by node: what each node tells the others, so that
handlers are told about members whose node is gone.

A node publishes its members on the subject of their group, to which nodes listen that have members
of the group, too. A message with `all` replaces earlier ones: it is sent when a node gets its first
member of the group, when it is connected again, and when a message was missed. With `ask`, the
nodes that receive it answer with all of their own members.

If a node is gone, one of the others has its handlers told, for each group: the first one by name
that has members of the group. So messages that handlers publish then are published once. Nodes that
see different nodes, for example while the network is cut, may all have their handlers told, or none
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from wsraw.link.records import Relay

CHUNK: Final = 200
"""Members in one message."""

REFRESHED: Final = 200
"""Groups whose members are all sent again in a tick."""

GRACE: Final = 0.75
"""Seconds from when a node is found gone until handlers are told. Together with the time to find it
gone (EXPIRY), this is below 5 s, but longer than it takes to notice that NATS itself is gone: then
nothing is known about any node."""

RETURN: Final = 4.5
"""Seconds that other nodes have to come back after NATS was away."""

MOST_MEMBERS: Final = 1_000_000
"""Members of other nodes that are remembered; further ones are ignored."""

Member = tuple[str, str]
"""A member's user, and its pool."""

Members = dict[int, Member]


class Presence:
    """What one node knows about members. `say` publishes to the nodes with members of a group,
    `answer` tells one node, `deliver` gives the gateway a record if it can take it."""

    def __init__(
        self,
        name: str,
        say: Callable[[str, dict[str, Any]], object],
        answer: Callable[[str, str, dict[str, Any]], object],
        deliver: Callable[[Relay], bool],
        is_there: Callable[[str], bool],
    ) -> None:
        """`name`: this node's name. `is_there`: whether another node is alive."""
        self._name = name
        self._say = say
        self._answer = answer
        self._deliver = deliver
        self._is_there = is_there
        self._own: dict[str, Members] = {}
        self._others: dict[str, dict[str, Members]] = {}
        """Group → node → its members."""
        self._told: dict[str, dict[str, Members]] = {}
        """Group → node → its members that handlers were told have left, because the node is
        gone."""
        self._refresh: dict[str, None] = {}
        self._gone: dict[str, float] = {}
        """Nodes that are gone, and when that becomes certain."""
        self._unsure: dict[str, tuple[float, dict[str, Members]]] = {}
        """Nodes whose agent was started again: until when it may confirm members, and which of them
        it has not confirmed."""
        self._certain_at = 0.0
        """When it becomes known which nodes are there."""
        self._known = 0

    def __contains__(self, group: str) -> bool:
        return group in self._own

    # --- this node ---

    def receive(self, group: str, options: dict[str, Any]) -> None:
        """Handle what the gateway tells about its own members."""
        joined, left = options.get("in", ()), options.get("out", ())
        is_all = options.get("all")
        if is_all and not group:
            for each in set(self._own).difference(options.get("groups", ())):
                self._say(each, {"all": True})
                self._forget(each)
            return
        own = self._own.get(group)
        is_new = own is None
        if is_all:
            members: Members = {con: (user, pool) for con, user, pool in joined}
            if members == own:
                return
            self._own[group] = own = members
        elif own is None:
            own = self._own[group] = {}
        if not is_all:
            for con, user, pool in joined:
                own[con] = user, pool
            for con in left:
                own.pop(con, None)
        if is_all or is_new:
            self._refresh.pop(group, None)
            self._tell_all(group, ask=is_new)
        else:
            self._say(group, options)
        if not own:
            self._forget(group)

    def _forget(self, group: str) -> None:
        """Forget a group that has no members here any more: its messages do not reach us."""
        del self._own[group]
        self._told.pop(group, None)
        for members in self._others.pop(group, {}).values():
            self._known -= len(members)

    def _tell_all(self, group: str, ask: bool) -> None:
        for options in _chunks(self._own[group]):
            if ask:
                options["ask"] = True
                ask = False
            self._say(group, options)

    def lost(self) -> None:
        """The gateway is gone, and its members with it: other nodes tell their handlers."""
        for group in list(self._own):
            self._say(group, {"all": True, "dead": True})
            self._forget(group)

    def connected(self, now: float) -> None:
        """NATS is connected, for the first time or again: send all members, and ask for all."""
        self._certain_at = now + RETURN
        self._refresh.update(dict.fromkeys(self._own))

    # --- other nodes ---

    def missed(self, group: str) -> None:
        """A message about the group was missed, or could not be sent: send all members again, even
        if there are none."""
        if len(self._refresh) < MOST_MEMBERS:
            self._refresh[group] = None

    def heard(self, group: str, node: str, options: dict[str, Any]) -> None:
        """Handle what another node tells about its members, which may be anything."""
        own = self._own.get(group)
        if own is None:
            return
        nodes = self._others.setdefault(group, {})
        unsure: Members = {}
        if options.get("all"):
            before = nodes.pop(node, {})
            self._known -= len(before)
            unsure = self._unsure[node][1].get(group, {}) if node in self._unsure else {}
            if options.get("dead") is True:
                self._tell_gone(group, node, before)
        members = nodes.setdefault(node, {})
        size = len(members)
        for member in _list(options.get("in")):
            match member:
                case [int(con), str(user), str(pool)] if self._known < MOST_MEMBERS:
                    members[con] = user, pool
                    unsure.pop(con, None)
        for con in _list(options.get("out")):
            if isinstance(con, int):
                members.pop(con, None)
        self._known += len(members) - size
        if not members:
            del nodes[node]
        else:
            self._tell_back(group, node, members)
        if options.get("ask") is True:
            for chunk in _chunks(own):
                self._answer(node, group, chunk)

    # --- nodes that go, and come back ---

    def gone(self, node: str, now: float) -> None:
        """A node has left, or has been silent for too long."""
        self._gone[node] = now + GRACE

    def renewed(self, node: str, now: float) -> None:
        """Another process speaks for a node: if its gateway lives, it sends its members again."""
        before = {}
        for group, nodes in self._others.items():
            members = nodes.pop(node, None)
            if members is not None:
                self._known -= len(members)
                before[group] = members
        if before:
            self._unsure[node] = now + RETURN, before

    def restored(self, node: str) -> None:
        """The process heard before belonged to a second node with the same name, which now stays
        out: the members before it are still there. The node is asked for its members, as the other
        one may have sent its own."""
        _, before = self._unsure.pop(node, (0.0, {}))
        told = [group for group, nodes in self._others.items() if node in nodes]
        for group in dict.fromkeys((*before, *told)):
            if group not in self._own:
                continue
            nodes = self._others.setdefault(group, {})
            self._known -= len(nodes.pop(node, {}))
            members = before.get(group)
            if members:
                nodes[node] = members
                self._known += len(members)
            self.missed(group)

    def forget(self, node: str) -> None:
        """Forget a node that has been gone for long."""
        for group in list(self._told):
            self._told[group].pop(node, None)
            if not self._told[group]:
                del self._told[group]

    def tick(self, now: float, is_connected: bool) -> None:
        """To be called several times a second."""
        if not is_connected:
            # Perhaps only we are cut off.
            self._certain_at = now + RETURN
            return
        for group in list(islice(self._refresh, REFRESHED)):
            del self._refresh[group]
            if group in self._own:
                self._tell_all(group, ask=True)
            else:
                self._say(group, {"all": True})
        if now < self._certain_at:
            return
        for node, until in list(self._gone.items()):
            if self._is_there(node):
                del self._gone[node]
            elif now >= until:
                del self._gone[node]
                for group, nodes in list(self._others.items()):
                    members = nodes.pop(node, None)
                    if members is not None:
                        self._known -= len(members)
                        self._tell_gone(group, node, members)
        for node, (until, groups) in list(self._unsure.items()):
            if now >= until:
                del self._unsure[node]
                for group, members in groups.items():
                    if group in self._own:
                        self._tell_gone(group, node, members)

    def _tell_gone(self, group: str, node: str, members: Members) -> None:
        if members:
            self._told.setdefault(group, {})[node] = members
            self._tell("gone", group, node, members)

    def _tell_back(self, group: str, node: str, members: Members) -> None:
        told = self._told.get(group, {}).get(node)
        if told is None:
            return
        back = {con: members[con] for con in members if con in told}
        for con in back:
            del told[con]
        self._tell("back", group, node, back)

    def _tell(self, kind: str, group: str, node: str, members: Members) -> None:
        """Have the handlers here told, unless another node does it."""
        others = (each for each in self._others.get(group, ()) if each != node)
        if any(each < self._name for each in others if self._is_there(each)):
            return
        for chunk in _chunks(members):
            named = [[f"{node}/{con}", user, pool] for con, user, pool in chunk["in"]]
            if named:
                self._deliver(Relay(kind, group, options={"in": named}))


def _chunks(members: Members) -> Iterator[dict[str, Any]]:
    """Options that list all members, split into messages that are not too large."""
    listed = [[con, user, pool] for con, (user, pool) in members.items()]
    for at in range(0, max(1, len(listed)), CHUNK):
        options: dict[str, Any] = {"in": listed[at : at + CHUNK]}
        if not at:
            options["all"] = True
        yield options


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
