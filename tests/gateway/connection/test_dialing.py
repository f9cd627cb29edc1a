from __future__ import annotations

import math
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.corpus import tell
from tests.gateway.connection.connections import (
    answer,
    dial,
    flush,
    understood,
)
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import (
    CLOSING,
    CONNECTING,
    OPEN,
)
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.websocket.handshake import MOST_BODY, MOST_CHUNKS
from wsraw.link.open_options import check
from wsraw.link.records import Event, OnClose, OnConnect, OnError, OnMessage, Open


def test_an_opened_raw_connection_has_no_on_connect() -> None:
    con = dial()
    assert (con.state, con.kind, con.opened, con.target) == (
        CONNECTING,
        "raw",
        True,
        "example.com:80",
    )
    assert con.about == {"target": "example.com:80", "kind": "raw"}
    con.send(b"early", "text", True, 0.0)
    assert con.connected(1.0) == []
    assert (con.state, con.output.data_to_send(), con.keepalive.deadline) == (
        OPEN,
        b"early",
        math.inf,
    )
    assert tell(con.receive_data(b"x", 1.0)) == ["raw x"]


def test_an_opened_websocket_exchanges_messages() -> None:
    con = dial(protocol="websocket")
    con.send(b"ear", "text", False, 0.0)
    con.send(b"ly", "text", True, 0.0)
    assert "UTF-8" in (con.send(b"\xff", "text", True, 0.0) or "")
    assert con.connected(1.0) == []
    assert con.state is CONNECTING
    events, peer = answer(con, 2.0, behind=b"\x81\x05hello")
    assert tell(events) == ["connect websocket client", "text hello"]
    assert con.inf["Sec-WebSocket-Accept"]
    assert con.keepalive.deadline == 22.0
    con.send(b"later", "text", True, 2.0)
    assert understood(peer, flush(con, 2.0)) == [
        ("TEXT", b"ear"),
        ("CONT", b"ly"),
        ("TEXT", b"later"),
    ]


def test_the_subprotocol_of_an_opened_websocket_is_reported() -> None:
    con = dial(protocol="websocket", options={"subprotocols": ["chat"]})
    con.connected(0.0)
    peer = ServerProtocol(subprotocols=["chat"])  # type: ignore[list-item]
    peer.receive_data(flush(con))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    peer.send_response(peer.accept(request))
    (event,) = con.receive_data(b"".join(peer.data_to_send()), 0.0)
    assert isinstance(event, OnConnect)
    assert event.about["target"] == "example.com:80"
    assert event.about["subprotocol"] == "chat"


@pytest.mark.parametrize("size", [5, 1 << 20])
@pytest.mark.parametrize("cut", [0, 1, 2, 7, -1])
def test_compressed_messages_right_behind_the_answer_of_a_server_are_inflated(
    cut: int, size: int
) -> None:
    """A server may send messages before we have read its answer, in the same packet as the
    answer.
    """
    con = dial(protocol="websocket", max_message_size=1 << 20)
    con.connected(0.0)
    server = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=None)
    server.receive_data(flush(con))
    request = server.events_received()[0]
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    data = b"".join(server.data_to_send())
    for text in (b"first" * (size // 5), b"second"):
        server.send_text(text)
    frames = b"".join(server.data_to_send())
    head = len(data) + cut if cut >= 0 else len(data + frames)
    data += frames
    events = con.receive_data(data[:head], 0.0)
    events += con.receive_data(data[head:], 0.0) if data[head:] else []
    while con.intake.has_more:
        events += con.resume(0.0)
    texts = [event.data for event in events if isinstance(event, OnMessage)]
    assert texts == [b"first" * (size // 5), b"second"]
    assert con.state is OPEN


# --- answers of servers that refuse ---

BODY = bytes(range(256)) * 1024


def refused(*parts: bytes, eof: bool = False, after: float = 0.0) -> tuple[str, Any]:
    """The message of on_error, and con.response, after a server's refusal."""
    con = dial(protocol="websocket", connect_timeout=5.0)
    con.connected(0.0)
    flush(con)
    events: list[Event] = []
    for part in parts:
        events += con.receive_data(part, 0.0)
    if eof:
        events += con.receive_eof(0.0)
    if after:
        events += con.handle_timeout(after)
    error, close = events
    assert isinstance(error, OnError)
    assert isinstance(close, OnClose)
    assert error.about.get("response") == close.about.get("response")
    return error.message, error.about.get("response")


@pytest.mark.parametrize("length", [b"", b"Content-Length: %d\r\n" % len(BODY)])
def test_the_beginning_of_a_long_refusal_is_reported_at_once(length: bytes) -> None:
    head = b"HTTP/1.1 500 no\r\n" + length + b"\r\n"
    message, response = refused(head, BODY)
    assert message == "server rejected WebSocket connection: HTTP 500"
    assert (response["status"], response["body"]) == (500, BODY[:MOST_BODY])


def test_a_chunked_refusal_is_read() -> None:
    head = b"HTTP/1.1 401 no\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
    for data in ([whole], [bytes((byte,)) for byte in whole[:-2]]):
        assert refused(*data)[1]["body"] == b"abc0123456789"
    assert refused(head, b"40000\r\n", BODY)[1]["body"] == BODY[:MOST_BODY]
    assert refused(head, b"3\r\nabc\r\nno size", eof=True)[1]["body"] == b"abc"
    for wrong in (b"-1\r\n", b"x\r\n", b"1\r\nabc", b"ffffffffffffffffffff\r\n"):
        assert refused(head, b"2\r\nok\r\n" + wrong)[1]["body"].startswith(b"ok")


def test_endless_chunks_take_time_in_proportion_to_their_number() -> None:
    head = b"HTTP/1.1 500 no\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, response = refused(head, b"1\r\nx\r\n" * 2000)
    assert response["body"] == b"x" * MOST_CHUNKS


def test_an_unfinished_refusal_is_reported_when_the_time_is_up() -> None:
    message, response = refused(b"HTTP/1.1 403 no\r\nX: y\r\n\r\nbecause", after=5.0)
    assert message == "server rejected WebSocket connection: HTTP 403"
    assert response["body"] == b"because"
    message, response = refused(b"HTTP/1.1 403 no\r\nX: y\r\n", after=5.0)
    assert (message, response) == ("timed out after 5 s", None)


def test_a_refusal_in_http_1_0_is_read() -> None:
    _, response = refused(b"HTTP/1.0 404 no\r\n\r\nnothing here", eof=True)
    assert (response["status"], response["body"]) == (404, b"nothing here")
    assert "HTTP/1.0" in refused(b"HTTP/1.0 101 yes\r\n\r\n")[0]


def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    assert (
        refused(interim * 3 + b"HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n")[1]["status"] == 401
    )
    assert refused(interim * 100)[1]["status"] == 103, "not for ever"
    con = dial(protocol="websocket")
    con.connected(0.0)
    con.receive_data(interim, 0.0)
    events, _ = answer(con)
    assert tell(events) == ["connect websocket client"]


def test_an_opened_raw_connection_that_reconnects_reports_that_it_is_open() -> None:
    con = dial(options={"reconnect": True})
    assert tell(con.connected(0.0)) == ["connect raw"]


def test_bytes_before_a_connection_is_open_are_ignored() -> None:
    assert dial().receive_data(b"x", 0.0) == []


def test_a_ws_target_is_opened_as_a_websocket() -> None:
    con = dialed(8, check(Open(8, "ws://h:1")), Settings(), {}, 0.0)
    assert con.kind == "websocket"


def test_data_sent_before_a_connection_is_open_is_bounded() -> None:
    con = dial(protocol="websocket", output_limit=10)
    assert con.send(b"0123456789", "binary", True, 0.0) is None
    assert con.send(b"a", "binary", True, 0.0) is None
    assert (con.output.early_size, con.output.size) == (11, 0), (
        "its bound is judged with the output"
    )


def test_an_opened_connection_reports_why_it_failed() -> None:
    con = dial()
    about = {"target": "example.com:80", "kind": "raw"}
    assert con.connect_failed("refused", 0.0) == [
        OnError(0, 8, "refused", about=about),
        OnClose(0, 8, 1006, "", "connect-failed", about=about),
    ]
    assert con.connect_failed("refused", 0.0) == []
    assert con.connected(0.0) == []
    con = dial(protocol="websocket")
    con.connected(0.0)
    assert tell(con.receive_data(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 0.0)) == [
        "error",
        "close 1006 connect-failed",
    ]
    for end in (lambda con: con.receive_eof(0.0), lambda con: con.lost("reset", 0.0)):
        con = dial(protocol="websocket")
        con.connected(0.0)
        assert tell(end(con)) == ["error", "close 1006 connect-failed"]


@pytest.mark.parametrize(
    ("stands", "cause"), [(False, "connect-failed"), (True, "handshake-timeout")]
)
def test_a_connection_that_is_not_open_in_time_fails(stands: bool, cause: str) -> None:
    con = dial(protocol="websocket", options={"connect_timeout": 2.5})
    if stands:
        con.connected(1.0)
    assert con.keepalive.deadline == 2.5
    about = {"target": "example.com:80", "kind": "websocket"}
    assert con.handle_timeout(2.5) == [
        OnError(0, 8, "timed out after 2.5 s", about=about),
        OnClose(0, 8, 1006, "", cause, about=about),
    ]


def test_an_opening_connection_can_be_closed() -> None:
    for protocol in ("raw", "websocket"):
        con = dial(protocol=protocol)
        assert tell(con.close(1000, "", "handler", 0.0)) == ["close 1006 handler"]
        assert con.connected(1.0) == []


def test_data_sent_between_open_and_close_is_delivered() -> None:
    con = dial()
    con.send(b"data", "text", True, 0.0)
    assert con.close(1000, "", "handler", 0.0) == []
    con.send(b"late", "text", True, 0.0)
    assert con.connected(1.0) == [OnClose(0, 8, 1000, "", "handler")]
    assert con.output.data_to_send() == b"data"

    con = dial(protocol="websocket")
    con.send(b"data", "text", True, 0.0)
    assert con.close(4000, "", "handler", 0.0) == []
    con.connected(1.0)
    events, peer = answer(con, 2.0)
    assert tell(events) == ["connect websocket client"]
    assert con.state is CLOSING
    assert understood(peer, flush(con, 2.0)) == [("TEXT", b"data"), ("CLOSE", b"\x0f\xa0")]
    assert tell(con.receive_data(b"".join(peer.data_to_send()), 3.0)) == ["close 4000 handler"]


def test_a_stopping_gateway_does_not_wait_for_an_opening_connection() -> None:
    con = dial()
    con.send(b"data", "text", True, 0.0)
    assert tell(con.close(1001, "", "going-away", 0.0)) == ["close 1006 going-away"]
