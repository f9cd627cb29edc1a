from __future__ import annotations

from tests.gateway.harness import Harness, entry_of
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.groups.groups import Groups
from wsraw.link.records import (
    Answer,
    Attach,
    Join,
    OnConnect,
    Publish,
    Query,
    Record,
    SendToUser,
    User,
)


def some(count: int) -> tuple[Groups, list[Entry]]:
    harness = Harness()
    return harness.registry.groups, [entry_of(harness.raw()) for _ in range(count)]


def test_members_are_listed_in_the_order_they_joined() -> None:
    groups, (a, b, c) = some(3)
    for entry in (b, a, c, b):
        groups.join(entry, "g")
    assert [*groups.members("g")] == [b, a, c]
    assert [*groups.members("h")] == []


def test_a_member_that_leaves_is_removed() -> None:
    groups, (a, b) = some(2)
    groups.join(a, "g")
    groups.join(b, "g")
    groups.join(a, "h")
    groups.leave(a, "g")
    groups.leave(a, "g")
    groups.leave(b, "h")
    groups.leave(b, "no such group")
    assert [*groups.members("g")] == [b]
    assert [*groups.members("h")] == [a]
    groups.join(a, "g")
    assert [*groups.members("g")] == [b, a]


def test_an_ended_connection_leaves_its_groups_and_an_empty_group_is_removed() -> None:
    groups, (a, b, never) = some(3)
    for group in ("g", "h"):
        groups.join(a, group)
    groups.join(b, "h")
    for entry in (a, never):
        groups.forget(entry)
    assert [*groups.members("g")] == []
    assert [*groups.members("h")] == [b]
    assert a.groups == set()
    groups.forget(b)
    assert len(groups.table) == 0


# --- users ---


def test_a_user_has_the_connections_that_were_bound_to_it() -> None:
    groups, (a, b, c) = some(3)
    for entry in (b, a, c):
        assert groups.bind(entry, "ann") is None
    groups.bind(a, "ann")
    groups.bind(c, "bob")
    assert [*groups.users.of("ann")] == [b, a]
    assert [*groups.users.of("bob")] == [c]
    groups.bind(c, "")
    assert "bob" not in groups.users
    assert c.con.about.get("user") is None
    groups.forget(a)
    assert [*groups.users.of("ann")] == [b]
    assert (a.user, b.user) == ("", "ann")


def test_a_user_costs_memory_that_is_given_back() -> None:
    harness = Harness()
    entry = entry_of(harness.raw())
    before = harness.registry.flow.accounted
    harness.registry.groups.bind(entry, "a" * 1000)
    assert harness.registry.flow.accounted > before + 1000
    harness.registry.groups.bind(entry, "b")
    harness.registry.groups.bind(entry, "")
    assert harness.registry.flow.accounted == before
    assert "at most 1024" in (harness.registry.groups.bind(entry, "x" * 1025) or "")


def test_a_message_to_a_user_reaches_all_connections_but_the_excluded_ones() -> None:
    harness = Harness()
    linked = harness.worker()
    cons = [harness.raw() for _ in range(4)]
    for con, user in zip(cons, ("ann", "ann", "ann", "bob"), strict=True):
        linked.work()
        harness.registry.groups.bind(entry_of(con), user)
    linked.say(SendToUser("ann", b"hello", "text", {"except": [cons[1].id]}))
    linked.say(SendToUser("nobody", b"hello", "text"))
    assert [harness.write(con) for con in cons] == [b"hello", b"", b"hello", b""]


def test_a_user_stays_with_a_connection_that_moves() -> None:
    harness = Harness()
    one = harness.worker()
    con = harness.raw()
    harness.turn()
    (event,) = [each for each in one.events if type(each) is OnConnect]
    one.ack(event, commands=(User(con.id, "ann"),))
    one.work()
    assert entry_of(con).user == "ann"
    harness.sessions.drain(one.worker, 5.0)
    two = harness.worker()
    harness.turn()
    harness.say(con, b"again")
    harness.turn()
    (attach,) = two.take(Attach)
    assert attach.about["user"] == "ann"


def test_a_user_is_taken_in_an_event_of_its_connection_alone() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    assert "while an event of that connection" in linked.refused(User(con.id, "ann"))
    assert "neither text nor binary" in linked.refused(SendToUser("ann", b"x", "odd"))
    wrong = SendToUser("ann", b"x", "text", {"except": 5})
    assert "list of connection ids" in linked.refused(wrong)


def test_the_connections_of_a_user_are_told_to_who_asks() -> None:
    harness = Harness()
    linked = harness.worker()
    cons = [harness.raw() for _ in range(2)]
    linked.work()
    for con in cons:
        harness.registry.groups.bind(entry_of(con), "ann")
    linked.say(Query(1, "user_connections", "ann"), Query(2, "user_connections", "bob"))
    harness.turn()
    answers = {answer.ref: answer.value for answer in linked.take(Answer)}
    assert answers == {1: [con.id for con in cons], 2: []}


# --- other gateways ---


def test_what_begins_here_is_relayed_and_what_was_delivered_is_not() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    relayed: list[Record] = []
    groups = harness.registry.groups
    groups.relay = relayed.append
    linked.say(Join(con.id, "g"), Publish("g", b"a"), Publish("empty", b"b"), SendToUser("u", b"c"))
    assert linked.refused(Publish("g", b"\xff", "text"))
    assert [record.data for record in relayed] == [b"a", b"b", b"c"]
    groups.deliver(Publish("g", b"d"), 0.0)
    groups.deliver_to_user(SendToUser("u", b"e"), 0.0)
    assert len(relayed) == 3
    assert harness.write(con) == b"ad"
