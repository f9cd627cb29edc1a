from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from wsraw.link.records import Respond
from wsraw.workers.responses import BINARY, JSON, TEXT, from_value, respond


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("grün", Respond(7, 200, [("Content-Type", TEXT)], "grün".encode())),
        (b"\0", Respond(7, 200, [("Content-Type", BINARY)], b"\0")),
        (bytearray(b"x"), Respond(7, 200, [("Content-Type", BINARY)], b"x")),
        ({"a": "ü"}, Respond(7, 200, [("Content-Type", JSON)], '{"a": "ü"}'.encode())),
        ([1], Respond(7, 200, [("Content-Type", JSON)], b"[1]")),
        ("", Respond(7, 200, [], b"")),
        ((204, None, None), Respond(7, 204, [], b"")),
        ((HTTPStatus.NOT_FOUND, {}, "no"), Respond(7, 404, [("Content-Type", TEXT)], b"no")),
        (
            (200, {"content-type": "text/html", "Set-Cookie": ["a", "b"]}, "x"),
            Respond(
                7,
                200,
                [("content-type", "text/html"), ("Set-Cookie", "a"), ("Set-Cookie", "b")],
                b"x",
            ),
        ),
    ],
)
def test_a_value_becomes_a_response(value: Any, wanted: Respond) -> None:
    record, size = from_value(7, value)
    assert record == wanted
    assert size >= len(wanted.body)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (5, TypeError, "the body must be str, bytes, or a dict or list"),
        ((200, "x"), TypeError, "tuple of 2"),
        (("200", {}, ""), TypeError, "the status must be an int"),
        ((True, {}, ""), TypeError, "the status must be an int"),
        ((101, {}, ""), ValueError, "from 200 to 599"),
        ((600, {}, ""), ValueError, "from 200 to 599"),
        ((200, [("a", "b")], ""), TypeError, "headers must be a dict"),
        ((200, {"a": 1}, ""), TypeError, "must be a str"),
        ((200, {"a b": "1"}, ""), ValueError, "not a header name"),
        ((200, {"a": "1\r\nSet-Cookie: x"}, ""), ValueError, "one line"),
        ((200, {"Transfer-Encoding": "chunked"}, ""), ValueError, "set by the gateway"),
        ((200, {"a": "x" * 70_000}, ""), ValueError, "at most 65536"),
        ("\ud800", ValueError, "surrogate"),
        ({"a": {1}}, TypeError, "not JSON serializable"),
    ],
)
def test_what_is_no_response_says_what_to_write(
    value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        from_value(7, value)


def test_a_coroutine_is_not_a_body() -> None:
    async def body() -> str:
        return "x"

    coroutine = body()
    with pytest.raises(TypeError, match="await"):
        respond(7, 200, None, coroutine, True)
    coroutine.close()
