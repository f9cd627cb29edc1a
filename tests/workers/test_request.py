from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.testing.app import App
from wsraw.workers.connection import decode_state, encode_state
from wsraw.workers.request import Inf, Request, parse_cookies


def test_header_names_are_found_in_any_case_and_keep_their_spelling() -> None:
    inf = Inf({"method": "GET", "authorization": "Basic x", "X-Empty": ""})
    for name in ("Authorization", "authorization", "AUTHORIZATION"):
        assert inf[name] == inf.get(name) == "Basic x"
        assert name in inf
    assert (inf.get("x-empty"), "x-empty" in inf) == ("", True)
    assert (inf.get("Cookie"), inf.get("Cookie", "none"), "Cookie" in inf) == (None, "none", False)
    with pytest.raises(KeyError, match="Cookie"):
        inf["Cookie"]
    assert 7 not in inf  # type: ignore[comparison-overlap]
    assert list(inf) == ["method", "authorization", "X-Empty"]
    assert inf == dict(inf) == inf.copy()
    assert repr(inf) == repr(dict(inf))
    assert inf.copy()["Method"] == "GET"
    assert decode_state(encode_state({"inf": inf})) == {"inf": inf}


def test_a_header_does_not_replace_a_field_of_the_gateway() -> None:
    inf = Inf({"protocol": "raw", "URL": "/x", "url": "/", "Protocol": "websocket server"})
    assert (inf["Protocol"], inf["url"]) == ("websocket server", "/")
    assert (inf.get("Protocol"), inf.get("url")) == ("websocket server", "/")


def request(url: str = "/", **headers: str) -> Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request({**fields, "method": "GET", "url": url, "Protocol": "websocket server"})


@pytest.mark.parametrize(
    ("target", "path", "query_string"),
    [
        ("/", "/", ""),
        ("/a/b?c=d", "/a/b", "c=d"),
        ("/caf%C3%A9?x=%20", "/café", "x=%20"),
        ("/a%2Fb", "/a/b", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/%ff%zz", "/\ufffd%zz", ""),
        ("/http://x?y", "/http://x", "y"),
        ("http://example.org/a?b", "/a", "b"),
        ("http://example.org?b", "/", "b"),
        ("*", "*", ""),
        ("?", "", ""),
    ],
)
def test_a_target_has_a_decoded_path_and_a_query(target: str, path: str, query_string: str) -> None:
    made = request(target)
    assert (made.target, made.path, made.query_string) == (target, path, query_string)
    assert made.method == "GET"


def test_a_query_has_the_first_value_of_each_name_and_lists_all() -> None:
    query = request("/?a=1&b=&a=2+3&=x&c&%C3%A9=%ff&a=%26").query
    assert query["a"] == query.get("a") == "1"
    assert query.get_all("a") == ["1", "2 3", "&"]
    assert (query["b"], query["c"], query[""], query["é"]) == ("", "", "x", "\ufffd")
    assert (query.get_all("none"), query.get("none"), "none" in query) == ([], None, False)
    assert request("/").query == {}


def test_headers_are_those_of_the_peer_alone() -> None:
    inf = {
        "Host": "x",
        "Url": "theirs",
        "method": "GET",
        "url": "/",
        "Protocol": "websocket server",
    }
    headers = Request(inf).headers
    assert list(headers) == ["Host", "Url"]
    assert (headers["host"], headers["url"], "method" in headers) == ("x", "theirs", False)
    assert (headers.get_all("HOST"), headers.get_all("Accept")) == (["x"], [])


def test_a_header_that_came_twice_keeps_its_values_apart() -> None:
    about = {"repeated": {"x-list": ["a, b", "c"]}}
    headers = Request({"X-List": "a, b, c", "method": "GET", "url": "/"}, about).headers
    assert headers["x-list"] == "a, b, c"
    assert headers.get_all("X-List") == headers.copy().get_all("x-list") == ["a, b", "c"]
    headers.get_all("X-List").clear()
    assert headers.get_all("X-List") == ["a, b", "c"]


@pytest.mark.parametrize(
    ("field", "cookies"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1; b=2;c=3 ;; d", {"a": "1", "b": "2", "c": "3"}),
        ("a=long; a=short", {"a": "long"}),
        ("a=x=y==; =none; b=", {"a": "x=y==", "b": ""}),
        ('a="1 2"; b="', {"a": "1 2", "b": '"'}),
        ("a=\xc3\xa9; b=\xe9", {"a": "é", "b": "\xe9"}),
        # http.cookies stops at the first of these, and loses the cookies after it.
        ("a:b=1; [c]=2; d=3", {"a:b": "1", "[c]": "2", "d": "3"}),
    ],
)
def test_cookies_are_read_one_by_one(field: str, cookies: dict[str, str]) -> None:
    assert parse_cookies(field) == request(Cookie=field).cookies == cookies


@given(st.text(max_size=20))
def test_cookies_of_the_standard_library_are_read_as_they_were_set(value: str) -> None:
    cookie = SimpleCookie({"a": value.encode().decode("latin-1")})
    sent = cookie["a"].coded_value
    assert parse_cookies(f"x=1; a={sent}; y=2") == {"x": "1", "a": value, "y": "2"}


@given(st.text(), st.text())
def test_any_request_can_be_read_without_an_exception(target: str, field: str) -> None:
    made = request(target, Cookie=field)
    assert isinstance(made.path, str)
    assert made.query.get_all("a") == [v for n, v in made.query._pairs if n == "a"]
    assert all(isinstance(value, str) for value in made.cookies.values())


def test_a_request_is_shown_without_its_query() -> None:
    assert repr(request("/a%20b?token=secret")) == "<Request GET '/a b'>"


HANDLERS = """
def on_connect(inf, con):
    con.send(show(con))

def on_message(msg, con):
    con.send(show(con))

def show(con):
    r = con.request
    if r is None:
        return "none"
    assert r is con.request
    assert r.inf is con.inf
    queried, fields = r.query.get_all("q"), r.headers.get_all("x-a")
    return f"{r.path} {queried} {fields} {r.cookies} {r.http_version}"
"""


def test_handlers_have_the_request_also_after_a_move(
    wsraw_app: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    app = wsraw_app(tmp_path / "handlers.py")
    client = app.websocket("/r%20m?q=1&q=2", headers={"x-a": "b, c", "Cookie": "s=1"})
    shown = "/r m ['1', '2'] ['b, c'] {'s': '1'} 1.1"
    assert client.received == [shown]
    app.reload()
    client.send("x")
    assert client.received == [shown] * 2


def test_a_raw_connection_has_no_request(wsraw_app: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    assert wsraw_app(tmp_path / "handlers.py").raw("x").data == b"nonenone"


HANDSHAKE = (
    b"GET /x?q HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def test_the_gateway_keeps_the_values_of_a_header_apart(
    wsraw_app: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    more = b"X-A: 1, 2\r\nCookie: a=1\r\nx-a: 3\r\ncookie: b=2\r\n\r\n"
    data = wsraw_app(tmp_path / "handlers.py").raw(HANDSHAKE + more).data
    assert b"/x [''] ['1, 2', '3'] {'a': '1', 'b': '2'} 1.1" in data
