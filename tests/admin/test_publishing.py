"""POST /publish: the requests to the gateway, and which clients may send them.
tests/e2e/test_admin.py publishes through a real run.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE
from wsraw.admin import publishing
from wsraw.admin.publishing import MOST_AT_ONCE, MOST_BODY, MOST_DATA, read_all
from wsraw.admin.run import NoAnswerError, Run
from wsraw.admin.server import AdminServer
from wsraw.link.records import Done
from wsraw.supervisor.control import client


def asked(**fields: Any) -> Any:
    return read_all(json.dumps(fields).encode())


def test_a_request_says_what_is_sent_to_whom() -> None:
    assert asked(group="room", data="grün") == (
        "publish",
        {"group": "room", "data": "grün".encode(), "binary": False, "exclude": []},
    )
    assert asked(user="ann", base64="/wA=", exclude=[5]) == (
        "send_to_user",
        {"user": "ann", "data": b"\xff\0", "binary": True, "exclude": [5]},
    )
    assert asked(group="", data="")[1]["data"] == b""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": [1, "grün", None]}, '{"a":[1,"grün",null]}'),
        ([], "[]"),
        (5, "5"),
        (None, "null"),
        ("5", "5"),
    ],
)
def test_data_that_is_no_text_is_sent_as_json(data: object, text: str) -> None:
    assert asked(group="room", data=data)[1]["data"].decode() == text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "a JSON object"),
        (b"[5]", "message 1: the body must be a JSON object.*none was sent"),
        (b'[{"group": "a", "data": "x"}, {"data": "x"}]', "message 2: write either group or user"),
        (json.dumps([{}] * (MOST_AT_ONCE + 1)).encode(), f"at most {MOST_AT_ONCE} can be"),
        (json.dumps({"group": "g" * 1025, "data": ""}).encode(), "at most 1024 characters"),
        (json.dumps({"user": "g" * 1025, "data": ""}).encode(), "at most 1024 characters"),
        (json.dumps({"group": "a", "data": "x" * (MOST_DATA + 1)}).encode(), "1048577 bytes"),
        (b"[" * 100_000, "a JSON object"),
        (b"\xff", "a JSON object"),
        (b'{"data": "x"}', "either group or user"),
        (b'{"data": "x", "group": "a", "user": "b"}', "either group or user"),
        (b'{"data": "x", "group": 5}', "group: write a name"),
        (b'{"data": "x", "user": null}', "user: write a name"),
        (b'{"group": "a"}', "either data"),
        (b'{"group": "a", "data": "x", "base64": ""}', "either data"),
        (b'{"group": "a", "base64": {"x": 1}}', "base64: write a text"),
        (b'{"group": "a", "data": {"x": "\\ud83d"}}', r"data: \\ud83d is half of a character"),
        (b'{"group": "a", "data": 1e999}', "data: JSON has no Infinity"),
        (b'{"group": "a", "data": [NaN]}', "data: JSON has no Infinity"),
        (b'{"group": "a", "data": "\\ud83d"}', r"data: \\ud83d is half of a character"),
        (b'{"group": "\\udc00", "data": "x"}', r"group: \\udc00 is half of a character"),
        (b'{"group": "a", "base64": "x"}', "base64: "),
        (b'{"group": "a", "base64": "\\u00fc"}', "base64: "),
        (b'{"group": "a", "data": "x", "exclude": 5}', "list of ids"),
        (b'{"group": "a", "data": "x", "exclude": [-1]}', "list of ids"),
        (b'{"group": "a", "data": "x", "exclude": [true]}', "list of ids"),
        (b'{"group": "a", "data": "x", "channel": "y"}', "no field 'channel'"),
    ],
)
def test_a_wrong_request_is_told_what_to_write(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_all(body)


class Recorder(Run):
    """Answers every request with success; there is no run."""

    def __init__(self) -> None:
        super().__init__("")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.done = Done(0, True, "", {"sent": 3})
        self.is_there = True

    def ask_gateway(self, what: str, options: dict[str, Any]) -> Done:
        if not self.is_there:
            raise NoAnswerError("the run does not answer: why")
        self.asked.append((what, options))
        return self.done


class Served:
    """The server, and a client that publishes."""

    def __init__(self, token: str, admin_token: str) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.address = sock.getsockname()
        self.run = Recorder()
        self._server = AdminServer(sock, self.run, admin_token, publish_token_file=token)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def post(self, body: bytes, token: str = "sesame", method: str = "POST") -> tuple[int, str]:
        head = (
            f"{method} /publish HTTP/1.1\r\nHost: app.example\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(self.address, DEADLINE) as sock:
            sock.sendall(head.encode())
            try:
                sock.sendall(body)
            except ConnectionError:
                pass
            answer = b""
            try:
                while data := sock.recv(65536):
                    answer += data
            except ConnectionError:
                # The server has not read the whole body.
                pass
        head_, _, text = answer.decode().partition("\r\n\r\n")
        return int(head_.split()[1]), text

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    token, admin = tmp_path / "publish", tmp_path / "admin"
    token.write_text("sesame\n")
    admin.write_text("other\n")
    is_set = getattr(request, "param", True)
    server = Served(str(token) if is_set else "", str(admin))
    yield server
    server.close()


GOOD = b'{"group": "room", "data": "hi"}'


def test_a_message_is_published_by_whoever_has_the_token(served: Served) -> None:
    status, text = served.post(GOOD)
    assert (status, json.loads(text)) == (200, {"sent": 3})
    assert served.run.asked == [
        ("publish", {"group": "room", "data": b"hi", "binary": False, "exclude": []})
    ]


@pytest.mark.parametrize("token", ["", "other", "sesam", "sesame2", "ses\u00e4me"])
def test_without_the_token_nothing_is_published(served: Served, token: str) -> None:
    status, text = served.post(GOOD, token)
    assert status == 401
    assert "Authorization: Bearer" in text
    assert served.run.asked == []


@pytest.mark.parametrize("served", [False], indirect=True)
def test_without_the_setting_publishing_is_refused_and_says_what_to_set(served: Served) -> None:
    status, text = served.post(GOOD)
    assert (status, served.run.asked) == (403, [])
    assert "set publish_token" in text


def test_wrong_requests_are_answered_in_words(served: Served) -> None:
    assert served.post(GOOD, method="GET")[0] == 405
    assert served.post(b"{}") == (400, f"write either group or user, as in {publishing.EXAMPLE}\n")
    status, text = served.post(b"x" * (MOST_BODY + 1))
    assert (status, str(MOST_BODY) in text) == (413, True)
    served.run.done = Done(0, False, "text that is not UTF-8")
    assert served.post(GOOD) == (400, "text that is not UTF-8\n")
    served.run.is_there = False
    assert served.post(GOOD) == (503, "the run does not answer: why\n")


def test_a_message_that_the_gateway_does_not_answer_is_no_wrong_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor answers for a gateway that has gone, or that does not read: the message may
    have been sent, and the client may try again."""
    done = Done(1, False, "the gateway does not answer now; try again", unanswered=True)
    monkeypatch.setattr(client, "pages", lambda *args: iter([done]))
    monkeypatch.setattr(Recorder, "ask_gateway", Run.ask_gateway)
    assert served.post(GOOD) == (503, "the gateway does not answer now; try again\n")
    status, text = served.post(b"[" + GOOD + b"]")
    assert (status, "message 1, after 0 that were sent: the gateway" in text) == (503, True)


def test_a_list_is_published_in_order_or_not_at_all(served: Served) -> None:
    messages = [{"group": "room", "data": f"{n}"} for n in range(MOST_AT_ONCE)]
    status, text = served.post(json.dumps(messages).encode())
    assert (status, json.loads(text)) == (200, {"sent": [3] * MOST_AT_ONCE})
    assert [options["data"] for _, options in served.run.asked] == [
        b"%d" % n for n in range(MOST_AT_ONCE)
    ]
    served.run.asked = []
    status, text = served.post(json.dumps([*messages[:5], {"group": "room"}]).encode())
    assert (status, served.run.asked) == (400, [])
    assert text.startswith("message 6: ")
    assert served.post(b"[]") == (200, '{"sent": []}\n')
    served.run.done = Done(0, False, "no")
    assert served.post(json.dumps(messages).encode()) == (
        400,
        "message 1, after 0 that were sent: no\n",
    )


def test_a_megabyte_can_be_published(served: Served) -> None:
    body = json.dumps({"group": "room", "data": "x" * 1_000_000}).encode()
    assert served.post(body)[0] == 200
    assert len(served.run.asked[0][1]["data"]) == 1_000_000
