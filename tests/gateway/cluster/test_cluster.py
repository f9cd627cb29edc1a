from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from tests.gateway.inspection.test_requests import no_kernel, run
from wsraw.gateway.cluster.cluster import (
    ANSWER_WITHIN,
    MOST_QUESTIONS,
    MOST_QUEUED,
    SILENT_FOR,
    Cluster,
    parse_number,
)
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.inspection.actions import kick
from wsraw.gateway.inspection.steps import InspectionResult
from wsraw.gateway.status import report
from wsraw.link.records import (
    AGENT,
    Answer,
    CloseRef,
    Figures,
    Join,
    Kill,
    Leave,
    Publish,
    Query,
    Relay,
    SendRef,
    SendToUser,
    User,
    Watch,
)

AGENTS = "token of the agent"


class Node:
    """A gateway in a cluster, with a worker and perhaps an agent."""

    def __init__(self, with_agent: bool = True) -> None:
        self.harness = Harness()
        self.told: list[Any] = []
        self.cluster = Cluster(self.harness.registry, "me", self.told.append)
        self.harness.registry.groups.cluster = self.cluster
        self.harness.sessions.tokens.add(AGENTS, AGENT)
        self.worker = self.harness.worker()
        if with_agent:
            self.agent = self.begin()

    def begin(self) -> LinkedWorker:
        return self.harness.worker(pool="push", token=AGENTS)

    def member(self, group: str) -> Connection:
        con = self.harness.raw()
        self.harness.turn()
        self.worker.ack(commands=(Join(con.id, group),))
        return con

    def bind(self, con: Connection, user: str) -> None:
        self.harness.say(con, b"x")
        self.harness.turn()
        self.worker.ack(commands=(User(con.id, user),))
        self.harness.turn()

    def relays(self, agent: LinkedWorker | None = None) -> list[Relay]:
        self.harness.turn()
        return (agent or self.agent).take(Relay)

    def watches(self, agent: LinkedWorker | None = None) -> list[tuple[str, bool]]:
        self.harness.turn()
        return [(each.name, each.on) for each in (agent or self.agent).take(Watch)]

    def others(self, *names: str) -> None:
        """The agent reports other nodes."""
        self.agent.say(Figures({"nodes": list(names), "state": "connected", "counts": {}}))

    def written(self, con: Connection) -> bytes:
        self.harness.turn()
        return self.harness.write(con)


def test_the_agent_is_told_of_each_group_that_has_members_here() -> None:
    node = Node()
    a, b = node.member("g"), node.member("g")
    assert node.watches() == [("g", True)]
    node.worker.say(Leave(a.id, "g"))
    assert node.watches() == []
    node.worker.say(Leave(b.id, "g"))
    assert node.watches() == [("g", False)]


def test_a_new_agent_is_told_of_all_groups_and_ends_the_one_before() -> None:
    node = Node()
    node.member("g")
    node.member("h")
    late = node.begin()
    assert sorted(node.watches(late)) == [("g", True), ("h", True)]
    assert node.agent.identity not in node.harness.sessions.workers
    assert node.cluster.agent is late.worker


def test_a_publish_is_passed_on_and_reaches_local_members_without_the_agent() -> None:
    node = Node()
    a, b = node.member("g"), node.member("g")
    node.worker.say(Publish("g", b"x", "text", {"except": [b.id]}))
    (relay,) = node.relays()
    assert (relay.kind, relay.name, relay.data, relay.type) == ("publish", "g", b"x", "text")
    assert (node.written(a), node.written(b)) == (b"x", b"")


def test_a_publish_that_is_refused_is_not_passed_on() -> None:
    node = Node()
    assert "neither text nor binary" in node.worker.refused(Publish("g", b"x", "raw"))
    assert "UTF-8" in node.worker.refused(Publish("g", b"\xff", "text"))
    assert node.relays() == []


def test_a_publish_from_elsewhere_reaches_members_and_does_not_go_back() -> None:
    node = Node()
    a = node.member("g")
    node.agent.say(Relay("publish", "g", b"x", "text"))
    assert node.written(a) == b"x"
    assert node.relays() == []


def test_without_an_agent_nothing_is_kept_and_what_is_not_sent_is_counted() -> None:
    node = Node(with_agent=False)
    a = node.member("g")
    node.worker.say(Publish("g", b"x"), SendRef("other/7", b"y"), CloseRef("other/7"))
    assert node.written(a) == b"x"
    assert node.cluster.report()["counts"] == {"not_sent": 3}
    assert node.cluster.report()["state"] == "no agent"
    assert node.relays(node.begin()) == []


def test_an_agent_that_does_not_read_is_told_no_more() -> None:
    node = Node()
    node.agent.worker.window.choked = True
    node.worker.say(Publish("g", b"x"))
    assert node.relays() == []
    assert node.cluster.report()["counts"]["not_sent"] == 1


def test_what_one_turn_brings_for_the_agent_is_bounded_but_for_one_message() -> None:
    node = Node()
    large = bytes(MOST_QUEUED + 1)
    node.worker.say(Publish("g", large), Publish("g", b"too much"))
    assert [len(relay.data) for relay in node.relays()] == [len(large)]
    assert node.cluster.report()["counts"]["not_sent"] == 1
    node.harness.run(1.0)
    node.worker.say(Publish("g", b"x"))
    assert len(node.relays()) == 1


def test_users_span_nodes_as_groups_do() -> None:
    node = Node()
    a = node.member("g")
    assert node.watches() == [("g", True)]
    node.bind(a, "ann")
    assert node.agent.take(Watch) == [Watch("ann", True, "user")]
    node.worker.say(SendToUser("ann", b"1", "text"))
    (relay,) = node.relays()
    assert (relay.kind, relay.name, relay.data, relay.type) == ("user", "ann", b"1", "text")
    node.agent.say(Relay("user", "ann", b"2", "text"))
    assert node.written(a) == b"12"
    assert node.relays() == []
    late = node.begin()
    node.harness.turn()
    assert late.take(Watch) == [Watch("g"), Watch("ann", True, "user")]
    node.agent = late
    node.others("b")
    node.worker.say(Query(1, "user_connections", "ann"))
    (ask,) = node.relays()
    late.say(Relay("answer", "", options={**ask.options, "answers": {"b": [7]}}))
    node.harness.turn()
    assert node.worker.take(Answer) == [Answer(1, [a.id, "b/7"])]
    late.say(Relay("ask", "ann", type="user_connections", options={"ref": 7, "to": "b"}))
    (answer,) = node.relays()
    assert answer.options["value"] == [a.id]
    node.bind(a, "")
    assert late.take(Watch) == [Watch("ann", False, "user")]


# --- the role ---


@pytest.mark.parametrize("record", [Relay("publish", "g", b"x"), Figures({})])
def test_no_other_worker_may_act_as_the_agent(record: Relay | Figures) -> None:
    node = Node()
    a = node.member("g")
    assert "only the agent of a cluster may do that" in node.worker.refused(record)
    by_name = node.harness.worker(pool="push", instance="agent")
    assert not by_name.worker.is_agent
    assert "only the agent of a cluster may do that" in by_name.refused(record)
    assert node.written(a) == b""
    alone = Harness()
    assert "only the agent" in alone.worker().refused(record)


def test_the_agent_gets_no_events_and_is_not_among_the_workers() -> None:
    node = Node()
    node.harness.raw()
    node.harness.turn()
    assert node.agent.events == []
    shown = report(node.harness.registry, node.harness.sessions, 0, node.harness.now)
    assert [each["instance"] for each in shown["workers"]] == ["i1"]


def test_an_agent_that_says_nothing_for_long_is_killed_once() -> None:
    node = Node()
    for _ in range(int(SILENT_FOR) + 5):
        node.harness.run(1.0)
        node.cluster.tick(node.harness.now)
    assert node.told == [Kill(AGENT, "it has said nothing for 15 s")]


def test_an_agent_that_speaks_lives() -> None:
    node = Node()
    for _ in range(int(SILENT_FOR) + 5):
        node.harness.run(1.0)
        node.others()
        node.cluster.tick(node.harness.now)
    assert node.told == []


def test_the_counters_of_agents_add_up() -> None:
    node = Node()
    node.agent.say(Figures({"counts": {"sent": 5, "missed": 1, "odd": "x"}, "state": "connected"}))
    late = node.begin()
    assert node.cluster.report()["counts"] == {"sent": 5, "missed": 1, "not_sent": 0}
    late.say(Figures({"counts": {"sent": 2, "not_sent": 4}, "state": "away", "why": "refused"}))
    shown = node.cluster.report()
    assert shown["counts"] == {"sent": 7, "missed": 1, "not_sent": 4}
    assert (shown["state"], shown["why"]) == ("away", "refused")


# --- references ---


def test_a_reference_leads_to_a_connection_here_or_to_another_node() -> None:
    node = Node()
    a = node.member("g")
    node.worker.say(SendRef(f"me/{a.id}", b"here", "text"), SendRef("other/7", b"there"))
    assert node.written(a) == b"here"
    (relay,) = node.relays()
    assert (relay.kind, relay.name, relay.data) == ("send", "other/7", b"there")
    node.worker.say(CloseRef(f"me/{a.id}", 4000, "bye"), CloseRef("other/7", 4001, "you, too"))
    (relay,) = node.relays()
    assert relay.kind == "close"
    assert relay.options == {"code": 4001, "reason": "you, too"}
    assert entry_of(a).con.ending.cause == "handler"


def test_what_another_node_wants_is_done() -> None:
    node = Node()
    a, b = node.member("g"), node.member("g")
    node.agent.say(Relay("send", str(a.id), b"x"))
    node.agent.say(Relay("close", str(b.id), options={"code": 4000, "reason": "y"}))
    assert node.written(a) == b"x"
    assert (b.ending.code, b.ending.reason, b.ending.cause) == (4000, "y", "handler")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (SendRef("7", b"x"), "not the reference of a connection"),
        (SendRef("/7", b"x"), "not the reference of a connection"),
        (SendRef("me/x", b"x"), "not the reference of a connection"),
        (CloseRef("me/" + 30 * "9"), "not the reference of a connection"),
        (SendRef("me/7", b"x", "raw"), "neither text nor binary"),
        (SendRef("me/7", b"x"), "was never given out"),
        (CloseRef("me/7"), "was never given out"),
    ],
    ids=str,
)
def test_a_wrong_reference_is_refused(record: SendRef | CloseRef, why: str) -> None:
    assert why in Node().worker.refused(record)


def test_references_need_a_cluster() -> None:
    assert "see the setting cluster" in Harness().worker().refused(SendRef("a/7", b"x"))


@pytest.mark.parametrize(
    "relay",
    [
        Relay("send", "x", b""),
        Relay("send", "", b""),
        Relay("close", "7", options={"code": "x"}),
        Relay("close", "7", options={"code": 1000, "reason": 7}),
        Relay("open", "7"),
        Relay("answer", "", options={"ref": 7, "answers": []}),
        Relay("answer", "", options={"ref": "x", "answers": {}}),
        Relay("publish", "g", b"\xff", "text"),
        Relay("publish", "g", b"", "raw"),
    ],
    ids=str,
)
def test_what_a_network_brings_may_be_wrong(relay: Relay) -> None:
    node = Node()
    a = node.member("g")
    node.agent.say(relay)
    assert node.written(a) == b""
    assert entry_of(a).con.ending.cause == ""
    node.agent.say(Relay("publish", "g", b"x"))
    assert node.written(a) == b"x"


# --- kick ---


def kicked(node: Node, **options: Any) -> InspectionResult:
    _, answer = run(kick(node.harness.registry, options, no_kernel))
    return answer


def test_an_operator_closes_a_connection_at_any_gateway() -> None:
    node = Node()
    a = node.member("g")
    node.others("b")
    assert kicked(node, ref=f"me/{a.id}") == InspectionResult(True, "", {"matched": 1, "closed": 1})
    assert a.ending.cause == "kicked"
    answer = kicked(node, ref="b/7", code=4000, reason="enough")
    assert answer == InspectionResult(True, "", {"matched": 0, "closed": 0, "told": True})
    (relay,) = node.relays()
    assert (relay.kind, relay.name) == ("kick", "b/7")
    assert relay.options == {"code": 4000, "reason": "enough"}


def test_an_operator_closes_the_connections_of_a_user_at_all_gateways() -> None:
    node = Node()
    a, b = node.member("g"), node.member("g")
    node.bind(a, "ann")
    node.others("b")
    answer = kicked(node, user="ann", all=True)
    assert answer == InspectionResult(True, "", {"matched": 1, "closed": 1, "told": True})
    (relay,) = node.relays()
    assert (relay.kind, relay.name) == ("kick_user", "ann")
    assert (a.ending.cause, b.ending.cause) == ("kicked", "")
    # With a second filter, only connections of this gateway are kicked, as other gateways cannot
    # evaluate it.
    assert "told" not in kicked(node, user="ann", group="g", all=True).data
    assert "told" not in kicked(node, all=True).data
    assert node.relays() == []


def test_what_an_operator_wants_elsewhere_is_done() -> None:
    node = Node()
    a, b, c = node.member("g"), node.member("g"), node.member("g")
    node.bind(a, "ann")
    node.bind(b, "ann")
    options = {"code": 4000, "reason": "enough"}
    node.agent.say(Relay("kick_user", "ann", options=options), Relay("kick_user", "bob"))
    assert [each.ending.cause for each in (a, b, c)] == ["kicked", "kicked", ""]
    node.agent.say(Relay("kick", "999", options=options), Relay("kick", "x", options=options))
    node.agent.say(Relay("kick", str(c.id), options={"code": 5}))
    assert c.ending.cause == ""
    node.agent.say(Relay("kick", str(c.id), options=options))
    assert (c.ending.code, c.ending.reason, c.ending.cause) == (4000, "enough", "kicked")


def test_a_kick_elsewhere_says_why_it_cannot_be() -> None:
    node = Node()
    assert "there is no other gateway now" in kicked(node, ref="b/7").text
    assert kicked(node, user="ann", all=True).data["told"] is False
    node.others("b")
    node.agent.worker.window.choked = True
    assert "is away, or too slow" in kicked(node, ref="b/7").text
    for ref in ("7", "/7", "b/x", "b/", 7):
        assert "is not the reference of a connection" in kicked(node, ref=ref).text
    assert "there is no connection 7" in kicked(node, ref="me/7").text
    alone = run(kick(Harness().registry, {"ref": "b/7"}, no_kernel))[1]
    assert "see the setting cluster" in alone.text


# --- questions ---


def test_members_and_count_are_those_of_all_nodes() -> None:
    node = Node()
    a = node.member("g")
    node.others("b", "c")
    node.worker.say(Query(1, "count", "g"), Query(2, "members", "g"))
    asked = node.relays()
    assert [(each.kind, each.name, each.type) for each in asked] == [
        ("ask", "g", "count"),
        ("ask", "g", "members"),
    ]
    assert node.worker.take(Answer) == []
    for ask, values in zip(asked, ({"b": 2, "c": None}, {"b": [7, 8], "c": 5}), strict=True):
        node.agent.say(Relay("answer", "", options={**ask.options, "answers": values}))
    node.harness.turn()
    assert node.worker.take(Answer) == [
        Answer(1, 3),
        Answer(2, [a.id, "b/7", "b/8"]),
    ]


def test_without_other_nodes_the_answer_comes_at_once() -> None:
    for node in (Node(), Node(with_agent=False)):
        node.member("g")
        node.worker.say(Query(1, "count", "g"))
        node.harness.turn()
        assert node.worker.take(Answer) == [Answer(1, 1)]


def test_a_question_that_gets_no_answer_is_answered_with_what_is_known_here() -> None:
    node = Node()
    node.member("g")
    node.others("b")
    node.worker.say(Query(1, "count", "g"))
    node.harness.run(ANSWER_WITHIN + 1)
    node.cluster.tick(node.harness.now)
    node.harness.turn()
    assert node.worker.take(Answer) == [Answer(1, 1)]


def test_the_end_of_the_agent_answers_questions() -> None:
    node = Node()
    node.others("b")
    node.worker.say(Query(1, "count", "g"))
    node.harness.sessions.end(node.agent.worker, node.harness.now, died=True)
    node.harness.turn()
    assert node.worker.take(Answer) == [Answer(1, 0)]


def test_a_worker_that_has_gone_gets_no_answer() -> None:
    node = Node()
    node.others("b")
    node.worker.say(Query(1, "count", "g"))
    (ask,) = node.relays()
    node.harness.sessions.end(node.worker.worker, node.harness.now, died=True)
    node.agent.say(Relay("answer", "", options={**ask.options, "answers": {"b": 1}}))
    node.harness.turn()
    assert node.worker.take(Answer) == []


def test_questions_to_others_are_bounded() -> None:
    node = Node()
    node.others("b")
    for ref in range(1, MOST_QUESTIONS + 3):
        node.worker.say(Query(ref, "count", "g"))
        node.harness.turn()
    assert [each.ref for each in node.worker.take(Answer)] == [
        MOST_QUESTIONS + 1,
        MOST_QUESTIONS + 2,
    ]


def test_another_node_is_told_who_is_here() -> None:
    node = Node()
    a = node.member("g")
    for what, value in (("count", 1), ("members", [a.id]), ("count", 1)):
        node.agent.say(Relay("ask", "g", type=what, options={"ref": 7, "to": "b"}))
        (answer,) = node.relays()
        assert answer.kind == "answer"
        assert answer.options == {"ref": 7, "to": "b", "value": value}
    node.agent.say(Relay("ask", "g", type="weather", options={"ref": 7, "to": "b"}))
    (answer,) = node.relays()
    assert answer.options["value"] is None


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("", None), ("-7", None), ("٧", None), ("9" * 20, None)]
)
def test_the_id_of_a_connection_is_a_number(text: str, number: int | None) -> None:
    assert parse_number(text) == number
