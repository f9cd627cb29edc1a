from __future__ import annotations

import pytest

from wsraw.gateway.http import MAX_ANSWER, answer, answer_problem, http_answer


def split(data: bytes) -> tuple[str, list[str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    return line, fields, body


def test_an_http_answer_has_status_headers_and_body() -> None:
    line, fields, body = split(http_answer(426, "grün", ("X", "1")))
    assert line == "HTTP/1.1 426 Upgrade Required"
    assert body == "grün\n".encode()
    assert {"Upgrade: websocket", "X: 1", f"Content-Length: {len(body)}"} <= set(fields)


def test_an_answer_of_a_handler_has_its_headers() -> None:
    headers = {"WWW-Authenticate": 'Basic realm="x"'}
    assert split(answer(401, "", headers, b"")) == (
        "HTTP/1.1 401 Unauthorized",
        [
            "Connection: close",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Length: 13",
            'WWW-Authenticate: Basic realm="x"',
        ],
        b"Unauthorized\n",
    )


def test_reason_and_body_of_an_answer_come_from_the_handler() -> None:
    line, fields, body = split(answer(499, "Go away", {"content-type": "text/html"}, b"<p>"))
    assert (line, body) == ("HTTP/1.1 499 Go away", b"<p>")
    assert "content-type: text/html" in fields
    assert sum(field.lower().startswith("content-type") for field in fields) == 1
    assert split(answer(499, "", {}, b""))[0] == "HTTP/1.1 499 Refused"


def test_a_304_has_no_body() -> None:
    _, fields, body = split(answer(304, "", {}, b"x"))
    assert body == b""
    assert not any(field.startswith("Content-") for field in fields)


@pytest.mark.parametrize(
    ("status", "reason", "headers", "body", "why"),
    [
        (101, "", {}, b"", "from 300 to 599"),
        (200, "", {}, b"", "from 300 to 599"),
        (600, "", {}, b"", "from 300 to 599"),
        (-1, "", {}, b"", "from 300 to 599"),
        (403, "a\r\nX: y", {}, b"", "not a reason"),
        (403, "☃", {}, b"", "not a reason"),
        (403, "", {"X": "a\nb"}, b"", "one line"),
        (403, "", {"X y": "a"}, b"", "not a header name"),
        (403, "", {"": "a"}, b"", "not a header name"),
        (403, "", {"Content-Length": "5"}, b"", "set by the gateway"),
        (403, "", {"transfer-encoding": "chunked"}, b"", "set by the gateway"),
        (403, "", {}, bytes(MAX_ANSWER + 1), "at most"),
        (403, "", {"X": "y" * MAX_ANSWER}, b"", "at most"),
    ],
)
def test_impossible_answers_are_refused(
    status: int, reason: str, headers: dict[str, str], body: bytes, why: str
) -> None:
    assert why in (answer_problem(status, reason, headers, body) or "")


def test_possible_answers_are_accepted() -> None:
    assert answer_problem(599, "Très mal", {"X": "ü\t"}, bytes(1000)) is None
    assert answer_problem(403, "", {"Set-Cookie": "a=b"}, b"") is None
