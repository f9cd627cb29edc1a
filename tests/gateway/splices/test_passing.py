"""Headers, paths and addresses that are passed between a client and its target."""

from __future__ import annotations

from typing import Any

import pytest

from wsraw.config.checks import from_options
from wsraw.config.settings import BridgeSettings, Settings
from wsraw.gateway.connection.connection import Connection, Phase
from wsraw.gateway.http import MAX_ANSWER
from wsraw.gateway.splices.passing import answered, client_of, refused, request_of
from wsraw.gateway.websocket.handshake import MOST_BODY, HandshakeResponse
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.open_options import Opening, check, open_of

HEADERS = {
    "Host": "chat.example",
    "Connection": "Upgrade, X-Hop",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "k",
    "Sec-WebSocket-Version": "13",
    "Origin": "https://chat.example",
    "Cookie": "a=1; b=2",
    "Authorization": "Bearer x",
    "X-Hop": "here only",
    "Proxy-Authorization": "Basic y",
    "x-forwarded-for": "6.6.6.6",
    "X-Forwarded-User": "root",
    "Forwarded": "for=6.6.6.6",
    "X-Real-IP": "6.6.6.6",
    "X-App": "yes",
}


def client(url: str = "/", peer: str = "192.0.2.7:4711", **about: Any) -> Connection:
    con = Connection(1, Settings(), {"peer": peer, **about}, Phase(), opened=False)
    con.inf = {"method": "GET", "url": url, "Protocol": "websocket server", **HEADERS}
    con.websocket = WebSocket(Settings())
    return con


def raw(peer: str = "192.0.2.7:4711") -> Connection:
    con = Connection(1, Settings(), {"peer": peer}, Phase(), opened=False)
    con.inf = {"Protocol": "raw"}
    return con


def opened(con: Connection, to: str = "ws://h:1", **keys: Any) -> Opening:
    bridge = BridgeSettings(to=to, **keys)
    return check(request_of(bridge, con, open_of(bridge, to)))


def headers(con: Connection, to: str = "ws://h:1", **keys: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in opened(con, to, **keys).headers}


# --- path and query ---


@pytest.mark.parametrize(
    ("to", "path", "url", "params", "passed"),
    [
        ("ws://h:1", "", "/any/%20where?x=1&y", {}, "/any/%20where?x=1&y"),
        ("ws://h:1/", "", "/any?x=1", {}, "/?x=1"),
        ("ws://h:1/feed", "", "/any", {}, "/feed"),
        ("ws://h:1/feed?k=1", "", "/any?x=1", {}, "/feed?k=1"),
        ("ws://h:1?k=1", "", "/any?x=1", {}, "/?k=1"),
        ("ws://h:1/{room}/in", "/r/{room}", "/r/a%2Fb", {"room": "a/b"}, "/a%2Fb/in"),
        ("ws://h:1/{rest...}", "/r/{rest...}", "/r/a/b?q", {"rest": "a/b"}, "/a/b?q"),
        ("ws://h:1/{rest}", "/r/{rest...}", "/r/a?b", {"rest": "ü?"}, "/%C3%BC%3F?b"),
        ("ws://h:1/x?r={room}", "/r/{room}", "/r/a", {"room": "a&k=/é"}, "/x?r=a%26k%3D%2F%C3%A9"),
    ],
)
def test_a_target_gets_the_path_of_its_client(
    to: str, path: str, url: str, params: dict[str, str], passed: str
) -> None:
    assert opened(client(url, params=params), to, path=path).url == passed


def test_the_token_stays_here() -> None:
    bridge = BridgeSettings(tokens="f")
    for url, passed in (
        ("/p?token=s", "/p"),
        ("/p?a=1&token=s&b=2", "/p?a=1&b=2"),
        ("/p?token=s&b=2", "/p?b=2"),
        ("/p?tokens=s", "/p?tokens=s"),
    ):
        assert request_of(bridge, client(url), open_of(bridge, "ws://h:1")).url == passed


def test_a_target_in_absolute_form_is_no_path() -> None:
    with pytest.raises(ValueError, match="begins with /"):
        opened(client("http://evil/x"))


def test_a_raw_client_has_no_request() -> None:
    found = opened(raw(), "ws://h:1/feed?k=1", set_headers=("X-Key: 7",))
    assert found.url == "/feed?k=1"
    assert found.headers == [("Host", "h:1"), ("X-Forwarded-For", "192.0.2.7"), ("X-Key", "7")]


def test_a_raw_target_gets_no_request() -> None:
    assert opened(client("/x"), "tcp://h:1").headers == []


# --- headers ---


def test_a_target_gets_headers_of_the_client_and_of_the_forwarding() -> None:
    assert headers(client()) == {
        "host": "chat.example",
        "origin": "https://chat.example",
        "cookie": "a=1; b=2",
        "authorization": "Bearer x",
        "x-app": "yes",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-host": "chat.example",
        "x-forwarded-proto": "http",
    }


def test_the_host_of_wss_is_its_own() -> None:
    assert headers(client(), "wss://h/")["host"] == "h"
    assert headers(client(), "wss://h/", pass_host=True)["host"] == "chat.example"
    assert headers(client(), pass_host=False)["host"] == "h:1"


def test_only_headers_that_are_named_are_passed_on() -> None:
    off = {"send_forwarded": "off"}
    assert headers(client(), pass_headers=("none",), **off) == {"host": "chat.example"}
    named = headers(client(), pass_headers=("x-app", "Forwarded", "Upgrade"), **off)
    assert named == {"host": "chat.example", "x-app": "yes"}


def test_a_login_of_the_target_is_not_replaced_by_the_client() -> None:
    found = headers(client(), "ws://user:pw@h:1")
    assert found["authorization"] == "Basic dXNlcjpwdw=="
    # An @ after the path is not a login.
    assert headers(client(), "ws://h:1/a@b")["authorization"] == "Bearer x"


def test_headers_that_are_set_replace_those_of_the_client() -> None:
    keys = {"set_headers": ("x-app:  other ", "Cookie:", "Host: x.example", "New: a: b")}
    found = headers(client(), **keys)
    assert (found["x-app"], found["host"], found["new"]) == ("other", "x.example", "a: b")
    assert "cookie" not in found
    assert "x-forwarded-for" not in headers(client(), set_headers=("X-Forwarded-For:",))


# --- the address ---


@pytest.mark.parametrize(
    ("peer", "about", "told"),
    [
        ("192.0.2.7:4711", {}, 'for="192.0.2.7:4711";host=chat.example;proto=http'),
        ("[fd00::1]:5", {"scheme": "wss"}, 'for="[fd00::1]:5";host=chat.example;proto=https'),
        ("2001:db8::1", {}, 'for="[2001:db8::1]";host=chat.example;proto=http'),
        ("unknown", {}, "for=unknown;host=chat.example;proto=http"),
        ("unix", {}, "for=unknown;host=chat.example;proto=http"),
    ],
)  # fmt: skip
def test_a_target_gets_a_forwarded_header(peer: str, about: dict[str, Any], told: str) -> None:
    found = headers(client(peer=peer, **about), send_forwarded="forwarded")
    assert found["forwarded"] == told
    assert not any(name.startswith("x-forwarded") for name in found)


@pytest.mark.parametrize("peer", ["unknown", "unix", "unix:/tmp/x", ""])
def test_an_unknown_address_is_not_passed_on(peer: str) -> None:
    assert "x-forwarded-for" not in headers(client(peer=peer))
    assert client_of({"peer": peer}) == (None, 0)


# --- to the client ---


def test_headers_beside_the_101_are_passed_on() -> None:
    con = Connection(
        1, Settings(), {"repeated": {"set-cookie": ["a=1", "b=2"]}}, Phase(), opened=True
    )
    con.inf = {
        "Protocol": "websocket client",
        "Set-Cookie": "a=1, b=2",
        "Sec-WebSocket-Accept": "x",
        "Connection": "Upgrade",
        "Server": "s",
        "Keep-Alive": "5",
    }
    assert answered(con) == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Server", "s")]


@pytest.mark.parametrize("status", [100, 101, 200, 299, 304, 407, 600])
def test_responses_that_no_client_may_get_are_not_passed_on(status: int) -> None:
    assert refused(1, HandshakeResponse(status, [])) is None
    assert refused(1, None) is None


def test_a_refusal_is_passed_on() -> None:
    fields = [
        ("WWW-Authenticate", "Basic"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X", "1"),
        ("x", "2"), ("Content-Length", "2"), ("Connection", "close"), ("Content-Type", "t/x"),
    ]  # fmt: skip
    found = refused(1, HandshakeResponse(401, fields, b"no"))
    assert found is not None
    assert (found.status, found.body) == (401, b"no")
    assert found.headers == {
        "WWW-Authenticate": "Basic", "Set-Cookie": "a=1", "X": "1, 2", "Content-Type": "t/x",
    }  # fmt: skip
    cut = refused(1, HandshakeResponse(500, fields, b"x" * MOST_BODY))
    assert cut is not None
    assert (cut.body, "Content-Type" in cut.headers) == (b"", False)
    assert refused(1, HandshakeResponse(500, [("X", "y" * MAX_ANSWER)], b"")) is None


# --- the settings ---


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"set_headers": ["no colon"]}, "set_headers: 'no colon': write NAME: VALUE"),
        ({"set_headers": ["Upgrade: x"]}, "set_headers: the header Upgrade is set by the gateway"),
        ({"set_headers": ["X: a\nb"]}, "must be one line"),
        ({"pass_headers": ["a b"]}, "pass_headers: 'a b' is not the name of a header"),
        ({"pass_headers": ["all", "X"]}, "pass_headers: write all, or none, or names"),
        ({"to": "tcp://h:1", "set_headers": ["A: b"]}, "only a target with ws:// or wss:// gets"),
        ({"to": "ws://h:1/{x}", "path": "/{y}"}, "to: {x} is not a parameter of path"),
        ({"send_proxy": "v3"}, "send_proxy"),
    ],
)
def test_wrong_settings_are_named(keys: dict[str, Any], error: str) -> None:
    table = {"to": "ws://h:1", **keys}
    with pytest.raises(ValueError, match="bridges") as wrong:
        from_options({"bridges": [table]})
    assert error in str(wrong.value)


@pytest.mark.parametrize(
    ("listen", "table", "is_loop"),
    [
        ("raw://127.0.0.1:7000", {"to": "tcp://127.0.0.1:7000"}, True),
        ("0.0.0.0:7000", {"to": "tcp://localhost:7000"}, True),
        ("[::]:7000", {"to": "ws://127.0.0.1:7000/x"}, True),
        ("ws://127.0.0.1:7000", {"to": "ws://127.0.0.1:7000/a/b", "path": "/a/{x}"}, True),
        ("unix:/run/x", {"to": "unix:/run/x"}, True),
        ("ws://127.0.0.1:7000", {"to": "ws://127.0.0.1:7000/b", "path": "/a"}, False),
        ("ws://127.0.0.1:7000", {"to": "tcp://127.0.0.1:7000"}, False),
        ("127.0.0.1:7000", {"to": "tcp://127.0.0.1:7000", "kind": "websocket"}, False),
        ("127.0.0.1:7000", {"to": "tcp://127.0.0.1:7001"}, False),
        ("127.0.0.1:7000", {"to": "tcp://127.0.0.2:7000"}, False),
        ("127.0.0.1:7000", {"to": "tcp://example.org:7000"}, False),
    ],
)
def test_a_bridge_to_itself_is_refused(listen: str, table: dict[str, Any], is_loop: bool) -> None:
    try:
        from_options({"listen": [listen], "bridges": [table]})
    except ValueError as error:
        assert is_loop
        assert "leads back to this bridge" in str(error)
    else:
        assert not is_loop
