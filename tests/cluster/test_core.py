"""Several cores on a bus that loses, repeats and reorders messages, as NATS and a network may
do.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsraw.cluster.core import ANSWER_WITHIN, LINGER, MOST_QUESTIONS, Core
from wsraw.cluster.nodes import BEAT, EXPIRY, Nodes
from wsraw.link.records import Envelope, Relay, Watch, decode_envelope, encode


class Member:
    """A node: its core, and the records that its gateway was given."""

    def __init__(self, bus: Bus, name: str, began: float = 0.0) -> None:
        self.bus = bus
        self.name = name
        self.why = ""
        self.takes = True
        self.given: list[Relay] = []
        self.groups: dict[str, list[int]] = {}
        self.subscribed: set[str] = set()
        self.news: list[str] = []
        nodes = Nodes(name, f"instance of {name} {began}", began)
        self.core = Core("c", nodes, f"host of {name}", lambda size: self.why, self.deliver)
        bus.members.append(self)
        self.carry_out()

    def deliver(self, relay: Relay) -> bool:
        if not self.takes:
            return False
        self.given.append(relay)
        if relay.kind == "ask":
            value: Any = self.groups.get(relay.name, [])
            value = len(value) if relay.type == "count" else value
            answer = Relay("answer", relay.name, options={**relay.options, "value": value})
            self.core.receive(answer, self.bus.now)
        return True

    def carry_out(self) -> None:
        core = self.core
        wanted, core.wanted = core.wanted, {}
        for subject, on in wanted.items():
            (self.subscribed.add if on else self.subscribed.discard)(subject)
        to_bus, core.to_bus = core.to_bus, []
        for subject, data in to_bus:
            self.bus.publish(self, subject, data)
        news, core.news = core.news, []
        self.news += [text for _, text in news]

    def say(self, record: Watch | Relay) -> None:
        self.core.receive(record, self.bus.now)
        self.carry_out()

    def watch(self, group: str, on: bool = True) -> None:
        self.say(Watch(group, on))

    def publish(self, group: str, data: bytes) -> None:
        self.say(Relay("publish", group, data, "text"))

    def taken(self, kind: str) -> list[Any]:
        return [relay for relay in self.given if relay.kind == kind]

    def data(self) -> list[bytes]:
        return [relay.data for relay in self.taken("publish")]


class Bus:
    """NATS: no echo, in order, with `fate` for each message to each member."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.queue: deque[tuple[Member, str, bytes]] = deque()
        self.now = 0.0
        self.cut: set[str] = set()
        """Names of nodes that NATS does not reach, without their knowing."""

    def publish(self, sender: Member, subject: str, data: bytes) -> None:
        if sender.name in self.cut:
            return
        for member in self.members:
            if member is not sender and subject in member.subscribed:
                self.queue.append((member, subject, data))

    def run(self) -> None:
        while self.queue:
            member, subject, data = self.queue.popleft()
            if member.name not in self.cut:
                member.core.heard(subject, data, self.now)
                member.carry_out()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            for member in self.members:
                member.core.tick(self.now)
                member.carry_out()
            self.run()


def members(*names: str) -> tuple[Bus, list[Member]]:
    bus = Bus()
    made = [Member(bus, name) for name in names]
    for each in made:
        each.core.connected(0.0)
        each.carry_out()
    bus.run()
    return bus, made


def test_nodes_know_each_other_as_soon_as_they_are_connected() -> None:
    bus, (a, b) = members("a", "b")
    assert set(a.core.nodes.others) == {"b"}
    assert set(b.core.nodes.others) == {"a"}
    late = Member(bus, "late")
    late.core.connected(0.0)
    late.carry_out()
    bus.run()
    assert set(late.core.nodes.others) == {"a", "b"}


def test_a_publish_reaches_the_nodes_with_members_in_order_and_not_its_own() -> None:
    bus, (a, b, c) = members("a", "b", "c")
    for each in (a, b):
        each.watch("room.*")
    for n in range(5):
        a.publish("room.*", b"%d" % n)
    bus.run()
    assert b.data() == [b"0", b"1", b"2", b"3", b"4"]
    assert {relay.name for relay in b.given} == {"room.*"}
    assert a.given == c.given == []


def test_a_user_is_no_group_of_that_name() -> None:
    bus, (a, b, c) = members("a", "b", "c")
    b.say(Watch("ann", True, "user"))
    c.watch("ann")
    a.say(Relay("user", "ann", b"x", "text"))
    a.publish("ann", b"y")
    bus.run()
    assert [(r.kind, r.name, r.data) for r in b.given] == [("user", "ann", b"x")]
    assert [(r.kind, r.name, r.data) for r in c.given] == [("publish", "ann", b"y")]


def test_a_group_without_members_is_listened_to_a_moment_longer() -> None:
    bus, (a, b) = members("a", "b")
    b.watch("g")
    subscribed = set(b.subscribed)
    b.watch("g", False)
    bus.wait(LINGER / 2)
    assert b.subscribed == subscribed
    b.watch("g")
    bus.wait(2 * LINGER)
    assert b.subscribed == subscribed
    b.watch("g", False)
    bus.wait(2 * LINGER)
    assert len(b.subscribed) == len(subscribed) - 1
    assert b.core.subscriptions == 0
    a.publish("g", b"x")
    bus.run()
    assert b.data() == []


def test_a_lost_gateway_has_no_members() -> None:
    bus, (_, b) = members("a", "b")
    b.watch("g")
    b.core.lost(bus.now)
    bus.wait(2 * LINGER)
    assert b.core.subscriptions == 0
    b.watch("g")
    assert b.core.all_subjects() == ["c.all", "c.node.b", "c.group.g"]


def test_what_cannot_be_sent_is_counted_and_leaves_no_gap() -> None:
    bus, (a, b) = members("a", "b")
    b.watch("g")
    a.publish("g", b"1")
    a.why = "not_sent"
    a.publish("g", b"2")
    a.why = "too_large"
    a.publish("g", b"3")
    a.why = ""
    a.publish("g", b"4")
    bus.run()
    assert b.data() == [b"1", b"4"]
    assert (a.core.counts["not_sent"], a.core.counts["too_large"]) == (1, 1)
    assert a.core.counts["sent"] == 2
    assert b.core.counts["missed"] == 0


def test_what_is_lost_on_the_way_is_counted_where_it_does_not_come() -> None:
    bus, (a, b) = members("a", "b")
    b.watch("g")
    a.publish("g", b"1")
    bus.run()
    bus.cut = {"b"}
    for _ in range(7):
        a.publish("g", b"lost")
    # The cut lasts until each node considers the other one gone.
    bus.wait(EXPIRY + 2)
    assert b.core.nodes.others == {}
    bus.cut = set()
    bus.wait(2)
    a.publish("g", b"2")
    bus.run()
    assert b.data() == [b"1", b"2"]
    assert b.core.counts["missed"] == 7


def test_what_the_gateway_does_not_take_is_counted() -> None:
    bus, (a, b) = members("a", "b")
    b.watch("g")
    b.takes = False
    a.publish("g", b"1")
    bus.run()
    assert (b.core.counts["undelivered"], b.core.counts["received"]) == (1, 0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.3), st.floats(0, 0.3))
def test_nothing_is_doubled_or_reordered_and_every_loss_is_counted(
    seed: int, loss: float, late: float
) -> None:
    """The bus is worse than NATS: messages are lost, repeated and late."""
    chance = random.Random(seed)
    bus, (a, b, c) = members("a", "b", "c")
    for each in (a, b, c):
        each.watch("g")
    for member in (a, b, c):
        # Publish once at the beginning and once at the end, so that each stream and its end are
        # known.
        member.publish("g", b"%s 0" % member.name.encode())
    bus.run()
    for n in range(1, 60):
        sender = chance.choice([a, b, c])
        sender.publish("g", b"%s %d" % (sender.name.encode(), n))
    queue = list(bus.queue)
    for index in range(len(queue) - 1):
        if chance.random() < late:
            at = chance.randrange(index, len(queue))
            queue.insert(at, queue.pop(index))
    queue = [each for each in queue for _ in range(chance.choice([1, 1, 2]))]
    bus.queue = deque(each for each in queue if chance.random() >= loss)
    bus.run()
    for member in (a, b, c):
        member.publish("g", b"%s 99" % member.name.encode())
    bus.run()
    for member in (a, b, c):
        by_sender: dict[bytes, list[int]] = {}
        for data in member.data():
            name, number = data.split()
            by_sender.setdefault(name, []).append(int(number))
        assert member.name.encode() not in by_sender
        for numbers in by_sender.values():
            assert numbers == sorted(set(numbers))
        sent = sum(each.core.counts["sent"] for each in (a, b, c) if each is not member)
        assert len(member.data()) + member.core.counts["missed"] == sent


# --- references ---


def test_a_message_for_a_connection_goes_to_its_node_alone() -> None:
    bus, (a, b, c) = members("a", "b", "c")
    a.say(Relay("send", "b/77", b"x", "text"))
    a.say(Relay("close", "b/77", options={"code": 4000, "reason": "y"}))
    bus.run()
    assert [(r.kind, r.name, r.data, r.type) for r in b.given] == [
        ("send", "77", b"x", "text"),
        ("close", "77", b"", "binary"),
    ]
    assert b.given[1].options == {"code": 4000, "reason": "y"}
    assert c.given == []


def test_a_kick_goes_to_a_node_or_to_those_who_have_the_user() -> None:
    bus, (a, b, c) = members("a", "b", "c")
    options = {"code": 4000, "reason": "x"}
    b.say(Watch("ann", True, "user"))
    b.watch("ann")
    a.say(Relay("kick", "c/7", options=options))
    a.say(Relay("kick_user", "ann", options=options))
    bus.run()
    assert [(r.kind, r.name, r.options) for r in c.given] == [("kick", "7", options)]
    assert [(r.kind, r.name, r.options) for r in b.given] == [("kick_user", "ann", options)]
    # A group cannot be kicked: such a record counts as a published message.
    a.core._say("c.group.ann", Envelope("", "", "kick", options=options))
    a.carry_out()
    bus.run()
    assert b.given[-1].kind == "publish"


def test_a_message_for_a_node_that_is_not_there_is_not_sent() -> None:
    _, (a, _b) = members("a", "b")
    for ref in ("nobody/7", "*/7", ">/7", "a b/7", "/7", "7"):
        a.say(Relay("send", ref, b"x"))
    assert a.core.counts["not_sent"] == 6


# --- questions ---


@pytest.mark.parametrize(
    ("what", "values"), [("count", {"b": 2, "c": 1}), ("members", {"b": [1, 2], "c": [3]})]
)
def test_a_question_is_answered_by_all_nodes(what: str, values: dict[str, Any]) -> None:
    bus, (a, b, c) = members("a", "b", "c")
    b.groups["g"], c.groups["g"] = [1, 2], [3]
    a.say(Relay("ask", "g", type=what, options={"ref": 9}))
    bus.run()
    (answer,) = a.taken("answer")
    assert answer.options == {"ref": 9, "answers": values}


def test_a_node_without_a_gateway_answers_that_there_is_nobody() -> None:
    bus, (a, b) = members("a", "b")
    b.takes = False
    a.say(Relay("ask", "g", type="count", options={"ref": 9}))
    bus.run()
    (answer,) = a.taken("answer")
    assert answer.options == {"ref": 9, "answers": {"b": None}}


def test_a_question_does_not_wait_for_a_node_that_says_nothing() -> None:
    bus, (a, b, c) = members("a", "b", "c")
    b.groups["g"], c.groups["g"] = [1, 2], [3]
    bus.cut = {"c"}
    a.say(Relay("ask", "g", type="count", options={"ref": 9}))
    bus.run()
    assert a.taken("answer") == []
    bus.wait(ANSWER_WITHIN + 0.25)
    (answer,) = a.taken("answer")
    assert answer.options["answers"] == {"b": 2}


def test_without_others_or_without_nats_the_answer_comes_at_once() -> None:
    _, (alone,) = members("a")
    alone.say(Relay("ask", "g", type="count", options={"ref": 1}))
    _, (a, _b) = members("a", "b")
    a.why = "not_sent"
    a.say(Relay("ask", "g", type="count", options={"ref": 1}))
    for each in (alone, a):
        (answer,) = each.taken("answer")
        assert answer.options == {"ref": 1, "answers": {}}


def test_questions_are_bounded() -> None:
    bus, (a, _b) = members("a", "b")
    bus.cut = {"b"}
    for ref in range(MOST_QUESTIONS + 5):
        a.say(Relay("ask", "g", type="count", options={"ref": ref}))
    assert len(a.taken("answer")) == 5


def test_a_node_that_goes_is_not_waited_for() -> None:
    bus, (a, b) = members("a", "b")
    bus.cut = {"b"}
    a.say(Relay("ask", "g", type="count", options={"ref": 9}))
    bus.run()
    bus.cut = set()
    b.core.bye()
    b.carry_out()
    bus.run()
    (answer,) = a.taken("answer")
    assert answer.options["answers"] == {}
    assert a.core.nodes.others == {}
    assert "node b has left" in a.news


def test_a_node_that_has_said_goodbye_stays_gone() -> None:
    """The agent lives on until NATS has its last records, and other nodes may ask meanwhile."""
    bus, (a, b) = members("a", "b")
    b.core.bye()
    b.carry_out()
    bus.wait(2 * BEAT)
    c = Member(bus, "c")
    for each in (b, c):
        each.core.connected(bus.now)
        each.carry_out()
    bus.wait(2 * BEAT)
    assert list(a.core.nodes.others) == ["c"]
    assert list(c.core.nodes.others) == ["a"]


# --- two with one name ---


def test_of_two_nodes_with_one_name_the_later_one_keeps_out_until_the_other_is_gone() -> None:
    bus = Bus()
    first, second = Member(bus, "n", 1.0), Member(bus, "n", 2.0)
    other = Member(bus, "other", 3.0)
    for each in (first, second, other):
        each.watch("g")
        each.core.connected(0.0)
        each.carry_out()
    bus.wait(3)
    assert first.core.figures("connected", "", "")["state"] == "connected"
    assert second.subscribed == {"c.all"}
    assert second.core.all_subjects() == ["c.all"]
    assert second.core.figures("connected", "", "")["state"] == "name in use"
    assert "at host of n. Give each its own name (setting node)" in second.news[-1]
    second.publish("g", b"x")
    assert second.core.counts["not_sent"] == 1
    other.publish("g", b"y")
    bus.run()
    assert first.data() == [b"y"]
    assert second.data() == []
    bus.members.remove(first)
    bus.wait(EXPIRY + 1)
    assert second.core.figures("connected", "", "")["state"] == "connected"
    assert "c.group.g" in second.subscribed
    second.publish("g", b"z")
    bus.run()
    assert other.data() == [b"z"]


# --- invalid data ---


def test_what_is_not_understood_is_counted_and_changes_nothing() -> None:
    _, (a, b) = members("a", "b")
    a.watch("g")
    for data in (
        b"",
        b"\xc1",
        b"hello",
        encode(["wsraw1", 1, 2]),
        encode(["other", "b", "l", "k"]),
    ):
        a.core.heard("c.group.g", data, 0.0)
    wrong = Envelope("b", "instance", "open", 1, 1)
    a.core.heard("c.node.a", encode(wrong), 0.0)
    assert a.core.counts["invalid"] == 6
    strange = [
        ("c.all", Envelope("b", "instance", "answer", options={"ref": []})),
        ("c.node.a", Envelope("b", "instance", "answer", options={"ref": {}})),
        ("c.node.a", Envelope("b", "instance", "answer")),
        ("c.all", Envelope("nobody", "instance", "ask", options={"ref": 1})),
        ("c.all", Envelope("b", "instance", "alive", options={"began": 1.0, "place": b""})),
        ("c.group.unknown", Envelope("b", "instance", "publish", 1, 1)),
        ("c.group.g", Envelope("a", "instance", "publish", 1, 1)),
    ]
    for subject, said in strange:
        a.core.heard(subject, encode(said), 0.0)
    a.carry_out()
    assert a.given == b.given == []


def test_an_envelope_says_what_it_was_made_of() -> None:
    said = Envelope("n", "l", "publish", 1, 2, "g", b"\xff", "binary", {"a": 1})
    assert decode_envelope(encode(said)) == said
