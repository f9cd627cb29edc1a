from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.gateway.connection.requests.clients import Answer, Client, answer_all, read
from tests.gateway.harness import HANDSHAKE, Harness
from wsraw.config.settings import PoolSettings, RouteSettings
from wsraw.link.records import (
    Accept,
    Ack,
    Attach,
    Close,
    Detach,
    Join,
    Mark,
    OnClose,
    OnConnect,
    OnRequest,
    Reached,
    Refused,
    Reject,
    Respond,
    Send,
    Welcome,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD /h HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
)
LAST = b"GET /l HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OLD = b"GET /o HTTP/1.0\r\n\r\n"


def begin(**settings: Any) -> tuple[Harness, Any, Client]:
    harness = Harness(**settings)
    return harness, harness.worker(), Client(harness)


def ask(data: bytes = GET, **settings: Any) -> tuple[Any, Client, OnRequest]:
    """A request that a worker has received."""
    _, linked, client = begin(**settings)
    client.send(data)
    (event,) = linked.events
    return linked, client, event


def assert_nothing_is_left(harness: Harness) -> None:
    registry = harness.registry
    assert not registry.entries
    assert registry.flow.total == 0
    assert all(con.kept for con in registry.flow.without_entry)


# --- any cut gives the same requests ---

DIALOGS = {
    "get": ((GET,), ("GET",)),
    "head": ((HEAD, GET), ("HEAD", "GET")),
    "post": ((POST, GET), ("POST", "GET")),
    "chunked": ((CHUNKED, POST), ("PUT", "POST")),
    "blank lines": ((GET, b"\r\n\r\n", POST), ("GET", "POST")),
    "pipelined": ((GET, POST, CHUNKED, HEAD, LAST), ("GET", "POST", "PUT", "HEAD", "GET")),
    "old": ((OLD,), ("GET",)),
    "nothing behind the last": ((GET, LAST, GET), ("GET", "GET")),
}


@pytest.mark.parametrize("name", DIALOGS)
def test_a_dialog_is_the_same_at_every_cut(name: str) -> None:
    parts, methods = DIALOGS[name]
    data = b"".join(parts)

    def run(*cuts: int) -> tuple[list[tuple[dict[str, str], bytes]], list[tuple[int, bytes]]]:
        harness, linked, client = begin()
        client.send(data, *cuts)
        seen = answer_all(linked, client)
        answers = read(client.output(), *methods)
        client.end()
        client.step()
        assert_nothing_is_left(harness)
        assert client.is_over
        return [(event.inf, event.body) for event in seen], [
            (each.status, each.body) for each in answers
        ]

    whole = run()
    assert len(whole[0]) == len(methods)
    assert [status for status, _ in whole[1]] == [200] * len(methods)
    assert run(*range(1, len(data))) == whole
    for cut in range(1, len(data)):
        assert run(cut) == whole, cut


def test_handlers_get_the_request_as_it_came() -> None:
    head = b"POST /a%20b?c HTTP/1.1\r\nhOST: x\r\nX-A: 1\r\nX-a: 2\r\nCookie: a\r\nCookie: b\r\n"
    _, client, event = ask(head + b"Content-Length: 2\r\n\r\nhi")
    assert event.inf == {
        "method": "POST",
        "url": "/a%20b?c",
        "Protocol": "http",
        "hOST": "x",
        "X-A": "1, 2",
        "Cookie": "a; b",
        "Content-Length": "2",
    }
    assert event.body == b"hi"
    assert event.about["repeated"] == {"x-a": ["1", "2"]}
    assert (event.about["scheme"], event.about["http_version"]) == ("http", "1.1")
    assert client.pipe.con.kind == "http"


def test_each_request_is_a_connection_of_its_own_and_handlers_hear_of_no_other_event() -> None:
    harness, linked, client = begin()
    client.send(GET * 3)
    seen = answer_all(linked, client)
    assert len({event.con for event in seen}) == 3
    assert {type(record) for record in linked.heard} == {Welcome, Detach}
    client.end()
    assert not linked.events
    assert_nothing_is_left(harness)


def test_a_request_waits_until_the_one_before_is_answered() -> None:
    linked, client, event = ask(GET + POST)
    assert client.output() == b""
    linked.ack(event, commands=(Respond(event.con, body=b"1"),))
    client.step()
    (second,) = linked.events
    assert second.inf["url"] == "/p"


def test_a_client_that_expects_100_continue_gets_it() -> None:
    harness, linked, client = begin()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    client.send(head)
    assert client.output() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hi")
    (event,) = answer_all(linked, client)
    assert event.body == b"hi"
    assert read(client.output(), "POST")[0].status == 200
    assert_nothing_is_left(harness)


def test_a_client_that_does_not_wait_gets_no_100_continue() -> None:
    _, linked, client = begin()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi"
    client.send(head)
    answer_all(linked, client)
    assert client.output().startswith(b"HTTP/1.1 200 ")


def test_a_websocket_may_come_behind_a_request() -> None:
    _, linked, client = begin()
    client.send(GET + HANDSHAKE)
    answer_all(linked, client)
    assert client.output().count(b"HTTP/1.1 101 ") == 1
    (connect,) = linked.events
    assert isinstance(connect, OnConnect)
    assert connect.inf["Protocol"] == "websocket server"
    assert client.pipe.con.kind == "websocket"


def test_a_client_that_half_closes_gets_all_its_answers() -> None:
    harness, linked, client = begin()
    client.send(GET + POST)
    client.end()
    answer_all(linked, client)
    assert [each.status for each in read(client.output(), "GET", "POST")] == [200, 200]
    assert client.is_over
    assert_nothing_is_left(harness)


# --- hostile requests ---

HOSTILE = {
    "length and coding": (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "the same length twice": (b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a negative length": (b"Content-Length: -3\r\n\r\nabc", 400),
    "a signed length": (b"Content-Length: +3\r\n\r\nabc", 400),
    "a length in hex": (b"Content-Length: 0x3\r\n\r\nabc", 400),
    "an endless length": (b"Content-Length: " + b"9" * 4000 + b"\r\n\r\n", 400),
    "a large length": (b"Content-Length: 99999999\r\n\r\n", 413),
    "a coding twice": (b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "another coding": (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a coding that is hidden": (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 501),
    "a space before the colon": (b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a folded field": (b"X: a\r\n b\r\n\r\n", 400),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a name with a space": (b"X Y: a\r\n\r\n", 400),
    "no name": (b": a\r\n\r\n", 400),
    "a NUL": (b"X: a\x00b\r\n\r\n", 400),
    "a bare CR": (b"X: a\rY: b\r\n\r\n", 400),
    "a second host": (b"Host: y\r\n\r\n", 400),
    "an expectation": (b"Expect: the unexpected\r\n\r\n", 417),
    "a chunk size that is none": (b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    "a signed chunk size": (b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n", 400),
    "a negative chunk size": (b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n", 400),
    "a chunk size with 0x": (b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", 400),
    "a large chunk": (b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 30 + b"\r\n", 400),
    "a chunk that is too long": (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n", 400),
    "an endless extension": (b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 20_000, 400),
    "endless trailers": (
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000, 400,
    ),
    "many fields": (b"X: y\r\n" * 200 + b"\r\n", 431),
    "a long field": (b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("whole", [True, False])
def test_a_hostile_request_is_refused_and_the_connection_closed(name: str, whole: bool) -> None:
    rest, status = HOSTILE[name]
    harness, linked, client = begin()
    # The data that an attacker would smuggle after it.
    data = b"POST / HTTP/1.1\r\nHost: x\r\n" + rest + GET
    client.send(data, *(() if whole else range(1, len(data), 97 if len(data) > 2000 else 1)))
    (answer,) = read(client.output(), "POST")
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert client.is_over
    assert not linked.events
    client.end()
    assert_nothing_is_left(harness)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT x:1 HTTP/1.1", 501),
        (b"GET http://x/ HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET evil HTTP/1.1", 400),
    ],
)
def test_targets_that_are_no_path_are_refused(line: bytes, status: int) -> None:
    _, linked, client = begin()
    client.send(line + b"\r\nHost: x\r\n\r\n")
    assert read(client.output(), "GET")[0].status == status
    assert not linked.events


def test_a_request_without_a_host_is_refused_unless_it_is_old() -> None:
    _, linked, client = begin()
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert read(client.output(), "GET")[0].status == 400
    client = Client(linked.harness)
    client.send(b"OPTIONS * HTTP/1.0\r\n\r\n")
    assert len(answer_all(linked, client)) == 1


def test_what_is_not_http_behind_a_request_is_not_raw_data() -> None:
    harness, linked, client = begin()
    client.send(GET + b"\x00\x01raw")
    answer_all(linked, client)
    assert [each.status for each in read(client.output(), "GET", "GET")] == [200, 400]
    assert client.is_over
    assert not linked.events
    client.end()
    assert_nothing_is_left(harness)


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_a_body_has_a_largest_size(coding: str) -> None:
    for size, status in ((1000, 200), (1001, 413)):
        _, linked, client = begin(max_message_size=1000)
        if coding == "length":
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            client.send(b"x" * size)
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size))
        answer_all(linked, client)
        assert read(client.output(), "POST")[0].status == status


def test_many_small_chunks_are_read_a_share_a_turn() -> None:
    harness, linked, client = begin()
    client.pipe.incoming += b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.pipe.incoming += b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    turns = 0
    while client.pipe.step(0.0):
        turns += 1
    assert turns > 5000 / 100
    (event,) = answer_all(linked, client)
    assert event.body == b"x" * 5000
    assert read(client.output(), "POST")[0].status == 200
    client.end()
    assert_nothing_is_left(harness)


def test_a_body_counts_as_memory_while_it_comes() -> None:
    harness, linked, client = begin()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
    before = harness.registry.flow.accounted
    client.send(b"x" * 400_000)
    assert client.pipe.con.unfinished == 400_000
    assert harness.registry.flow.accounted - before >= 400_000
    client.send(b"x" * 100_000)
    assert harness.registry.flow.total >= 500_000
    answer_all(linked, client)
    client.output()
    assert harness.registry.flow.accounted <= before
    client.end()
    assert_nothing_is_left(harness)


# --- time ---


def test_a_request_that_does_not_come_in_time_is_answered_with_408() -> None:
    harness, linked, client = begin()
    client.send(POST[:-2])
    harness.now = 9.0
    client.send(b"l")
    harness.now = 18.0
    client.pipe.handle_timeout(18.0)
    assert client.output() == b""
    harness.now = 19.5
    client.pipe.handle_timeout(19.5)
    assert read(client.output(), "POST")[0].status == 408
    assert not linked.events
    assert client.is_over


def test_a_client_that_asks_nothing_more_is_disconnected_without_a_word() -> None:
    harness, linked, client = begin()
    client.send(GET)
    answer_all(linked, client)
    client.output()
    harness.now = 59.0
    client.pipe.handle_timeout(59.0)
    assert not client.is_over
    harness.now = 61.0
    client.pipe.handle_timeout(61.0)
    assert client.output() == b""
    assert client.is_over
    assert not client.pipe.was_reset


def test_without_a_worker_a_request_is_answered_with_503_in_time() -> None:
    harness = Harness(worker_wait_timeout=5)
    client = Client(harness)
    client.send(GET)
    harness.run(6)
    assert read(client.output(), "GET")[0].status == 503
    client.end()
    assert_nothing_is_left(harness)


# --- responses ---


def answered(
    data: bytes, *commands: Any, method: str = "GET"
) -> tuple[Answer, Client, list[Refused]]:
    linked, client, event = ask(data)
    made = [each(event.con) for each in commands]
    linked.ack(event, commands=tuple(made))
    (answer,) = read(client.output(), method)
    client.step()
    refused = linked.take(Refused)
    linked.work()
    client.end()
    client.harness.run(20)
    client.step()
    assert_nothing_is_left(client.harness)
    return answer, client, refused


def test_a_response_has_what_the_worker_gives() -> None:
    headers = [("X-A", "1"), ("Content-Type", "text/x")]
    answer, _, _ = answered(GET, lambda con: Respond(con, 201, headers, b"body"))
    assert answer.status == 201
    assert (answer.headers["x-a"], answer.headers["content-type"]) == ("1", "text/x")
    assert (answer.headers["content-length"], answer.body) == ("4", b"body")
    assert answer.headers["date"].endswith("GMT")
    assert "connection" not in answer.headers


def test_a_body_may_come_in_pieces() -> None:
    answer, _, _ = answered(
        GET,
        lambda con: Respond(con, body=b"a", final=False),
        lambda con: Send(con, b"b", final=False),
        lambda con: Send(con, b"c"),
    )
    assert (answer.body, answer.headers["transfer-encoding"]) == (b"abc", "chunked")


def test_an_old_client_gets_pieces_and_the_end_of_the_connection() -> None:
    linked, client, event = ask(OLD)
    linked.ack(event, commands=(Respond(event.con, body=b"a", final=False), Send(event.con, b"b")))
    data = client.output()
    assert data.endswith(b"\r\n\r\nab")
    assert b"transfer-encoding" not in data.lower()
    assert client.is_over


def test_a_response_to_head_has_the_length_and_no_body() -> None:
    answer, _, _ = answered(HEAD, lambda con: Respond(con, body=b"body"), method="HEAD")
    assert (answer.headers["content-length"], answer.body) == ("4", b"")
    answer, _, _ = answered(
        HEAD,
        lambda con: Respond(con, headers=[("Content-Length", "9")], final=False),
        lambda con: Send(con, b"123", final=False),
        lambda con: Send(con, b""),
        method="HEAD",
    )
    assert (answer.headers["content-length"], answer.body) == ("9", b"")


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_without_a_body_have_none(status: int) -> None:
    answer, _, _ = answered(GET + GET, lambda con: Respond(con, status, body=b"none"))
    assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize(
    "respond",
    [
        Respond(0, 100),
        Respond(0, 600),
        Respond(0, headers=[("X", "a\r\nY: b")]),
        Respond(0, headers=[("X:", "a")]),
        Respond(0, headers=[("Transfer-Encoding", "chunked")]),
        Respond(0, headers=[("Connection", "close")]),
        Respond(0, headers=[("Content-Length", "x")]),
        Respond(0, reason="a\r\nb"),
        Respond(0, headers=[("X", "\u20ac")]),
    ],
)
def test_a_response_that_cannot_be_sent_is_500_and_refused(respond: Respond) -> None:
    linked, client, event = ask()
    respond.con = event.con
    linked.ack(event, commands=(respond,))
    assert read(client.output(), "GET")[0].status == 500
    assert client.is_over
    assert len(linked.take(Refused)) == 1
    assert [event.cause for event in linked.work()] == ["protocol-error"]
    assert not client.harness.registry.entries


@pytest.mark.parametrize(("declared", "sent"), [("5", b"toolong"), ("5", b"few")])
def test_a_body_that_contradicts_its_length_ends_the_connection(declared: str, sent: bytes) -> None:
    linked, client, event = ask()
    head = Respond(event.con, headers=[("Content-Length", declared)], final=False)
    linked.ack(event, commands=(head, Send(event.con, sent)))
    client.step()
    assert client.pipe.was_reset
    assert len(linked.take(Refused)) == 1
    linked.work()
    assert_nothing_is_left(client.harness)


def test_a_request_that_a_worker_does_not_answer_is_404() -> None:
    answer, _, _ = answered(GET)
    assert (answer.status, answer.body) == (404, b"nothing is served here\n")


def test_a_second_response_is_refused_and_reaches_nobody() -> None:
    linked, client, event = ask(GET + POST)
    linked.ack(event, commands=(Respond(event.con, body=b"1"), Respond(event.con, body=b"2")))
    client.step()
    (second,) = linked.events
    # Late commands for the first request do not affect the second.
    linked.say(Send(event.con, b"late"), Respond(event.con, body=b"late"), Close(event.con))
    linked.ack(second, commands=(Respond(second.con, body=b"3"),))
    assert [each.body for each in read(client.output(), "GET", "POST")] == [b"1", b"3"]
    assert not linked.take(Refused)


def test_a_body_without_a_response_is_refused() -> None:
    linked, _, event = ask()
    assert "a `respond` comes before" in linked.refused(Send(event.con, b"x"))
    assert "cannot join a group" in linked.refused(Join(event.con, "g"))


def test_a_request_is_not_accepted_and_may_be_rejected() -> None:
    linked, client, event = ask()
    assert "answered by `respond`" in linked.refused(Accept(event.con))
    linked.ack(event, commands=(Reject(event.con, 401, headers={"WWW-Authenticate": "Basic"}),))
    (answer,) = read(client.output(), "GET")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Basic")
    client.end()
    assert_nothing_is_left(client.harness)


def test_a_response_that_stands_still_ends_after_idle_timeout() -> None:
    linked, client, event = ask(idle_timeout=10)
    linked.ack(event, commands=(Respond(event.con, body=b"a", final=False),))
    client.output()
    client.harness.run(30)
    client.step()
    assert client.pipe.was_reset


def test_only_requests_are_responded_to() -> None:
    harness, linked, _ = begin()
    con = harness.websocket()
    harness.turn()
    assert "is not an HTTP request" in linked.refused(Respond(con.id))


@pytest.mark.parametrize(("code", "status"), [(1000, 503), (1011, 500)])
def test_a_handler_that_closes_instead_gives_an_error(code: int, status: int) -> None:
    answer, _, _ = answered(GET, lambda con: Close(con, code))
    assert answer.status == status


def test_a_handler_that_closes_a_response_cuts_it_short() -> None:
    linked, client, event = ask()
    linked.ack(event, commands=(Respond(event.con, body=b"a", final=False), Close(event.con)))
    client.step()
    assert client.pipe.was_reset
    assert [each.cause for each in linked.work()] == ["handler"]
    assert_nothing_is_left(client.harness)


def test_marks_tell_when_pieces_are_written() -> None:
    linked, client, event = ask()
    client.pipe.blocked = True
    commands = (Respond(event.con, body=b"x" * 1000, final=False), Mark(event.con, 5))
    linked.ack(event, commands=commands)
    client.step()
    assert not linked.take(Reached)
    client.pipe.blocked = False
    client.step()
    client.step()
    assert linked.take(Reached) == [Reached(event.con, 5)]


# --- the ends of clients and workers ---


def test_a_client_that_leaves_before_its_answer_is_forgotten() -> None:
    linked, client, event = ask()
    client.pipe.lost("connection reset by peer", 0.0)
    linked.ack(event, commands=(Respond(event.con, body=b"1"),))
    linked.work()
    assert not linked.take(Refused)
    assert_nothing_is_left(client.harness)


def test_a_client_that_leaves_within_its_answer_is_told_of_to_the_worker() -> None:
    linked, client, event = ask()
    linked.ack(event, commands=(Respond(event.con, body=b"a", final=False),))
    client.step()
    client.pipe.lost("connection reset by peer", 0.0)
    assert [type(each) for each in linked.work()][-1] is OnClose
    assert_nothing_is_left(client.harness)


def test_a_request_of_a_dead_worker_goes_to_another_one_and_is_answered_once() -> None:
    linked, client, event = ask()
    harness = client.harness
    other = harness.worker()
    harness.sessions.end(linked.worker, 0.0, died=True)
    harness.turn()
    (again,) = other.events
    assert (again.con, again.inf, again.delivery) == (event.con, event.inf, 2)
    assert not other.take(Attach)
    other.ack(again, commands=(Respond(again.con, body=b"2"),))
    assert [each.body for each in read(client.output(), "GET")] == [b"2"]
    client.end()
    assert_nothing_is_left(harness)


def test_a_response_that_a_worker_has_left_unfinished_is_cut_short() -> None:
    linked, client, event = ask()
    harness = client.harness
    other = harness.worker()
    linked.ack(event, commands=(Respond(event.con, body=b"a", final=False),))
    client.step()
    harness.sessions.end(linked.worker, 0.0, died=True)
    client.step()
    assert client.pipe.was_reset
    other.work()
    assert_nothing_is_left(harness)


def test_with_at_most_once_the_death_of_the_worker_is_answered() -> None:
    linked, client, _ = ask(delivery="at-most-once")
    client.harness.sessions.end(linked.worker, 0.0, died=True)
    assert read(client.output(), "GET")[0].status == 503


def test_a_request_that_kills_its_workers_is_answered_with_500() -> None:
    harness, linked, client = begin(max_deliveries=2)
    client.send(GET + GET)
    for _ in range(2):
        harness.sessions.end(linked.worker, harness.now, died=True)
        linked = harness.worker()
        harness.run(12)
    (answer,) = read(client.output(), "GET")
    assert answer.status == 500
    assert client.is_over
    assert harness.sessions.dead_letters[0]["event"] == "on_request"
    assert harness.sessions.dead_letters[0]["inf"]["url"] == "/a?b=c"


def test_a_stop_answers_what_is_waiting_and_begins_nothing_new() -> None:
    linked, client, event = ask(GET + GET)
    harness = client.harness
    harness.registry.stop()
    linked.ack(event, commands=(Respond(event.con, body=b"1"),))
    assert [each.status for each in read(client.output(), "GET")] == [200]
    assert client.is_over
    assert not linked.events
    linked, client, event = ask()
    client.harness.registry.close_all(0.0)
    assert read(client.output(), "GET")[0].status == 503


def test_a_batch_with_a_record_that_cannot_be_read_is_500() -> None:
    linked, client, event = ask()
    linked.say_raw(["respond", event.con, "no number"], Ack(event.seq, event.seq))
    assert read(client.output(), "GET")[0].status == 500


# --- pools, and what a proxy says ---


def test_requests_on_one_connection_may_belong_to_different_pools() -> None:
    harness = Harness(
        pools=(PoolSettings(name="a"), PoolSettings(name="b")),
        routes=(
            RouteSettings(pool="a", path="/a/{x}"),
            RouteSettings(pool="b", kind="http"),
            RouteSettings(pool="a", kind="raw"),
        ),
    )
    a, b = harness.worker(pool="a"), harness.worker(pool="b")
    client = Client(harness)
    client.send(b"GET /a/7 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    (first,) = answer_all(a, client)
    assert first.about["params"] == {"x": "7"}
    (second,) = answer_all(b, client)
    assert "params" not in second.about
    assert len(read(client.output(), "GET", "GET")) == 2
    client.end()
    assert_nothing_is_left(harness)


def test_a_request_that_no_pool_serves_is_404_and_the_connection_closed() -> None:
    harness = Harness(
        pools=(PoolSettings(name="a"),), routes=(RouteSettings(pool="a", path="/a/{x}"),)
    )
    client = Client(harness)
    client.send(GET)
    assert read(client.output(), "GET")[0].status == 404


def test_what_handlers_do_not_answer_is_passed_on_to_the_files() -> None:
    harness = Harness(static=".")
    linked, files = harness.worker(), harness.worker(pool="static")
    client = Client(harness)
    client.send(POST + GET)
    (event,) = linked.events
    linked.ack(event)
    client.step()
    (passed,) = files.events
    assert passed.con != event.con
    assert (passed.inf, passed.body, passed.about) == (event.inf, event.body, event.about)
    files.ack(passed, commands=(Respond(passed.con, body=b"a file"),))
    client.step()
    (second,) = linked.events
    linked.ack(second)
    client.step()
    files.ack()
    answers = read(client.output(), "POST", "GET")
    assert [(each.status, each.body) for each in answers] == [
        (200, b"a file"),
        (404, b"nothing is served here\n"),
    ]
    client.end()
    assert_nothing_is_left(harness)


def test_behind_a_proxy_each_request_has_its_own_client() -> None:
    harness = Harness(trusted_proxies=("unix",), max_connections_per_address=1)
    linked = harness.worker()
    client = Client(harness)
    base = client.pipe.con.phase
    base._client.address = "unix"  # type: ignore[attr-defined]
    for address in ("1.2.3.4", "1.2.3.5", "1.2.3.4"):
        client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %s\r\nX-Forwarded-Proto: https\r\n\r\n"
            % address.encode()
        )
        (event,) = answer_all(linked, client)
        assert event.about["peer"] == address
        assert event.about["scheme"] == "https"
    client.output()
    client.send(GET)
    (event,) = answer_all(linked, client)
    assert "peer" not in event.about
    assert harness.registry.policy.address_limits.refusal(b"\x01\x02\x03\x04", 0) == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 200),
        (b"Origin: http://x\r\n", 200),
        (b"Origin: http://other\r\n", 403),
        (b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", 200),
        (b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403),
        (b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n", 200),
    ],
)
def test_pages_of_other_sites_may_link_here_and_no_more(headers: bytes, status: int) -> None:
    _, linked, client = begin()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    answer_all(linked, client)
    assert read(client.output(), "GET")[0].status == status


def test_a_form_of_another_site_is_refused() -> None:
    _, linked, client = begin()
    fetch = b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + fetch + b"\r\n")
    assert read(client.output(), "POST")[0].status == 403
    assert not linked.events


def test_other_hosts_are_refused() -> None:
    for host, status in ((b"x", 200), (b"y", 421)):
        _, linked, client = begin(hosts=("x",))
        client.send(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
        answer_all(linked, client)
        assert read(client.output(), "GET")[0].status == status


def test_many_clients_at_once_get_their_own_answers() -> None:
    harness = Harness()
    workers = [harness.worker() for _ in range(3)]
    clients = [Client(harness) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(
            b"".join(b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number, n) for n in range(5))
        )
    for linked in itertools.chain(*itertools.repeat(workers, 30)):
        answer_all(linked, *clients)
    for number, client in enumerate(clients):
        answers = read(client.output(), *["GET"] * 5)
        assert [each.body for each in answers] == [b"GET /%d/%d " % (number, n) for n in range(5)]


# --- counts ---


def responses(harness: Harness) -> dict[str, dict[str, int]]:
    found = harness.registry.totals.values()
    return {each.kind: each.responses for each in found if each.responses}


@pytest.mark.parametrize(
    ("status", "name"), [(200, "2xx"), (204, "2xx"), (302, "3xx"), (404, "4xx"), (503, "5xx")]
)
def test_responses_are_counted_by_the_class_of_their_status(status: int, name: str) -> None:
    harness, linked, client = begin()
    client.send(GET)
    (event,) = linked.events
    linked.ack(event, commands=(Respond(event.con, status, [], b""),))
    client.step()
    assert responses(harness) == {"http": {name: 1}}


def test_a_response_in_pieces_is_counted_once_and_what_is_not_answered_too() -> None:
    harness, linked, client = begin()
    client.send(GET + POST)
    (event,) = linked.events
    linked.ack(event, commands=(Respond(event.con, 200, [], b"a", final=False),))
    linked.say(Send(event.con, b"b", "binary"))
    client.step()
    (event,) = linked.events
    linked.ack(event)
    client.step()
    assert responses(harness) == {"http": {"2xx": 1, "4xx": 1}}


def test_a_request_that_the_gateway_fails_is_counted() -> None:
    harness, linked, client = begin()
    client.send(GET)
    (event,) = linked.events
    linked.ack(event, commands=(Close(event.con, 1011, "no"),))
    client.step()
    assert responses(harness) == {"http": {"5xx": 1}}
