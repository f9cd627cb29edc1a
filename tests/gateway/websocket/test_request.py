from __future__ import annotations

from types import SimpleNamespace

from websockets.datastructures import Headers

from wsraw.gateway.websocket.request import MOST_BODY, MOST_HEADERS, response_of, to_inf


def test_headers_for_handlers() -> None:
    sent = [("x-ONE", "1"), ("X-One", "2"), ("url", "/fake"), ("B", "é")]
    expected = {"url": "/real", "x-ONE": "1, 2", "B": "é"}
    assert to_inf({"url": "/real"}, sent) == expected


def test_the_answer_of_a_server_that_refuses_us_is_bounded() -> None:
    headers = Headers([("Retry-After", "5"), ("X", "a"), ("x", "b"), *[("Y", "y" * 8000)] * 20])
    response = SimpleNamespace(status_code=503, headers=headers, body=bytearray(b"z" * 100_000))
    told = response_of(response)
    assert (told["status"], len(told["body"])) == (503, MOST_BODY)
    assert (told["headers"]["Retry-After"], told["headers"]["X"]) == ("5", "a, b")
    assert 0 < len(told["headers"]["Y"]) < MOST_HEADERS
