"""A pool without workers whose clients are spliced with targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.harness import HANDSHAKE, Harness
from tests.gateway.splices.test_splices import CLOSED, Peer, in_all_kinds
from wsraw.config.addresses import Listen
from wsraw.config.checks import from_options
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection, ConnectionState
from wsraw.gateway.http import answer, http_head
from wsraw.gateway.splices.bridges import Bridges
from wsraw.gateway.websocket.handshake import accept_key

OFFER = HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: %s\r\n\r\n")


def bridge(target: str = "tcp://h:1", **keys: Any) -> Harness:
    table = {"to": target, **keys}
    read = from_options({"bridges": [{k: v for k, v in table.items() if v is not None}]})
    harness = Harness(bridges=read.bridges, high_water_mark=1000, pause_timeout=20.0)
    Bridges(harness.registry, harness.sessions.splices, harness.settings, run_now)
    return harness


def run_now(delay: float, callback: Callable[[], object]) -> None:
    callback()


def dialed(harness: Harness) -> Connection:
    [entry] = harness.registry.to_dial
    harness.registry.to_dial.clear()
    return entry.con


def fail(harness: Harness, con: Connection, why: str) -> None:
    harness.registry.take(con, con.connect_failed(why, 0.0), 0.0)


@in_all_kinds
def test_a_client_and_a_target_are_joined(kinds: tuple[str, str]) -> None:
    harness = bridge("ws://h:1/" if kinds[1] == "ws" else "tcp://h:1")
    client = Peer(harness)
    if kinds[0] == "raw":
        client.con = harness.raw(b"early ")
        early = b"early "
    else:
        client = Peer.accepted(harness, "ws")
        assert client.con.state is ConnectionState.CONNECTING
        early = b""
    target = Peer.opened(harness, dialed(harness))
    client.read()
    assert client.con.state is ConnectionState.OPEN
    client.say(b"up")
    target.say(b"down")
    client.read()
    target.read()
    assert (target.bytes, client.bytes) == (early + b"up", b"down")
    assert {entry.pool.name for entry in harness.registry.entries.values()} == {"bridge:1"}
    target.eof() if kinds[1] == "raw" else target.close(1000)
    for peer in (client, target, client):
        peer.read()
        if peer.protocol is not None:
            peer._flush()
    if kinds == ("raw", "raw"):
        client.eof()
        target.read()
    for peer in (target, client):
        assert peer.con.state is CLOSED
        peer.con.endpoint = None
    assert not harness.registry.entries
    assert harness.registry.flow.total == 0


def test_what_a_target_says_first_follows_the_101() -> None:
    harness = bridge()
    client = Peer.accepted(harness, "ws")
    target = Peer.opened(harness, dialed(harness))
    target.say(b"RFB 003.008\n")
    client.read()
    assert client.bytes == b"RFB 003.008\n"


@pytest.mark.parametrize(
    ("why", "status"),
    [("cannot connect to h:1: refused", 502), ("timed out: no answer from h:1", 504)],
)
def test_a_websocket_client_learns_that_its_target_is_down(why: str, status: int) -> None:
    harness = bridge()
    con = harness.raw(HANDSHAKE)
    fail(harness, dialed(harness), why)
    said = harness.write(con)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert said.endswith(b"the target cannot be reached\n")
    assert con.state is CLOSED
    assert not harness.registry.entries


def test_a_target_that_is_a_websocket_may_refuse() -> None:
    harness = bridge("ws://h:1/")
    con = harness.raw(HANDSHAKE)
    target = dialed(harness)
    harness.registry.take(target, target.connected(0.0), 0.0)
    harness.write(target)
    harness.say(target, answer(403, "", {"X-Why": "so"}, b"no"))
    said = harness.write(con)
    assert said.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nX-Why: so\r\n" in said
    assert said.endswith(b"\r\n\r\nno")


def test_a_target_that_is_not_a_websocket_becomes_a_502() -> None:
    for said in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"SSH-2.0-x\r\n"):
        harness = bridge("ws://h:1/")
        con = harness.raw(HANDSHAKE)
        target = dialed(harness)
        harness.registry.take(target, target.connected(0.0), 0.0)
        harness.write(target)
        harness.say(target, said)
        assert harness.write(con).startswith(b"HTTP/1.1 502 ")


def test_what_the_target_sets_beside_its_101_reaches_the_client() -> None:
    harness = bridge("ws://h:1/")
    con = harness.raw(HANDSHAKE)
    target = dialed(harness)
    harness.registry.take(target, target.connected(0.0), 0.0)
    request = harness.write(target)
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2, c"),
    ]
    harness.say(target, http_head(101, "x", fields))
    said = harness.write(con)
    assert said.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2, c\r\n" in said
    assert said.count(b"Sec-WebSocket-Accept") == 1


@pytest.mark.parametrize("kind", ["raw", "ws"])
def test_a_target_is_told_the_address_first(kind: str) -> None:
    harness = bridge(send_proxy="v1")
    con = accepted(
        harness.registry.ids.new(),
        Listen(name="test"),
        harness.settings,
        {"peer": "192.0.2.7:4711"},
        0.0,
        harness.registry.policy,
    )
    con.endpoint = Endpoint()
    harness.say(con, b"hello" if kind == "raw" else HANDSHAKE)
    opening = dialed(harness).phase.opening
    assert opening is not None
    assert opening.preface == b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n"


class Endpoint:
    """The address that a client has connected to."""

    @property
    def sock(self) -> Endpoint:
        return self

    def getsockname(self) -> tuple[str, int]:
        return "10.0.0.1", 80


def test_clients_wait_while_a_large_file_of_tokens_is_read(tmp_path: Path) -> None:
    """Clients of other bridges do not wait, and a client may leave meanwhile."""
    path = tmp_path / "tokens"
    path.write_text("".join(f"t{n}: h:{n % 60000 + 1}\n" for n in range(50_000)), "utf-8")
    tables = [{"tokens": str(path), "path": "/vnc/{token}"}, {"to": "tcp://h:1"}]
    harness = Harness(bridges=from_options({"bridges": tables}).bridges)
    turns: list[Callable[[], object]] = []
    Bridges(
        harness.registry,
        harness.sessions.splices,
        harness.settings,
        lambda _, callback: turns.append(callback),
    )
    cons = [
        harness.raw(HANDSHAKE.replace(b"GET / ", b"GET /vnc/t%d " % number))
        for number in (1, 2, 49_999)
    ]
    harness.raw(HANDSHAKE)
    assert dialed(harness).about["target"] == "tcp://h:1"
    harness.hang_up(cons[1])
    count = 0
    while turns:
        turns.pop()()
        count += 1
        assert len(turns) < 2
    assert count > 30
    found = [entry.con.about["target"] for entry in harness.registry.to_dial]
    assert found == ["h:2", "h:50000"]


def test_a_raw_client_whose_target_is_down_is_reset() -> None:
    harness = bridge()
    con = harness.raw(b"hello")
    fail(harness, dialed(harness), "refused")
    assert con.output.reset
    assert harness.write(con) == b""
    assert not harness.registry.entries


@pytest.mark.parametrize("kind", ["raw", "ws"])
def test_a_client_that_leaves_before_its_target_is_there_takes_it_along(kind: str) -> None:
    harness = bridge()
    con = harness.raw(b"hello" if kind == "raw" else HANDSHAKE)
    target = dialed(harness)
    harness.hang_up(con)
    assert target.state is CLOSED
    assert not harness.registry.entries


def test_a_client_without_a_target_is_refused() -> None:
    harness = bridge(None, tokens="/no/such/file", path="/vnc/{token}")  # type: ignore[arg-type]
    con = harness.raw(HANDSHAKE.replace(b"GET / ", b"GET /vnc/a "))
    assert harness.write(con).startswith(b"HTTP/1.1 502 ")
    other = harness.raw(HANDSHAKE.replace(b"GET / ", b"GET /else "))
    assert bytes(other.output.data_to_send()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("offered", "chosen"), [(b"binary, base64", b"binary"), (b"base64", None), (b"chat", None)]
)
def test_the_subprotocol_binary_is_selected(offered: bytes, chosen: bytes | None) -> None:
    harness = bridge()
    con = harness.raw(OFFER % offered)
    Peer.opened(harness, dialed(harness))
    said = harness.write(con)
    assert said.startswith(b"HTTP/1.1 101 ")
    line = b"Sec-WebSocket-Protocol: "
    assert (line in said) == (chosen is not None)
    assert chosen is None or line + chosen in said


def test_between_websockets_the_target_selects_the_subprotocol() -> None:
    harness = bridge("ws://h:1/")
    con = harness.raw(OFFER % b"one, two")
    target = dialed(harness)
    harness.registry.take(target, target.connected(0.0), 0.0)
    request = harness.write(target)
    assert b"Sec-WebSocket-Protocol: one, two\r\n" in request
    server = Peer(harness)
    server.con = target
    from websockets.http11 import Request
    from websockets.server import ServerProtocol
    from websockets.typing import Subprotocol

    server.protocol = protocol = ServerProtocol(subprotocols=[Subprotocol("two")])
    protocol.receive_data(request)
    [event] = protocol.events_received()
    assert isinstance(event, Request)
    protocol.send_response(protocol.accept(event))
    server._flush()
    assert b"Sec-WebSocket-Protocol: two\r\n" in harness.write(con)


def test_a_client_without_a_subprotocol_gets_none() -> None:
    """The subprotocol that is offered for raw clients is not offered for this one."""
    harness = bridge("ws://h:1/")
    harness.raw(HANDSHAKE)
    target = dialed(harness)
    harness.registry.take(target, target.connected(0.0), 0.0)
    assert b"Sec-WebSocket-Protocol" not in harness.write(target)
    harness.raw(b"hello")
    target = dialed(harness)
    harness.registry.take(target, target.connected(0.0), 0.0)
    assert b"Sec-WebSocket-Protocol: binary\r\n" in harness.write(target)


def test_a_client_that_is_never_read_by_its_target_ends_in_time() -> None:
    """A pause has an end even without workers."""
    harness = bridge()
    client = Peer(harness)
    client.con = harness.raw(b"x" * 2000)
    target = Peer.opened(harness, dialed(harness))
    harness.run(25.0)
    assert client.con.ending.cause == "stalled"
    assert target.con.state is CLOSED


def test_lines_become_texts() -> None:
    harness = bridge("ws://h:1/", framing="line")
    client = Peer(harness)
    client.con = harness.raw(b"one\ntw")
    target = Peer.opened(harness, dialed(harness))
    client.say(b"o\n")
    target.read()
    assert target.frames == [("TEXT", b"one", True), ("TEXT", b"two", True)]
