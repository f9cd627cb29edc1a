from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from tests.gateway.inspection.test_requests import no_kernel, run
from wsraw.gateway.connection.connection import CLOSED, CLOSING, OPEN, Connection
from wsraw.gateway.delivery.outgoing import MOST_BROADCASTS
from wsraw.gateway.inspection.actions import MOST_DATA, kick, publish, send
from wsraw.gateway.inspection.steps import InspectionResult
from wsraw.link.records import Join, OnClose, OnMessage, Publish, Send


def begin(**settings: Any) -> tuple[Harness, LinkedWorker]:
    harness = Harness(**settings)
    return harness, harness.worker()


def kicked(harness: Harness, **options: Any) -> InspectionResult:
    _, answer = run(kick(harness.registry, options, no_kernel))
    return answer


def ends(worker: LinkedWorker) -> list[tuple[int, int, str, str]]:
    """The on_close events that a worker has received; all are acked."""
    seen = [event for event in worker.work() if isinstance(event, OnClose)]
    return [(event.con, event.code, event.reason, event.cause) for event in seen]


# --- kick ---


def test_a_websocket_that_is_kicked_gets_a_close_frame() -> None:
    harness, worker = begin()
    con = harness.websocket()
    worker.work()
    answer = kicked(harness, id=con.id, code=4000, reason="bye")
    assert answer == InspectionResult(True, "", {"matched": 1, "closed": 1})
    assert con.state is CLOSING
    assert harness.write(con) == b"\x88\x05\x0f\xa0bye"
    harness.say(con, b"\x88\x82\0\0\0\0\x0f\xa0")
    assert ends(worker) == [(con.id, 4000, "", "kicked")]


@pytest.mark.parametrize(("code", "resets"), [(1008, True), (1000, False)])
def test_a_raw_client_that_is_kicked_gets_a_reset_unless_the_code_is_good(
    code: int, resets: bool
) -> None:
    harness, worker = begin()
    con = harness.raw()
    worker.work()
    assert kicked(harness, id=con.id, code=code).ok
    assert con.state is CLOSED
    assert con.output.ends_with_reset == resets
    assert ends(worker) == [(con.id, code, "", "kicked")]


def test_what_a_client_has_sent_before_a_kick_is_handled() -> None:
    harness, worker = begin()
    con = harness.raw(b"first")
    kicked(harness, id=con.id)
    seen = worker.work()
    assert [event.data for event in seen if isinstance(event, OnMessage)] == [b"first"]
    assert type(seen[-1]) is OnClose


def test_output_that_waits_is_dropped_by_a_kick_and_counted_out() -> None:
    harness, worker = begin()
    con = harness.websocket()
    worker.work()
    before = harness.registry.flow.total
    for _ in range(10):
        run(send(harness.registry, {"id": con.id, "data": b"x" * 1000}, no_kernel))
    harness.registry.flow.output_changed(entry_of(con))
    assert harness.registry.flow.total > before + 9000
    kicked(harness, id=con.id)
    assert con.output.size < 10
    assert harness.registry.flow.total < before + 200
    harness.write(con)


def test_a_fragmented_message_does_not_keep_a_kick_waiting() -> None:
    harness, worker = begin()
    con = harness.websocket()
    worker.work()
    worker.say(Send(con.id, b"begun", "text", final=False))
    kicked(harness, id=con.id)
    assert con.state is CLOSING
    assert entry_of(con).fragment is None


def test_a_kick_cuts_off_a_connection_that_is_closing() -> None:
    harness, worker = begin()
    con = harness.websocket()
    worker.work()
    harness.registry.close(entry_of(con), 1000, "", "handler", harness.now)
    kicked(harness, id=con.id)
    assert con.state is CLOSED
    assert con.output.reset
    assert ends(worker) == [(con.id, 1008, "", "kicked")]


def test_a_client_that_has_said_nothing_can_be_kicked() -> None:
    harness, worker = begin()
    silent = harness.raw(b"")
    harness.registry.flow.weigh(silent)
    assert kicked(harness, kind="unknown").data == {"matched": 1, "closed": 1}
    assert silent.state is CLOSED
    assert silent in harness.registry.dirty
    assert worker.work() == []


def several(harness: Harness, count: int) -> list[Connection]:
    return [harness.raw(protocol="raw") for _ in range(count)]


def test_a_filter_that_fits_one_closes_it() -> None:
    harness, _ = begin()
    first, second = several(harness, 2)
    harness.registry.groups.join(entry_of(second), "x")
    assert kicked(harness, group="x").data == {"matched": 1, "closed": 1}
    assert (first.state, second.state) == (OPEN, CLOSED)


def test_several_connections_are_closed_only_with_all() -> None:
    harness, worker = begin()
    cons = several(harness, 50)
    web = harness.websocket()
    answer = kicked(harness, kind="raw")
    assert not answer.ok
    assert answer.text == "50 connections match; --all closes all of them"
    assert answer.data == {"matched": 50, "closed": 0}
    assert all(con.state is OPEN for con in cons)
    assert kicked(harness, kind="raw", all=True).data == {"matched": 50, "closed": 50}
    assert all(con.state is CLOSED for con in cons)
    assert web.state is OPEN
    assert {cause for _, _, _, cause in ends(worker)} == {"kicked"}


def test_all_connections_can_be_closed() -> None:
    harness, _ = begin()
    several(harness, 5)
    assert kicked(harness, all=True).data == {"matched": 5, "closed": 5}
    assert kicked(harness, all=True).data == {"matched": 0, "closed": 0}


def test_a_kick_ends_when_nobody_waits_for_it_and_tells_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness, _ = begin()
    cons = several(harness, 20)
    steps = kick(harness.registry, {"all": True}, no_kernel)
    caplog.set_level("INFO")
    while sum(con.state is CLOSED for con in cons) < 5:
        next(steps)
    steps.close()
    assert sum(con.state is CLOSED for con in cons) == 5
    assert "wsraw kick: closed 5 connections" in caplog.text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "say which connections: an ID, a filter, or all"),
        ({"all": True, "code": 1006}, "1006 is not a close code to send"),
        ({"all": True, "code": "x"}, "code must be a number, and reason a text"),
        ({"all": True, "reason": 3}, "code must be a number, and reason a text"),
        ({"all": True, "reason": "x" * 124}, "a reason has at most 123 bytes"),
        ({"id": "x"}, "id: 'x' is not the id of a connection"),
        ({"kind": "x"}, "kind: "),
    ],
)
def test_a_kick_that_cannot_be_right_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as error:
        kick(Harness().registry, options, no_kernel)
    assert str(error.value).startswith(line)


def test_a_connection_that_has_ended_cannot_be_kicked() -> None:
    harness, _ = begin()
    con = harness.raw()
    harness.registry.forget(entry_of(con))
    assert kicked(harness, id=con.id) == InspectionResult(False, f"connection {con.id} has ended")


# --- send, publish ---


def sent(harness: Harness, **options: Any) -> InspectionResult:
    _, answer = run(send(harness.registry, options, no_kernel))
    return answer


def published(harness: Harness, **options: Any) -> InspectionResult:
    _, answer = run(publish(harness.registry, options, no_kernel))
    return answer


def test_a_message_is_sent_to_one_connection() -> None:
    harness, _ = begin()
    web, raw = harness.websocket(), harness.raw()
    for con, binary, expected in [
        (web, False, b"\x81\x02hi"), (web, True, b"\x82\x02hi"), (raw, False, b"hi"),
    ]:  # fmt: skip
        answer = sent(harness, id=con.id, data=b"hi", binary=binary)
        assert answer == InspectionResult(True, "", {"sent": 1})
        assert con in harness.registry.dirty
        assert harness.write(con) == expected


def test_a_message_waits_behind_a_fragmented_one() -> None:
    harness, worker = begin()
    con = harness.websocket()
    worker.say(Send(con.id, b"a", "text", final=False))
    assert sent(harness, id=con.id, data=b"x").ok
    worker.say(Send(con.id, b"b", "text"))
    assert harness.write(con) == b"\x01\x01a\x80\x01b\x81\x01x"


def test_a_message_that_cannot_be_sent_is_refused() -> None:
    harness, _ = begin()
    web, silent = harness.websocket(), harness.raw(b"")
    harness.registry.flow.weigh(silent)
    assert "UTF-8" in sent(harness, id=web.id, data=b"\xff").text
    assert "the protocol of connection" in sent(harness, id=silent.id, data=b"x").text
    assert sent(harness, id=5, data=b"x").text == "there is no connection 5"
    harness.registry.close(entry_of(web), 1000, "", "handler", harness.now)
    assert sent(harness, id=web.id, data=b"x").text == f"connection {web.id} is closing"


def test_a_published_message_goes_to_all_members() -> None:
    harness, worker = begin()
    cons = [harness.websocket(), harness.raw(), harness.raw()]
    worker.say(*(Join(con.id, "room") for con in cons[:2]))
    assert published(harness, group="room", data=b"hi") == InspectionResult(True, "", {"sent": 2})
    assert [harness.write(con) for con in cons] == [b"\x81\x02hi", b"hi", b""]
    assert published(harness, group="none", data=b"hi") == InspectionResult(True, "", {"sent": 0})
    assert not published(harness, group="room", data=b"\xff").ok
    assert published(harness, group="room", data=b"\xff", binary=True).ok


def test_a_published_message_waits_while_too_many_are_on_their_way() -> None:
    harness, _ = begin()
    outgoing = harness.registry.outgoing
    cons = several(harness, outgoing.share + 10)
    for con in cons:
        harness.registry.groups.join(entry_of(con), "room")
    for n in range(MOST_BROADCASTS):
        assert harness.registry.groups.publish(Publish("room", b"%d " % n), 0.0) is None
    steps = publish(harness.registry, {"group": "room", "data": b"last"}, no_kernel)
    assert next(steps) is None
    while outgoing.broadcasts:
        outgoing.go_on(0.0)
    _, answer = run(steps)
    assert answer.data == {"sent": len(cons)}
    assert harness.write(cons[0]).endswith(b"last")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"id": 1}, "data must be bytes"),
        ({"id": 1, "data": "x"}, "data must be bytes"),
        ({"id": "x", "data": b"x"}, "id: 'x' is not"),
        ({"id": 1, "data": bytes(MOST_DATA + 1)}, f"{MOST_DATA + 1} bytes; at most {MOST_DATA}"),
    ],
)
def test_a_send_that_cannot_be_right_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as error:
        send(Harness().registry, options, no_kernel)
    assert str(error.value).startswith(line)


def test_a_publish_needs_a_group() -> None:
    with pytest.raises(ValueError, match="group: None is not the name of a group"):
        publish(Harness().registry, {"data": b"x"}, no_kernel)
    with pytest.raises(ValueError, match="group: a name has at most 1024 characters, not 1025"):
        publish(Harness().registry, {"group": "g" * 1025, "data": b"x"}, no_kernel)
