"""The requests of the page, sent by a program to a real run."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e.serving import ECHO, Serving, serve
from wsraw.admin import run
from wsraw.admin.page import stream


class Admin:
    """The admin address of a run."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        port = serving.run.line(r"admin: .* at http://127\.0\.0\.1:(\d+)")[1]
        self.place = f"127.0.0.1:{port}"
        assert serving.folder is not None
        file = serving.folder / "admin-token"
        eventually(file.exists, "the token")
        self.token = file.read_text().strip()

    def open(self, method: str, path: str, body: str = "", **headers: str) -> Any:
        connection = http.client.HTTPConnection(self.place, timeout=DEADLINE)
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, sent)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        answer = self.open(method, path, "" if body is None else json.dumps(body), **headers)
        text = answer.read().decode()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text


@pytest.fixture(scope="module")
def admin() -> Iterator[Admin]:
    with serve(ECHO, "--admin=127.0.0.1:0") as serving:
        yield Admin(serving)


def test_nothing_is_told_and_nothing_done_without_the_token(admin: Admin) -> None:
    for method, path in (
        ("GET", "/api/stream"),
        ("GET", "/api/connection?id=1"),
        ("POST", "/api/kick"),
        ("POST", "/api/reload"),
        ("POST", "/api/scale"),
    ):
        for given in ("", "Bearer ", "Bearer wrong", f"Basic {admin.token}", admin.token):
            status, _ = admin.ask(
                method, path, {} if method == "POST" else None, Authorization=given
            )
            assert status == 401, (path, given)


def test_the_page_itself_needs_no_token_and_says_nothing(admin: Admin) -> None:
    answer = admin.open("GET", "/", Authorization="")
    body = answer.read().decode()
    assert answer.status == 200
    assert "Content-Security-Policy" in answer.headers
    assert admin.token not in body


def test_a_name_that_leads_here_by_dns_rebinding_is_refused(admin: Admin) -> None:
    for path in ("/", "/api/stream"):
        assert admin.ask("GET", path, Host="evil.example")[0] == 403


def test_pages_of_another_origin_may_do_nothing(admin: Admin) -> None:
    body = {"workers": "default=2"}
    for origin in ("https://evil.example", "null", f"http://{admin.place}.evil.example"):
        assert admin.ask("POST", "/api/scale", body, Origin=origin)[0] == 403
    # A form can send this type without a preflight request.
    assert admin.ask("POST", "/api/scale", body, Content_Type="text/plain")[0] == 415


def test_a_connection_is_looked_at_and_kicked(admin: Admin) -> None:
    with admin.serving.ws(path="/room/7?key=secret") as client:
        client.send("hello")
        client.recv(DEADLINE)
        (row,) = first(admin, "connections")["rows"]
        status, told = admin.ask("GET", f"/api/connection?id={row['id']}")
        assert (status, told["ok"]) == (200, True)
        assert told["data"]["path"].startswith("/room/7")
        assert "secret" not in json.dumps(told)
        status, told = admin.ask("POST", "/api/kick", {"id": row["id"]})
        assert (status, told["ok"]) == (200, True), told
        with pytest.raises(Exception, match="1008"):
            client.recv(DEADLINE)
    status, told = admin.ask("POST", "/api/kick", {"id": row["id"]})
    assert (status, told["ok"]) == (200, False)


def test_workers_are_reloaded_and_scaled(admin: Admin) -> None:
    run = admin.serving.run
    status, told = admin.ask("POST", "/api/reload", {})
    assert (status, told["ok"]) == (200, True), told
    run.line("worker 2 is ready")
    status, told = admin.ask("POST", "/api/scale", {"workers": "default=2"})
    assert (status, told["ok"]) == (200, True), told
    run.line("worker 3 is ready")
    status, told = admin.ask("POST", "/api/reload", {"pool": "no-such"})
    assert (status, told["ok"]) == (200, False)
    assert "no-such" in told["text"]
    status, told = admin.ask("POST", "/api/reload", {"pool": "\ud800"})
    assert (status, told["ok"]) == (200, False)
    assert "cannot be sent" in told["text"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("kick", {}),
        ("kick", {"id": "1"}),
        ("kick", {"id": True}),
        ("kick", {"id": -1}),
        ("kick", {"id": 10**300}),
        ("kick", []),
        ("reload", {"pool": 1}),
        ("scale", {"workers": 2}),
        ("scale", None),
    ],
)
def test_a_wrong_request_is_refused(admin: Admin, path: str, body: Any) -> None:
    assert admin.open("POST", f"/api/{path}", json.dumps(body)).status == 400


@pytest.mark.parametrize("body", ["", "{", "\xff", "[" * 60000])
def test_what_is_not_json_is_refused(admin: Admin, body: str) -> None:
    assert admin.open("POST", "/api/kick", body).status == 400


def test_actions_cannot_be_asked_for_by_get(admin: Admin) -> None:
    for path in ("kick", "reload", "scale"):
        assert admin.ask("GET", f"/api/{path}")[0] == 405


def events(answer: Any) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in answer:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def page(admin: Admin, query: str = "") -> Any:
    """A stream of the page. Waits for room, as the stream of an earlier page may not have ended."""
    found: list[Any] = []

    def answered() -> bool:
        answer = admin.open("GET", f"/api/stream?{query}")
        if answer.status == 200:
            found.append(answer)
        else:
            assert (answer.status, b"pages are open" in answer.read()) == (503, True)
        return bool(found)

    eventually(answered, "room for a page")
    return found[0]


def first(admin: Admin, wanted: str, query: str = "") -> Any:
    """The first event of that kind in a stream."""
    answer = page(admin, query)
    try:
        return next(data for kind, data in events(answer) if kind == wanted)
    finally:
        answer.close()


def test_the_stream_has_figures_and_connections_that_are_asked_for(admin: Admin) -> None:
    with admin.serving.tcp() as raw, admin.serving.ws() as client:
        raw.sendall(b"hello")
        assert raw.recv(5) == b"hello"
        client.send("hello")
        client.recv(DEADLINE)

        def total() -> int:
            found: int = first(admin, "figures")["gateway"]["connections"]["total"]
            return found

        eventually(lambda: total() == 2, "figures that are not those of a page before")
        assert first(admin, "connections")["matched"] == 2
        (row,) = first(admin, "connections", "kind=raw&sort=age")["rows"]
        assert row["kind"] == "raw"
        assert first(admin, "connections", "slow=1")["matched"] == 0
        # Values that the page does not offer are ignored.
        assert first(admin, "connections", "kind=%22&sort=x&limit=9&all=1")["matched"] == 2


def test_the_stream_begins_with_the_last_lines_of_the_log(admin: Admin) -> None:
    lines = first(admin, "log")
    assert any(level == "info" and "worker 1 is ready" in text for level, text in lines)
    answer = page(admin)
    try:
        logs = (data for kind, data in events(answer) if kind == "log")
        next(logs)
        # Later lines are not sent twice.
        admin.ask("POST", "/api/scale", {"workers": "default=2"})
        (found,) = [text for _, text in next(logs) if "wsraw scale" in text]
        assert found.endswith("echo.py to 2")
    finally:
        answer.close()


def test_pages_share_the_figures_and_each_gets_new_ones_every_time(admin: Admin) -> None:
    seen: list[list[float]] = [[] for _ in range(4)]

    def look(times: list[float]) -> None:
        answer = page(admin)
        try:
            for kind, data in events(answer):
                if kind == "figures":
                    times.append(data["at"])
                if len(times) == 4:
                    return
        finally:
            answer.close()

    threads = [threading.Thread(target=look, args=(times,)) for times in seen]
    for thread in threads:
        thread.start()
        # The pages do not ask at the same time.
        time.sleep(0.1)
    for thread in threads:
        thread.join(DEADLINE)
    assert all(times == sorted(set(times)) and len(times) == 4 for times in seen)
    asked = sorted({at for times in seen for at in times})
    assert len(asked) < 16, "each page has asked for itself"
    assert min(b - a for a, b in itertools.pairwise(asked)) >= run.PAGE_FRESH_FOR


def test_open_pages_are_bounded_and_a_closed_one_makes_room(admin: Admin) -> None:
    answers: list[Any] = []
    try:
        for _ in range(stream.MOST_STREAMS):
            answers.append(page(admin))
        assert admin.ask("GET", "/api/stream")[0] == 503
        answers.pop().close()
        answers.append(page(admin))
    finally:
        for answer in answers:
            answer.close()


def test_a_token_of_the_operator_takes_the_place_of_that_of_the_run(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of the operator\n")
    with serve(ECHO, "--admin=127.0.0.1:0", f"--admin-token={file}") as serving:
        port = serving.run.line(r"admin: .* at http://127\.0\.0\.1:(\d+)")[1]
        connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=DEADLINE)
        assert serving.folder is not None
        for token, status in (("wrong", 401), ("of the operator", 200)):
            connection.request("GET", "/api/stream", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            assert answer.status == status
            answer.close()
            connection.close()
        assert not (serving.folder / "admin-token").exists()
