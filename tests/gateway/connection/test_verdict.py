"""The verdict of on_connect before the 101 is sent: from the connection to the worker's
commands.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.corpus import UPGRADE, frame, tell
from tests.gateway.harness import HANDSHAKE, Harness, LinkedWorker
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, CONNECTING, OPEN, Connection
from wsraw.gateway.delivery.read_policy import EARLY_LIMIT, is_paused
from wsraw.link.records import (
    Accept,
    Ack,
    Event,
    Join,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Publish,
    Refused,
    Reject,
    Send,
    State,
)

OFFERS = UPGRADE % b"Sec-WebSocket-Protocol: chat, superchat\r\n"


def ask(data: bytes = OFFERS, now: float = 0.0, **settings: Any) -> Connection:
    con = accepted(7, Listen(name="test"), Settings(verdict="handlers", **settings), {}, now)
    events = con.receive_data(data, now)
    assert [type(event) for event in events] == [OnConnect]
    assert isinstance(events[0], OnConnect)
    assert (events[0].verdict, events[0].inf["url"]) == (True, "/chat")
    assert (con.state, con.kind, con.output.size, con.undecided) == (
        CONNECTING, "websocket", 0, True,
    )  # fmt: skip
    return con


def output(con: Connection) -> bytes:
    data = b"".join(con.output.chunks)
    con.written(len(data), 0.0)
    return data


def accept(con: Connection, subprotocol: str | None = None, **headers: str) -> list[Event]:
    events, why = con.accept(subprotocol, list(headers.items()), 1.0)
    assert why is None
    return events


def reject(con: Connection, status: int = 403, body: bytes = b"") -> list[Event]:
    events, why = con.reject(Reject(con.id, status, body=body), 1.0)
    assert why is None
    return events


# --- the connection ---


def test_an_accepted_websocket_is_open_and_gets_the_101() -> None:
    con = ask()
    assert accept(con, Set_Cookie="a=b") == []
    assert (con.state, con.undecided) == (OPEN, False)
    said = output(con)
    assert said.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSet_Cookie: a=b\r\n" in said
    assert b"Protocol: " not in said
    assert tell(con.receive_data(frame(0x81, b"hi"), 2.0)) == ["text hi"]
    assert con.keepalive.deadline == 1.0 + con.settings.ping_interval


@pytest.mark.parametrize(
    ("ours", "asked", "agreed"),
    [
        ((), None, None),
        (("superchat",), None, "superchat"),
        (("superchat",), "chat", "chat"),
        (("superchat",), "", None),
        ((), "chat", "chat"),
    ],
)
def test_an_accepted_client_gets_the_chosen_subprotocol(
    ours: tuple[str, ...], asked: str | None, agreed: str | None
) -> None:
    con = ask(subprotocols=ours)
    accept(con, asked)
    said = output(con)
    assert said.count(b"Sec-WebSocket-Protocol: ") == bool(agreed)
    assert f"Sec-WebSocket-Protocol: {agreed}\r\n".encode() in said or not agreed
    assert con.about.get("subprotocol") == agreed


@pytest.mark.parametrize(
    ("subprotocol", "headers"), [("other", {}), (None, {"X": "a\r\nb"}), (None, {"Upgrade": "x"})]
)
def test_an_impossible_accept_is_refused_and_answered_with_500(
    subprotocol: str | None, headers: dict[str, str]
) -> None:
    con = ask()
    events, why = con.accept(subprotocol, list(headers.items()), 1.0)
    assert why
    assert tell(events) == ["close 1006 rejected"]
    assert output(con).startswith(b"HTTP/1.1 500 ")


def test_a_rejected_client_gets_status_headers_and_body() -> None:
    con = ask()
    events, why = con.reject(Reject(con.id, 401, "", {"WWW-Authenticate": "Basic"}, b"who?"), 1.0)
    assert (tell(events), why) == (["close 1006 rejected"], None)
    said = output(con)
    assert said.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert said.endswith(b"\r\n\r\nwho?")
    assert (con.state, con.output.reset) == (CLOSED, False)
    assert con.send(b"late", "text", True, 1.0) is None
    assert not con.output.size


@pytest.mark.parametrize(
    ("status", "headers"), [(200, {}), (101, {}), (403, {"X": "\n"}), (403, {"Connection": "x"})]
)
def test_a_wrong_rejection_is_refused_and_answered_with_500(
    status: int, headers: dict[str, str]
) -> None:
    con = ask()
    events, why = con.reject(Reject(con.id, status, headers=headers), 1.0)
    assert why
    assert tell(events) == ["close 1006 rejected"]
    assert output(con).startswith(b"HTTP/1.1 500 ")


def test_data_sent_before_the_verdict_follows_the_101() -> None:
    con = ask()
    assert con.send(b"one", "text", True, 0.0) is None
    assert con.send(b"\xff", "text", True, 0.0) is not None
    assert con.framing_key is None
    con.send(b"two", "text", True, 0.0)
    assert (con.output.size, con.output.early_size) == (0, 6)
    accept(con)
    assert output(con).partition(b"\r\n\r\n")[2] == b"\x81\x03one\x81\x03two"
    assert con.output.early_size == 0


def test_data_sent_to_a_rejected_client_is_dropped() -> None:
    con = ask()
    con.send(b"one", "text", True, 0.0)
    reject(con)
    assert con.output.early_size == 0
    assert b"one" not in output(con)


@pytest.mark.parametrize("whole", [True, False])
def test_bytes_received_before_the_verdict_wait(whole: bool) -> None:
    early = frame(0x81, b"hello") + frame(0x82, b"again")
    con = ask(OFFERS + early if whole else OFFERS)
    if not whole:
        for byte in early:
            assert con.receive_data(bytes([byte]), 0.5) == []
    assert con.unfinished == len(early)
    assert accept(con) == []
    # The shell always resumes reading after the verdict.
    assert tell(con.resume(1.0)) == ["text hello", "binary again"]
    assert con.unfinished == 0
    assert tell(con.receive_data(frame(0x81, b"more"), 2.0)) == ["text more"]


def test_bytes_that_come_too_early_wait_for_the_verdict_and_not_for_the_end_of_a_pause() -> None:
    con = ask(OFFERS + frame(0x81, b"hello"))
    con.pause(0.5)
    assert con.resume(1.0) == []
    assert accept(con) == []
    assert tell(con.resume(1.0)) == ["text hello"]


def test_bytes_received_after_the_verdict_do_not_overtake_earlier_ones() -> None:
    con = ask()
    con.receive_data(frame(0x81, b"one")[:3], 0.5)
    accept(con)
    assert con.receive_data(frame(0x81, b"one")[3:] + frame(0x81, b"two"), 1.0) != []
    con = ask()
    con.receive_data(frame(0x81, b"one"), 0.5)
    accept(con)
    con.pause(1.0)
    assert con.receive_data(frame(0x81, b"two"), 1.0) == []
    assert tell(con.resume(2.0)) == ["text one", "text two"]


def test_bytes_received_before_the_verdict_are_bounded() -> None:
    con = ask()
    con.receive_data(bytes(EARLY_LIMIT - 1), 0.5)
    assert not is_paused(con)
    con.receive_data(b"x", 0.5)
    assert is_paused(con)
    accept(con)
    assert not is_paused(con)


def test_a_missing_verdict_is_answered_with_503() -> None:
    con = ask(now=5.0, verdict_timeout=10)
    assert con.keepalive.deadline == 15.0
    con.receive_data(b"x", 14.0)
    assert tell(con.handle_timeout(15.0)) == ["close 1006 verdict-timeout"]
    assert output(con).startswith(b"HTTP/1.1 503 ")
    assert ask(verdict_timeout=0).keepalive.deadline > 1e300


def test_a_client_that_leaves_before_the_verdict_is_forgotten() -> None:
    con = ask()
    assert tell(con.receive_eof(1.0)) == ["close 1006 lost"]
    assert not con.output.size
    con = ask()
    assert tell(con.lost("connection reset", 1.0)) == ["error", "close 1006 lost"]
    assert con.output.reset


def test_a_half_closed_client_is_heard_after_the_verdict() -> None:
    con = ask(OFFERS + frame(0x81, b"hi"))
    assert con.receive_eof(1.0) == []
    accept(con)
    assert tell(con.resume(1.0)) == ["text hi", "close 1006 lost"]


def test_a_close_before_the_verdict_sends_the_101_and_a_close_frame() -> None:
    con = ask()
    con.send(b"bye", "text", True, 0.0)
    assert con.close(4000, "no", "handler", 0.5) == []
    assert con.send(b"late", "text", True, 0.0) is None
    assert (con.state, con.output.size) == (CONNECTING, 0)
    assert accept(con) == []
    assert output(con).partition(b"\r\n\r\n")[2] == b"\x81\x03bye\x88\x04\x0f\xa0no"
    assert tell(con.receive_data(frame(0x88, b"\x0f\xa0"), 2.0)) == ["close 4000 handler"]


@pytest.mark.parametrize(("code", "status"), [(1001, b"503"), (1013, b"503"), (1011, b"500")])
def test_a_close_by_the_gateway_before_the_verdict_is_an_http_answer(
    code: int, status: bytes
) -> None:
    con = ask()
    assert tell(con.close(code, "why", "going-away", 0.0)) == ["close 1006 going-away"]
    said = output(con)
    assert said[9:12] == status
    assert said.endswith(b"why\n")


def test_requests_that_the_gateway_refuses_reach_no_handler() -> None:
    con = accepted(7, Listen(name="t"), Settings(verdict="handlers"), {}, 0.0)
    assert con.receive_data(UPGRADE % b"Origin: http://evil.example\r\n", 0.0) == []
    assert output(con).startswith(b"HTTP/1.1 403 ")


def test_raw_clients_wait_for_a_verdict() -> None:
    def raw() -> Connection:
        con = accepted(7, Listen(name="t"), Settings(verdict="handlers"), {}, 0.0)
        connect, message = con.receive_data(b"hi", 0.0)
        assert isinstance(connect, OnConnect)
        assert isinstance(message, OnMessage)
        assert (connect.verdict, con.undecided, con.state) == (True, True, OPEN)
        return con

    con = raw()
    assert accept(con) == []
    assert con.state is OPEN
    con = raw()
    assert tell(reject(con, body=b"no\n")) == ["close 1000 rejected"]
    assert (output(con), con.output.reset) == (b"no\n", False)
    con = raw()
    con.send(b"unsaid", "binary", True, 0.0)
    assert tell(reject(con)) == ["close 1008 rejected"]
    assert (con.output.size, con.output.reset) == (0, True)


# --- the worker's commands ---


def come(harness: Harness, data: bytes = HANDSHAKE) -> tuple[Connection, LinkedWorker, OnConnect]:
    linked = harness.linked_workers[0] if harness.linked_workers else harness.worker()
    con = harness.raw(data)
    harness.turn()
    event = linked.events[0]
    assert event.verdict
    return con, linked, event


def test_an_ack_accepts_the_client_and_the_sends_of_its_batch_follow() -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    linked.ack(
        event,
        commands=(
            Join(con.id, "g"),
            Publish("g", b"to all", "text"),
            Send(con.id, b"to you", "text"),
            State(con.id, b"\x01"),
        ),
    )
    assert con.state is OPEN
    assert con in harness.registry.dirty
    assert con.entry in harness.registry.flow.changed
    said = harness.write(con)
    assert said.startswith(b"HTTP/1.1 101 ")
    assert said.endswith(b"\x81\x06to all\x81\x06to you")
    assert harness.registry.flow.total == 0
    assert con.entry.state == b"\x01"


def test_a_rejection_is_followed_only_by_on_close() -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    harness.say(con, frame(0x81, b"early"))
    linked.ack(event, commands=(Send(con.id, b"x", "text"), Reject(con.id, 401)))
    assert harness.write(con).startswith(b"HTTP/1.1 401 ")
    harness.turn()
    (close,) = linked.events
    assert (type(close), close.cause) == (OnClose, "rejected")
    linked.ack()
    assert not harness.registry.entries
    assert harness.registry.flow.total == 0
    assert harness.registry.counters.counts == {"verdict": 1}


@pytest.mark.parametrize("body", [b"", b"no\n"])
def test_a_raw_client_that_is_rejected_is_counted(body: bytes) -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness, b"hello")
    linked.ack(event, commands=(Reject(con.id, 403, body=body),))
    assert con.ending.cause == "rejected"
    assert harness.registry.counters.counts == {"verdict": 1}


def test_an_early_accept_is_sent_before_the_ack() -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    linked.say(Accept(con.id, headers={"X": "y"}))
    assert harness.write(con).startswith(b"HTTP/1.1 101 ")
    linked.ack(event)
    assert con.state is OPEN
    for late in (Accept(con.id), Reject(con.id, 403)):
        assert "has been decided on" in linked.refused(late)


def test_an_unexpected_verdict_is_refused_with_the_name_of_the_setting() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    assert "verdict = handlers" in linked.refused(Reject(con.id, 403))
    assert "verdict = handlers" in linked.refused(Accept(con.id))
    assert con.state is OPEN
    opened = linked.link.new_id()
    linked.say(Open(opened, "h:1"))
    assert "opened by a handler" in linked.refused(Reject(opened, 403))
    assert "never given out" in linked.refused(Accept(1))
    harness.hang_up(con)
    assert linked.refused(Reject(con.id, 403)) == ""


@pytest.mark.parametrize(
    "record",
    [
        ["reject", "con", "401"],
        ["reject", "con", 200],
        ["reject", "con", 401, "a\nb"],
        ["reject", "con", 401, "", {"X": "a\nb"}],
        ["reject", "con", 401, "", {"X": ["a"]}],
        ["reject", "con"],
        ["accept", "con", "unasked"],
        ["accept", "con", 7],
    ],
)
def test_an_unreadable_verdict_is_answered_with_500(record: list[Any]) -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    words = [con.id if word == "con" else word for word in record]
    linked.say_raw(words, Ack(event.seq, event.seq))
    assert harness.write(con).startswith(b"HTTP/1.1 500 ")
    harness.turn()
    assert linked.take(Refused)


def test_a_bad_record_of_an_earlier_batch_does_not_touch_the_verdict() -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    linked.say_raw(["send", "not", "right"])
    linked.ack(event)
    assert con.state is OPEN


def test_after_the_death_of_its_worker_another_one_decides() -> None:
    harness = Harness(verdict="handlers")
    con, linked, _ = come(harness)
    harness.sessions.end(linked.worker, 0.0, died=True)
    other = harness.worker()
    harness.turn()
    (event,) = other.events
    assert (type(event), event.verdict, event.delivery) == (OnConnect, True, 2)
    assert con.state is CONNECTING
    other.ack(commands=(Reject(con.id, 403),))
    assert harness.write(con).startswith(b"HTTP/1.1 403 ")


def test_with_at_most_once_the_death_of_the_worker_is_answered() -> None:
    harness = Harness(verdict="handlers", delivery="at-most-once")
    con, linked, _ = come(harness)
    harness.sessions.end(linked.worker, 0.0, died=True)
    assert harness.write(con).startswith(b"HTTP/1.1 500 ")
    assert con.ending.cause == "worker-died"


def test_a_verdict_for_a_client_that_has_left_is_ignored() -> None:
    harness = Harness(verdict="handlers")
    con, linked, event = come(harness)
    harness.hang_up(con)
    linked.ack(event, commands=(Send(con.id, b"x", "text"), Accept(con.id)))
    harness.turn()
    assert linked.take(Refused) == []
    error, close = linked.events
    assert (type(error), type(close), close.cause) == (OnError, OnClose, "lost")
    linked.ack()
    assert not harness.registry.entries


def test_without_a_worker_the_client_is_answered_with_503_in_time() -> None:
    harness = Harness(verdict="handlers", worker_wait_timeout=5)
    con = harness.raw(HANDSHAKE)
    harness.run(6)
    assert b"".join(con.output.chunks).startswith(b"HTTP/1.1 503 ")
    assert not harness.registry.entries


def test_a_stop_answers_clients_that_wait_for_a_verdict() -> None:
    harness = Harness(verdict="handlers")
    con, _, _ = come(harness)
    harness.registry.close_all(0.0)
    assert harness.write(con).startswith(b"HTTP/1.1 503 ")


def test_a_raw_client_is_rejected_with_its_text() -> None:
    harness = Harness(verdict="handlers")
    con, linked, connect = come(harness, b"hello")
    harness.turn()
    linked.ack(connect, commands=(Reject(con.id, 403, body=b"no"),))
    assert harness.write(con) == b"no"
    seen = linked.work()
    assert [type(event) for event in seen][-1] is OnClose
    assert not harness.registry.entries


def test_a_raw_client_that_half_closes_before_the_verdict_is_heard() -> None:
    harness = Harness(verdict="handlers")
    linked = harness.worker()
    con = harness.raw(b"", protocol="raw")
    harness.turn()
    harness.registry.receive_eof(con, 0.0)
    assert con.intake.half_closed
    linked.ack(linked.events[0], commands=(Send(con.id, b"bye", "text"),))
    assert harness.write(con) == b"bye"
    assert [(type(event), event.cause) for event in linked.work()] == [(OnClose, "eof")]
    assert not harness.registry.entries
