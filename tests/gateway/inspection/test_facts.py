from __future__ import annotations

from tests.gateway.harness import HANDSHAKE, Harness, entry_of
from wsraw.gateway.delivery.entry import PAUSED_OWN
from wsraw.gateway.inspection.facts import LONGEST, MOST_SHOWN, PAUSES, summary, whole
from wsraw.link.records import Join, Send, State, encode


def test_a_connection_that_has_said_nothing_has_few_facts() -> None:
    harness = Harness()
    flow = harness.registry.flow
    facts = whole(harness.raw(b""), flow)
    assert (facts["kind"], facts["state"], facts["pool"]) == ("unknown", "sniffing", "default")
    assert "age" not in facts
    assert encode(facts)


def test_the_facts_of_a_websocket_tell_what_it_carries() -> None:
    harness = Harness(subprotocols=("chat",))
    linked = harness.worker()
    linked.worker.number = 2
    con = harness.raw(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"))
    harness.write(con)
    linked.work()
    harness.now = harness.registry.flow.now = 5.0
    harness.say(con, b"\x81\x85\0\0\0\0hello")
    harness.now = harness.registry.flow.now = 8.0
    harness.turn()
    (event,) = linked.events
    facts = whole(con, harness.registry.flow)
    assert facts["worker"] == "2"
    assert facts["subprotocol"] == "chat"
    assert (facts["in_flight"], facts["parked"], facts["oldest"]) == (1, 0, 3.0)
    assert (facts["age"], facts["last_in"], facts["last_out"]) == (8.0, 3.0, None)
    commands = (Send(con.id, b"x" * 10, "text"), Join(con.id, "room"), State(con.id, b"1234"))
    linked.ack(event, commands=commands)
    facts = whole(con, harness.registry.flow)
    assert (facts["in_flight"], facts["output"], facts["last_out"]) == (0, 12, 0.0)
    assert (facts["groups"], facts["groups_total"], facts["state_bytes"]) == (["room"], 1, 4)
    sent = facts["sent"]
    harness.write(con)
    assert summary(con, harness.registry.flow)["sent"] == sent + 12
    assert encode(facts)


def test_a_secret_of_a_client_is_not_among_the_facts() -> None:
    harness = Harness()
    head = HANDSHAKE.replace(b"GET / ", b"GET /x?token=geheim ").replace(
        b"\r\n\r\n", b"\r\nAuthorization: geheim\r\nCookie: a=geheim\r\n\r\n"
    )
    con = harness.raw(head)
    facts = whole(con, harness.registry.flow)
    assert facts["path"] == "/x?..."
    assert b"geheim" not in encode(facts)
    con.opened = True
    con.about["target"] = "ws://me:geheim@example.org/?token=geheim"
    facts = whole(con, harness.registry.flow)
    assert facts["target"] == "ws://...@example.org..."
    assert b"geheim" not in encode(facts)


def test_what_clients_and_handlers_have_chosen_is_bounded() -> None:
    harness = Harness()
    con = harness.raw(HANDSHAKE.replace(b"GET / ", b"GET /" + b"x" * 5000 + b" "))
    for n in range(MOST_SHOWN + 1):
        harness.registry.groups.join(entry_of(con), f"{n:0500}")
    facts = whole(con, harness.registry.flow)
    assert len(facts["path"]) == LONGEST + 1
    assert len(facts["groups"]) == MOST_SHOWN
    assert facts["groups_total"] == MOST_SHOWN + 1
    assert len(encode(facts)) < 50_000
    assert len(encode(summary(con, harness.registry.flow))) < 2048


def test_every_pause_has_its_words() -> None:
    harness = Harness()
    con = harness.raw()
    flow = harness.registry.flow
    assert summary(con, flow)["paused"] == []
    for pause in PAUSES:
        flow.pause(entry_of(con), pause)
    flow.now += 3
    facts = whole(con, flow)
    assert facts["paused"] == list(PAUSES.values())
    assert facts["paused_for"] == 3
    flow.resume(entry_of(con), PAUSED_OWN)
    assert len(summary(con, flow)["paused"]) == len(PAUSES) - 1


def test_the_end_of_a_connection_is_a_fact() -> None:
    harness = Harness()
    harness.worker()
    con = harness.websocket()
    assert whole(con, harness.registry.flow)["ending"] is None
    harness.registry.close(entry_of(con), 1001, "bye", "handler", harness.now)
    ending = whole(con, harness.registry.flow)["ending"]
    assert ending["cause"] == "handler"
