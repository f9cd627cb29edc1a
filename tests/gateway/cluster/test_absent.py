"""Handlers are told of members whose gateway is gone, with all guarantees of events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.cluster.test_cluster import AGENTS
from tests.gateway.harness import Harness, LinkedWorker
from wsraw.gateway.cluster import absent
from wsraw.gateway.cluster.cluster import Cluster
from wsraw.link.records import (
    AGENT,
    Answer,
    Attach,
    Detach,
    Figures,
    Join,
    Leave,
    OnJoin,
    OnLeave,
    Query,
    Relay,
    Send,
    User,
)

BOTH = ("on_join", "on_leave")


class Node:
    """A gateway in a cluster with presence."""

    def __init__(self) -> None:
        self.harness = Harness(presence=("room.*",))
        self.cluster = Cluster(self.harness.registry, "me", lambda record: None)
        self.harness.sessions.tokens.add(AGENTS, AGENT)
        self.agent = self.begin()
        self.said()

    def begin(self) -> LinkedWorker:
        return self.harness.worker(pool="push", token=AGENTS)

    def hear(self, kind: str, *members: Any, group: str = "room.1") -> None:
        self.agent.say(Relay(kind, group, options={"in": list(members)}))
        self.harness.turn()

    def said(self, agent: LinkedWorker | None = None) -> list[tuple[str, Any]]:
        self.harness.turn()
        relays = (agent or self.agent).take(Relay)
        return [(relay.name, relay.options) for relay in relays if relay.kind == "presence"]


def test_a_member_that_is_gone_has_a_connection_until_its_handler_has_returned() -> None:
    node = Node()
    worker = node.harness.worker(events=BOTH)
    registry = node.harness.registry
    before = registry.totals.copy()
    node.hear("gone", ["there/77", "ann", "default"], ["there/78", "", "default"])
    attached = {each.con: each.about for each in worker.take(Attach)}
    first, second = worker.events
    assert [(type(each), each.group) for each in (first, second)] == [(OnLeave, "room.1")] * 2
    assert attached[first.con] == {"ref": "there/77", "user": "ann"}
    assert attached[second.con] == {"ref": "there/78"}
    # Output to an absent member is dropped, and other commands for it do no harm.
    worker.ack(first, commands=(Send(first.con, b"x"), Join(first.con, "room.1")))
    node.harness.run(1.0)
    node.cluster.tick(node.harness.now)
    assert list(registry.entries) == [second.con]
    worker.ack(second)
    node.cluster.tick(node.harness.now)
    node.harness.turn()
    assert [each.con for each in worker.take(Detach)] == [first.con, second.con]
    assert not registry.entries
    assert registry.flow.total == 0
    assert registry.totals == before
    assert registry.pool().connections == 0
    assert not list(registry.groups.table.names())


def test_a_leave_is_told_again_if_the_worker_dies() -> None:
    node = Node()
    one = node.harness.worker(events=BOTH)
    node.hear("gone", ["there/77", "ann", "default"])
    two = node.harness.worker(events=BOTH)
    node.harness.sessions.end(one.worker, node.harness.now, died=True)
    node.cluster.tick(node.harness.now)
    node.harness.turn()
    (event,) = two.events
    assert (event.delivery, [each.about["ref"] for each in two.take(Attach)]) == (2, ["there/77"])


def test_a_member_that_is_back_has_joined() -> None:
    node = Node()
    worker = node.harness.worker(events=BOTH)
    node.hear("back", ["there/77", "ann", "default"])
    assert [type(event) for event in worker.events] == [OnJoin]


def test_handlers_that_have_not_asked_hear_nothing() -> None:
    node = Node()
    worker = node.harness.worker(events=("on_join",))
    node.hear("gone", ["there/77", "ann", "default"], ["there/78", "ann", "no such pool"])
    assert not worker.events
    assert not node.harness.registry.entries


def test_waiting_events_of_absent_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "MOST_ABSENT", 3)
    node = Node()
    node.harness.worker(events=BOTH)
    node.hear("gone", *[[f"there/{n}", "", "default"] for n in range(5)])
    assert len(node.harness.registry.entries) == 3
    assert node.cluster.absent.dropped == 2


@pytest.mark.parametrize(
    "members", [None, 5, ["there/1"], [[1, 2, 3]], [["r", "u"]], [["r" * 2000, "u", "default"]]]
)
def test_what_is_not_a_member_is_ignored(members: Any) -> None:
    node = Node()
    node.harness.worker(events=BOTH)
    node.agent.say(Relay("gone", "room.1", options={"in": members}))
    node.agent.say(Relay("gone", "", options={"in": [["there/1", "", "default"]]}))
    node.agent.say(Relay("gone", "room.1"))
    assert not node.harness.registry.entries


# --- what the agent is told ---


def test_the_agent_is_told_who_joins_and_leaves_and_whose_user_changes() -> None:
    node = Node()
    worker = node.harness.worker()
    con = node.harness.raw()
    node.harness.turn()
    worker.ack(commands=(Join(con.id, "room.1"), Join(con.id, "other"), User(con.id, "ann")))
    assert node.said() == [
        ("room.1", {"in": [[con.id, "", "default"]]}),
        ("room.1", {"in": [[con.id, "ann", "default"]]}),
    ]
    worker.say(Leave(con.id, "other"), Leave(con.id, "room.1"))
    assert node.said() == [("room.1", {"out": [con.id]})]
    worker.say(Join(con.id, "room.2"))
    node.said()
    node.harness.hang_up(con)
    worker.work()
    assert node.said() == [("room.2", {"out": [con.id]})]


def test_a_new_agent_and_one_that_was_slow_are_told_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    worker = node.harness.worker()
    con = node.harness.raw()
    node.harness.turn()
    worker.ack(commands=(Join(con.id, "room.1"), Join(con.id, "other")))
    node.said()
    everything = [
        ("", {"groups": ["room.1"], "all": True}),
        ("room.1", {"in": [[con.id, "", "default"]], "all": True}),
    ]
    late = node.begin()
    assert node.said(late) == everything
    late.worker.window.choked = True
    worker.say(Leave(con.id, "room.1"), Join(con.id, "room.1"))
    node.cluster.tick(node.harness.now)
    assert node.said(late) == []
    late.worker.window.choked = False
    node.cluster.tick(node.harness.now)
    assert node.said(late) == everything
    node.cluster.tick(node.harness.now)
    assert node.said(late) == []


def test_users_of_a_group_are_those_of_all_gateways() -> None:
    node = Node()
    worker = node.harness.worker()
    for user in ("ann", "bob", "ann", ""):
        con = node.harness.raw()
        node.harness.turn()
        worker.ack(commands=(User(con.id, user), Join(con.id, "room.1")))
        worker.work()
    worker.say(Query(1, "users", "room.1"))
    node.harness.turn()
    assert worker.take(Answer) == [Answer(1, {"ann": 2, "bob": 1})]
    node.agent.take(Relay)
    node.agent.say(Figures({"nodes": ["there"]}))
    worker.say(Query(2, "users", "room.1"))
    node.harness.turn()
    (ask,) = node.agent.take(Relay)
    there = {"there": {"ann": 1, "cat": 1}, "bad": {"ann": "x", 5: 5}, "worse": [1]}
    node.agent.say(Relay("answer", "", options={"ref": ask.options["ref"], "answers": there}))
    node.harness.turn()
    assert worker.take(Answer) == [Answer(2, {"ann": 3, "bob": 1, "cat": 1})]
    node.agent.say(Relay("ask", "room.1", type="users", options={"ref": 9, "to": "there"}))
    node.harness.turn()
    (answer,) = node.agent.take(Relay)
    assert answer.options["value"] == {"ann": 2, "bob": 1}
