"""A request and the data after it, sent to a listener of each kind."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

from tests.corpus import CASES, OFFER, UPGRADE, frame
from tests.fuzz.oracles import check_life, joined, outcome, pieces
from wsraw.config.addresses import Listen
from wsraw.config.settings import PoolSettings, RouteSettings, Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, CLOSING, OPEN, SNIFFING, Connection

LISTENS = [
    Listen(name="test"),
    Listen(name="test", plain_http="reject"),
    Listen(name="test", plain_http="health"),
    Listen(name="test", protocol="websocket"),
    Listen(name="test", protocol="raw"),
]
ROUTED = Settings(
    pools=(PoolSettings(name="a"), PoolSettings(name="b", subprotocols=("soap",))),
    routes=(
        RouteSettings(pool="a", path="/{name}"),
        RouteSettings(pool="b", path="/b/{rest...}", host="*.example.com"),
        RouteSettings(pool="b", subprotocol="chat"),
        RouteSettings(pool="b", kind="raw"),
    ),
)
SETTINGS = [Settings(), Settings(subprotocols=("chat", "soap")), Settings(deflate=False), ROUTED]
KINDS = len(LISTENS) * len(SETTINGS)

SEEDS = [bytes((i % KINDS,)) + case.data[:1500] for i, case in enumerate(CASES)] + [
    b"\0" + UPGRADE % OFFER + frame(0x81, b"hello"),
    b"\x0f" + UPGRADE % b"" + frame(0x81, b"hello"),
    b"\x0f" + UPGRADE.replace(b"/chat", b"/b/%%2e%%2e/x") % b"Sec-WebSocket-Protocol: chat\r\n",
    b"\x05" + UPGRADE % b"Sec-WebSocket-Protocol: soap, chat\r\n" + frame(0x88, b""),
    b"\0" + UPGRADE % b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8\r\n",
]
WORDS = [
    b"GET ",
    b"HEAD / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Origin: https://evil.example\r\n",
    b"Origin: http://a\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"GET /b/",
    b"%2F",
    b"/../",
    b" HTTP/1.1\r\n",
    b"\r\n\r\n",
    b"Host: a\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Version: 8\r\n",
    b"Sec-WebSocket-Protocol: chat\r\n",
    b"Sec-WebSocket-Extensions: ",
    b"permessage-deflate",
    b"; client_max_window_bits",
    b"; server_max_window_bits=9",
    b"; server_no_context_takeover",
    b'="15"',
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"method: x\r\n",
    b"Protocol: x\r\n",
    b"\r\n ",
    b"A: b\r\n" * 130,
]

STATUS = re.compile(rb"HTTP/1\.1 (101|200|4[0-9][0-9]|505) ")
REQUEST = re.compile(rb"(GET|HEAD|POST|PUT) [!-~\x80-\xff]+ HTTP/1\.[0-9]\r?\n")
LINE = re.compile(rb"[!-9;-~]+: [\t -~]*")


def feed(listen: Listen, settings: Settings, chunks: Any) -> tuple[Connection, list[Any], bytes]:
    con = accepted(7, listen, settings, {}, 0.0)
    events = list(con.first_events(0.0))
    for chunk in chunks:
        some = con.receive_data(chunk, 0.0)
        # Data that one turn has held back comes in the next turns, as in the gateway.
        while some or con.intake.has_more:
            events += some
            some = con.resume(0.0)
    if con.kind == "websocket":
        events += con.drained(0.0)
    return con, events, re.sub(rb"Date: [^\r]*\r\n", b"", b"".join(con.output.chunks))


def check_answer(output: bytes, is_head: bool) -> None:
    """Check that no input of a client becomes a header of our answer."""
    head, end, body = output.partition(b"\r\n\r\n")
    assert end
    first, *lines = head.split(b"\r\n")
    assert STATUS.match(first), first
    for line in lines:
        assert LINE.fullmatch(line), line
    if not first.startswith(b"HTTP/1.1 101 "):
        size = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert size is not None
        assert int(size[1]) == len(body) or (is_head and not body)


def run(data: bytes) -> Hashable:
    number, data = data[:1], data[1:]
    n = number[0] % KINDS if number else 0
    listen, settings = LISTENS[n % 5], SETTINGS[n // 5]
    chunks = (data,) if data else ()
    con, events, output = feed(listen, settings, chunks)
    again, others, other = feed(listen, settings, pieces(data))
    assert con.state in (SNIFFING, OPEN, CLOSING, CLOSED)
    assert again.state is con.state
    assert joined(others) == joined(events)
    assert other == output
    if output:
        check_answer(output, data.startswith(b"HEAD "))
    if con.kind == "raw" and listen.protocol == "any" and events:
        head = re.split(rb"\n\r?\n", data)[0]
        assert not (REQUEST.match(data[: 8 * 1024]) and b"\nOrigin: https://evil" in head)
    if con.kind == "websocket" and events:
        assert output.startswith(b"HTTP/1.1 101 ")
        assert con.inf["url"].isascii()
        assert con.inf["Protocol"] == "websocket server"
    if settings is ROUTED and events:
        params = con.about.get("params", {})
        assert (con.pool, *params) in {("a", "name"), ("b", "rest"), ("b",)}
        assert con.pool == "b" or params["name"]
    result = outcome(con, events)
    check_life(con, events)
    before = con.state
    events += con.receive_eof(0.0)
    events += con.drained(0.0)
    assert con.state is CLOSED or (con.intake.half_closed and con.output.size)
    check_life(con, events)
    return n, before, result, len(con.about), con.pool
