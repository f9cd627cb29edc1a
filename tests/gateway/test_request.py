from __future__ import annotations

from typing import Any

import pytest

from wsraw.gateway.request import deflate_of, headers_of, path_of, subprotocols_of, to_inf
from wsraw.messages import Open


def asked(target: str = "h:1", **fields: Any) -> Open:
    return Open(1, target, "websocket", **fields)


@pytest.mark.parametrize(
    ("open_", "path", "headers"),
    [
        (asked("127.0.0.1:80"), "/", {"Host": "127.0.0.1:80"}),
        (asked("ws://h/p?q"), "/p?q", {"Host": "h"}),
        (asked("ws://h/p", url="/u", host="other"), "/u", {"Host": "other"}),
        (asked("unix:/run/x"), "/", {"Host": "localhost"}),
        (asked(orig="http://o"), "/", {"Host": "h:1", "Origin": "http://o"}),
        (
            asked(orig="http://o", options={"headers": {"Host": "mine", "X": "y"}}),
            "/",
            {"Host": "mine", "Origin": "http://o", "X": "y"},
        ),
    ],
)
def test_path_and_headers(open_: Open, path: str, headers: dict[str, str]) -> None:
    assert path_of(open_) == path
    assert dict(headers_of(open_)) == headers


@pytest.mark.parametrize("url", ["/a b", "/a\r\nX: y", "no-slash", "/é", "*"])
def test_no_path(url: str) -> None:
    with pytest.raises(ValueError, match="is no url"):
        path_of(asked(url=url))


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "a\r\nX: y"},
        {"orig": "€"},
        {"options": {"headers": {"X": "a\nb"}}},
        {"options": {"headers": {"X Y": "a"}}},
        {"options": {"headers": {"Sec-WebSocket-Extensions": "mine"}}},
        {"options": {"headers": {"X": 1}}},
        {"options": {"headers": ["X"]}},
    ],
)
def test_no_headers(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="header"):
        list(headers_of(asked(**fields)))


def test_subprotocols() -> None:
    assert subprotocols_of(asked()) is None
    assert subprotocols_of(asked(options={"subprotocols": []})) is None
    assert subprotocols_of(asked(options={"subprotocols": ("a", "b")})) == ["a", "b"]
    for wrong in ("chat", ["a b"], [1], 1):
        with pytest.raises(ValueError, match="subprotocols"):
            subprotocols_of(asked(options={"subprotocols": wrong}))


def test_deflate() -> None:
    for default in (True, False):
        assert deflate_of(asked(), default) is default
        for value in (True, False):
            assert deflate_of(asked(options={"deflate": value}), default) is value
    for wrong in ("yes", 1, None):
        with pytest.raises(ValueError, match="deflate"):
            deflate_of(asked(options={"deflate": wrong}), True)


def test_headers_for_handlers() -> None:
    sent = [("x-ONE", "1"), ("X-One", "2"), ("url", "/fake"), ("B", "é")]
    expected = {"url": "/real", "x-ONE": "1, 2", "B": "é"}
    assert to_inf({"url": "/real"}, sent) == expected
