"""accept and reject, as handlers call them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.workers.conftest import Pair, closed, con_id, connect, message
from wsraw.link.records import Accept, Close, OnConnect, Reject, Send

MakePair = Callable[..., Pair]

ASYNC = pytest.mark.parametrize("kind", ["def", "async def"])


@ASYNC
def test_reject_sends_its_status_and_body(pair: MakePair, kind: str) -> None:
    p = pair(f"""
        heard = []
        {kind} on_connect(inf, con):
            con.reject(401, "Who", {{"X": "y"}}, "grün")
        {kind} on_message(msg, con):
            heard.append(msg)
        {kind} on_close(con):
            heard.append(con.closed)
    """)
    assert p.run(connect(1, verdict=True)) == [
        Reject(con_id(1), 401, "Who", {"X": "y"}, "grün".encode())
    ]
    # After that only the end is handled.
    assert p.run(message(1, b"x"), closed(1)) == []
    assert p.heard == [True]


def test_accept_sends_its_subprotocol_and_headers(pair: MakePair) -> None:
    p = pair("""
        def on_connect(inf, con):
            con.accept("chat", {"Set-Cookie": "a=b"})
            con.send("hello")
    """)
    event = connect(1, verdict=True)
    event.inf["sec-websocket-protocol"] = "superchat, chat"
    assert p.run(event) == [
        Accept(con_id(1), "chat", {"Set-Cookie": "a=b"}),
        Send(con_id(1), b"hello", "text"),
    ]


@ASYNC
@pytest.mark.parametrize("on_exception", ["close", "keep"])
@pytest.mark.parametrize(
    "what",
    [
        "1 / 0",
        "con.reject(200)",
        "con.reject('401')",
        "con.reject(403, 'a\\nb')",
        "con.reject(403, headers={'X': 'a\\nb'})",
        "con.reject(403, headers={'X y': 'a'})",
        "con.reject(403, headers={'X': 1})",
        "con.reject(403, body='x' * 40_000)",
        "con.accept('a b')",
        "con.accept(headers={'X': 'a\\r\\nb'})",
        "con.reject(403); 1 / 0",
    ],
)
def test_an_exception_rejects_the_client(
    pair: MakePair, kind: str, on_exception: str, what: str
) -> None:
    p = pair(f"{kind} on_connect(inf, con):\n    {what}\n", on_exception)
    assert p.run(connect(1, verdict=True)) == [Reject(con_id(1), 500)]
    assert p.run(message(1, b"x")) == []


@ASYNC
@pytest.mark.parametrize("what", ["accept", "reject"])
def test_without_a_pending_verdict_accept_and_reject_raise(
    pair: MakePair, kind: str, what: str
) -> None:
    p = pair(f"""
        {kind} on_connect(inf, con):
            con.{what}()
        {kind} on_message(msg, con):
            try:
                con.{what}()
            except RuntimeError as error:
                return str(error)
    """)
    # No verdict was asked for: a client that should have been rejected must not stay.
    assert p.run(connect(1)) == [Close(con_id(1), 1011, "internal error")]
    decided = p.run(connect(2, verdict=True))
    assert [type(record).__name__ for record in decided] == [what.capitalize()]
    if what == "accept":
        (reply,) = p.run(message(2, b"x"))
        assert b"the setting verdict = handlers" in reply.data.replace(b"\n", b" ")


def test_accept_and_reject_raise_for_a_connection_of_another_worker(pair: MakePair) -> None:
    p = pair("")
    p.con(9).reject(403)
    assert p.commands() == [Reject(con_id(9), 403)]


def test_a_close_before_the_101_is_not_a_rejection(pair: MakePair) -> None:
    p = pair("def on_connect(inf, con):\n    con.close(4000)\n")
    assert p.run(connect(1, verdict=True)) == [Close(con_id(1), 4000)]


def test_the_facts_about_the_client_are_shown(pair: MakePair) -> None:
    p = pair("")
    p.run(connect(1, about={"peer": "203.0.113.9", "proxy": "10.0.0.1:5", "scheme": "wss"}))
    con = p.con(1)
    assert (con.peer, con.proxy, con.scheme) == ("203.0.113.9", "10.0.0.1:5", "wss")
    p.run(connect(2))
    assert (p.con(2).proxy, p.con(2).scheme) == ("", "ws")
    p.run(OnConnect(0, con_id(3), {"Protocol": "raw"}, about={"tls": {"version": "TLSv1.3"}}))
    assert p.con(3).scheme == "tls"


@ASYNC
def test_nobody_is_rejected_once_that_is_decided(pair: MakePair, kind: str) -> None:
    """The gateway would refuse it, and no handler would get the client's data."""
    p = pair(f"""
        heard = []
        def late(con):
            try:
                con.reject(401)
            except RuntimeError as error:
                heard.append(str(error).partition(":")[0])
        {kind} on_connect(inf, con):
            if inf.get("way") == "accept":
                con.accept()
                late(con)
            heard.append(con)
        {kind} on_message(msg, con):
            heard.append(msg["data"])
    """)
    event = connect(1, verdict=True)
    event.inf["way"] = "accept"
    assert p.run(event) == [Accept(con_id(1))]
    assert p.run(connect(2, verdict=True)) == []
    p.module.late(p.heard.pop())
    p.run(message(1, b"1"), message(2, b"2"))
    assert p.heard == ["nothing to reject", p.con(1), "nothing to reject", "1", "2"]
