"""The members of a room at each node. Nodes with members of the room know them, and are told
once when a node has gone.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.cluster.test_core import Bus, Member, members
from wsraw.cluster.nodes import EXPIRY
from wsraw.cluster.presence import CHUNK, GRACE, RETURN
from wsraw.link.records import Relay

TICK = 0.25


class Room:
    """A group at the gateway of a node: what the gateway reports of it, and what it was told of
    other nodes.
    """

    def __init__(self, node: Member, group: str = "room") -> None:
        self.node = node
        self.group = group
        self.there: dict[int, str] = {}

    def join(self, *cons: int, user: str = "") -> Room:
        for con in cons:
            if not self.there:
                self.node.watch(self.group)
            self.there[con] = user
            named = [[con, user, "default"]]
            self.node.say(Relay("presence", self.group, options={"in": named}))
        return self

    def leave(self, *cons: int) -> None:
        for con in cons:
            del self.there[con]
            if not self.there:
                self.node.watch(self.group, False)
            self.node.say(Relay("presence", self.group, options={"out": [con]}))

    def told(self, kind: str = "gone") -> list[str]:
        """The members of whom handlers were told here, in order."""
        found = []
        for relay in self.node.taken(kind):
            if relay.name == self.group:
                found += [ref for ref, _, _ in relay.options["in"]]
        return found

    def knows(self) -> dict[str, list[int]]:
        nodes = self.node.core.presence._others.get(self.group, {})
        return {name: sorted(members) for name, members in sorted(nodes.items())}


def rooms(*names: str) -> tuple[Bus, list[Room]]:
    bus, made = members(*names)
    return bus, [Room(node) for node in made]


def die(bus: Bus, node: Member) -> None:
    """Let a node die without a goodbye."""
    bus.members.remove(node)


def test_nodes_with_members_know_those_of_each_other() -> None:
    bus, (a, b, c) = rooms("a", "b", "c")
    a.join(1, 2)
    bus.run()
    b.join(3)
    bus.run()
    assert (a.knows(), b.knows(), c.knows()) == ({"b": [3]}, {"a": [1, 2]}, {})
    a.leave(1)
    a.join(4)
    c.join(5)
    bus.run()
    assert b.knows() == {"a": [2, 4], "c": [5]}
    assert c.knows() == {"a": [2, 4], "b": [3]}
    b.leave(3)
    bus.run()
    assert a.knows() == {"c": [5]}
    assert b.knows() == {}


@pytest.mark.parametrize("dead", ["a", "b", "c"])
def test_members_of_a_node_that_died_are_told_once_within_five_seconds(dead: str) -> None:
    bus, made = rooms("a", "b", "c")
    for n, room in enumerate(made):
        room.join(n, n + 10, user=f"user {n}")
    bus.wait(RETURN + 1.0)
    gone = next(room for room in made if room.node.name == dead)
    left = [room for room in made if room is not gone]
    die(bus, gone.node)
    bus.wait(EXPIRY - TICK)
    assert left[0].told() == left[1].told() == []
    bus.wait(5.0 - EXPIRY)
    assert left[0].told() == [f"{dead}/{con}" for con in sorted(gone.there)]
    assert left[1].told() == []
    (relay,) = left[0].node.taken("gone")
    assert relay.options["in"][0][1:] == [f"user {min(gone.there)}", "default"]
    bus.wait(20.0)
    assert len(left[0].told()) == 2


def test_only_nodes_with_members_of_the_group_tell() -> None:
    bus, (a, b, c) = rooms("a", "b", "c")
    b.join(1)
    c.join(2)
    Room(a.node, "other").join(3)
    bus.wait(RETURN + 1.0)
    die(bus, c.node)
    bus.wait(5.0)
    assert (a.told(), b.told()) == ([], ["c/2"])


def test_a_node_that_says_goodbye_has_told_its_own_handlers() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2, 3)
    bus.wait(RETURN + 1.0)
    b.leave(2, 3)
    b.node.core.bye()
    b.node.carry_out()
    bus.run()
    die(bus, b.node)
    bus.wait(10.0)
    assert a.told() == []


def test_a_gateway_that_dies_leaves_its_agent_to_tell() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2, 3)
    bus.wait(1.0)
    b.node.core.lost(bus.now)
    b.node.carry_out()
    bus.run()
    assert a.told() == ["b/2", "b/3"]
    b.there = {}
    b.join(9)
    bus.run()
    assert a.knows() == {"b": [9]}
    assert a.told("back") == []


def test_members_of_a_node_that_was_cut_off_are_back_with_it() -> None:
    bus, (a, b, c) = rooms("a", "b", "c")
    for n, room in enumerate((a, b, c)):
        room.join(n)
    bus.wait(RETURN + 1.0)
    bus.cut.add("b")
    bus.wait(10.0)
    # The agent of the node notices that it has no NATS, and so knows nothing of other nodes.
    assert (a.told(), c.told()) == (["b/1"], [])
    b.join(7)
    bus.cut.clear()
    b.node.core.connected(bus.now)
    b.node.carry_out()
    bus.wait(5.0)
    assert (a.told("back"), c.told("back")) == (["b/1"], [])
    assert a.knows() == {"b": [1, 7], "c": [2]}


def test_while_nats_is_away_nobody_is_told_to_have_left() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.wait(RETURN + 1.0)
    bus.cut.update("ab")
    for room in (a, b):
        room.node.why = "not_sent"
    bus.wait(30.0)
    b.join(3)
    b.leave(2)
    bus.cut.clear()
    for room in (a, b):
        room.node.why = ""
        room.node.core.connected(bus.now)
        room.node.carry_out()
    bus.wait(10.0)
    assert a.told() == b.told() == []
    assert (a.knows(), b.knows()) == ({"b": [3]}, {"a": [1]})


def test_a_node_that_has_died_while_nats_was_away_is_told_then() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.wait(RETURN + 1.0)
    a.node.why = "not_sent"
    bus.wait(1.0)
    die(bus, b.node)
    bus.wait(30.0)
    assert a.told() == []
    a.node.why = ""
    a.node.core.connected(bus.now)
    a.node.carry_out()
    bus.wait(RETURN + TICK)
    assert a.told() == ["b/2"]


def test_an_agent_that_begins_anew_tells_who_is_there() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.wait(1.0)
    die(bus, b.node)
    again = Room(Member(bus, "b", began=5.0))
    again.node.core.connected(bus.now)
    again.node.carry_out()
    again.join(2)
    bus.wait(10.0)
    assert a.told() == []
    # Now the node dies together with its gateway.
    die(bus, again.node)
    other = Room(Member(bus, "b", began=9.0))
    other.node.core.connected(bus.now)
    other.node.carry_out()
    bus.wait(5.0)
    assert a.told() == ["b/2"]


def test_a_second_node_with_the_name_of_another_takes_nobody_away() -> None:
    """Other nodes were once told that the members of the first node had left, and their logs had
    two lines a second.
    """
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2, 3)
    bus.wait(RETURN + 1.0)
    second = Room(Member(bus, "b", began=5.0))
    second.node.core.connected(bus.now)
    second.node.carry_out()
    second.join(2, 7)
    bus.wait(20.0)
    assert a.told() == a.told("back") == []
    assert a.knows() == {"b": [2, 3]}
    assert a.node.news == [
        "node b is there", "node b is there",
        "two nodes are called b: the one that was started later keeps out",
    ]  # fmt: skip
    die(bus, b.node)
    bus.wait(EXPIRY + RETURN + 1.0)
    assert a.told() == ["b/3"], "2 is there again"
    assert a.knows() == {"b": [2, 7]}
    presence = a.node.core.presence
    assert presence._known == 2


def test_what_was_missed_is_asked_for() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.run()
    bus.cut.add("a")
    b.join(3, 4)
    bus.run()
    bus.cut.clear()
    assert a.knows() == {"b": [2]}
    b.join(5)
    bus.run()
    bus.wait(TICK)
    assert a.knows() == {"b": [2, 3, 4, 5]}


def test_a_member_that_left_while_nats_was_away_is_not_there_afterwards() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.run()
    b.node.why = "not_sent"
    b.leave(2)
    bus.run()
    assert a.knows() == {"b": [2]}
    b.node.why = ""
    bus.wait(1.0)
    assert a.knows() == {}
    die(bus, b.node)
    bus.wait(10.0)
    assert a.told() == []


def test_the_gateway_may_tell_all_anew() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2, 3)
    other = Room(b.node, "other").join(9)
    bus.run()
    assert not bus.queue
    every = {"groups": ["room"], "all": True}
    b.node.say(Relay("presence", "", options=every))
    now = [[2, "", "default"], [3, "", "default"]]
    b.node.say(Relay("presence", "room", options={"in": now, "all": True}))
    # The only change is that the other group is not reported any more.
    assert not bus.queue
    assert other.group not in b.node.core.presence
    b.node.say(Relay("presence", "room", options={"in": now[1:], "all": True}))
    bus.run()
    assert a.knows() == {"b": [3]}
    # Records of presence are not counted, as they are repeated.
    assert b.node.core.counts["sent"] == a.node.core.counts["received"] == 0


def test_many_members_are_told_in_pieces() -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(0)
    cons = range(1, 3 * CHUNK + 5)
    b.node.watch("room")
    named = [[con, f"user {con}", "default"] for con in cons]
    b.node.say(Relay("presence", "room", options={"in": named, "all": True}))
    bus.run()
    assert a.knows() == {"b": list(cons)}
    die(bus, b.node)
    bus.wait(RETURN + 6.0)
    assert a.told() == [f"b/{con}" for con in cons]
    assert max(len(relay.options["in"]) for relay in a.node.taken("gone")) <= CHUNK


@pytest.mark.parametrize(
    "options",
    [
        {"in": 5},
        {"in": [5, [1], [1, 2, 3], ["1", "a", "b"], [1, "a"]], "out": ["x", None]},
        {"out": 7, "all": "yes", "ask": "yes"},
        {"all": True, "dead": "yes", "ask": 1},
    ],
)
def test_whatever_a_node_says_of_its_members_harms_nobody(options: dict[str, Any]) -> None:
    bus, (a, b) = rooms("a", "b")
    a.join(1)
    b.join(2)
    bus.run()
    b.node.core._say_presence("room", options)
    b.node.core._answer_presence("a", "room", options)
    b.node.core._answer_presence("a", "no such room", options)
    b.node.carry_out()
    bus.run()
    b.join(3)
    bus.run()
    assert 3 in a.knows()["b"]


@pytest.mark.parametrize("seed", range(20))
def test_all_know_the_same_once_all_is_quiet(seed: int) -> None:
    chance = random.Random(seed)
    bus, made = rooms("a", "b", "c", "d")
    cons = iter(range(10_000))
    for _ in range(300):
        room = chance.choice(made)
        what = chance.random()
        if what < 0.5:
            room.join(next(cons))
        elif what < 0.8 and room.there:
            room.leave(chance.choice(list(room.there)))
        elif what < 0.85:
            bus.cut ^= {room.node.name}
        else:
            bus.wait(chance.choice([TICK, 1.0, 3.0]))
        if chance.random() < 0.5:
            bus.run()
    bus.cut.clear()
    bus.run()
    for room in made:
        room.node.core.connected(bus.now)
        room.node.carry_out()
    bus.wait(15.0)
    for room in made:
        others = {
            other.node.name: sorted(other.there)
            for other in made
            if other is not room and other.there
        }
        assert room.knows() == (others if room.there else {})
        presence = room.node.core.presence
        known = [m for nodes in presence._others.values() for m in nodes.values()]
        assert presence._known == sum(map(len, known))


def test_grace_and_expiry_are_below_five_seconds() -> None:
    assert EXPIRY + GRACE + 2 * TICK < 5.0
