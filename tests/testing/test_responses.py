from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wsraw.testing import App
from wsraw.workers.connection import Connection
from wsraw.workers.request import Request


def handlers(**more: Any) -> SimpleNamespace:
    def on_request(request: Request, con: Connection) -> Any:
        if request.path == "/raise":
            raise ValueError("no")
        if request.path == "/other":
            return None
        if request.path == "/pieces":
            con.respond(200, {"Set-Cookie": ["a=1", "b=2"]}, "one ", final=False)
            con.send("two ", final=False)
            con.send("three")
            return None
        return {
            "method": request.method,
            "body": request.body.decode(),
            "peer": con.peer,
            "x": request.headers.get("x", ""),
        }

    return SimpleNamespace(on_request=on_request, **more)


def test_handlers_answer_requests() -> None:
    with App(handlers(), plain_http="handlers") as app:
        response = app.request("POST", "/a?b=c", "hello", headers={"X": "y"}, peer="1.2.3.4:5")
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        wanted = {"method": "POST", "body": "hello", "peer": "1.2.3.4:5", "x": "y"}
        assert response.json() == wanted
        response = app.request(target="/pieces")
        assert response.text == "one two three"
        assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
        assert app.request("HEAD").body == b""
        assert app.request(target="/other").status == 404


def test_what_a_handler_raises_is_raised_by_the_request() -> None:
    with App(handlers(), plain_http="handlers") as app:
        with pytest.raises(ValueError, match="no"):
            app.request(target="/raise")
        assert app.request().status == 200


def test_async_handlers_answer_requests() -> None:
    async def on_request(request: Request, con: Connection) -> str:
        return request.path

    with App(SimpleNamespace(on_request=on_request), plain_http="handlers") as app:
        assert app.request(target="/a%20b").text == "/a b"


def test_a_request_without_the_setting_says_what_is_missing() -> None:
    with App(handlers()) as app, pytest.raises(ConnectionError, match="plain_http"):
        app.request()


def test_ends_of_requests_are_no_events() -> None:
    heard: list[str] = []
    more = {
        "on_connect": lambda inf, con: heard.append("connect"),
        "on_close": lambda con: heard.append("close"),
        "on_error": lambda error_message, con: heard.append("error"),
        "on_attach": lambda con: heard.append("attach"),
    }
    with App(handlers(**more), plain_http="handlers") as app:
        app.request()
        app.reload()
        app.request()
        client = app.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.reset()
    assert heard == []
