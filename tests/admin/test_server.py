"""The HTTP server of the admin address over real sockets, without a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, eventually
from wsraw.admin import server as server_module
from wsraw.admin.http import MOST_BODY, AdminRequest, AdminResponse, Route, text
from wsraw.admin.routes import ROUTES
from wsraw.admin.run import Run
from wsraw.admin.server import MOST_CONNECTIONS, AdminServer


def _repeat(request: AdminRequest) -> AdminResponse:
    return text(HTTPStatus.OK, request.query, request.body.decode())


def _break(request: AdminRequest) -> AdminResponse:
    raise RuntimeError("a bug")


def _pieces(request: AdminRequest) -> AdminResponse:
    return AdminResponse(
        HTTPStatus.OK, (line for line in (b"one\n", b"two\n")), "text/event-stream"
    )


TRIED = {
    **ROUTES,
    "/repeat": Route(_repeat, ("GET", "HEAD", "POST")),
    "/break": Route(_break),
    "/pieces": Route(_pieces),
}


class Served:
    """A server in a thread, and a client."""

    def __init__(self, folder: Path, token_file: str = "") -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.address = sock.getsockname()
        self.waiting = 0
        """Requests for /wait, which are answered once they may `go_on`."""
        self.go_on = threading.Event()
        self.found: list[bool] = []
        """For each client of /look, whether it had left."""
        routes = TRIED | {"/wait": Route(self._wait), "/look": Route(self._look)}
        self.server = AdminServer(sock, Run(str(folder)), token_file, routes)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def _wait(self, request: AdminRequest) -> AdminResponse:
        self.waiting += 1
        self.go_on.wait(DEADLINE)
        return text(HTTPStatus.OK)

    def _look(self, request: AdminRequest) -> AdminResponse:
        self.found.append(request.has_left(float(request.query)))
        return text(HTTPStatus.OK)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, DEADLINE)

    def ask(self, request: bytes) -> bytes:
        """Send this, and read until the end."""
        with self.connect() as sock:
            sock.sendall(request)
            answer = b""
            while data := sock.recv(65536):
                answer += data
            return answer

    def get(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:1", *headers, "", ""]
        return self.ask("\r\n".join(lines).encode() + body)

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    open_: list[Served] = []

    def begin(token_file: str = "") -> Served:
        open_.append(Served(tmp_path, token_file))
        return open_[-1]

    yield begin
    for each in open_:
        each.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


Serve = Callable[..., Served]


def test_without_a_run_every_page_says_so(serve: Serve) -> None:
    served = serve()
    for path in ("/metrics", "/healthz", "/readyz"):
        answer = served.get(path)
        assert status(answer) == 503
        assert b"the run does not answer" in answer


def test_a_page_that_is_not_there_names_those_that_are(serve: Serve) -> None:
    answer = serve().get("/metric")
    assert status(answer) == 404
    assert b"/metrics" in answer


def test_a_method_that_a_page_does_not_take_is_refused(serve: Serve) -> None:
    served = serve()
    assert status(served.get("/metrics", "Content-Length: 0", method="POST")) == 405
    assert status(served.get("/metrics", method="BREW")) == 501


def test_the_head_of_a_page_comes_without_it(serve: Serve) -> None:
    answer = serve().get("/repeat?hello", method="HEAD")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 7\r\n" in answer


def test_a_body_reaches_its_page_and_has_a_limit(serve: Serve) -> None:
    served = serve()
    answer = served.get("/repeat?q", "Content-Length: 3", method="POST", body=b"abc")
    assert answer.endswith(b"q\nabc\n")
    for header in (f"Content-Length: {MOST_BODY + 1}", "Content-Length: -1", "Content-Length: ²",
                   f"Content-Length: {'9' * 5000}", "Transfer-Encoding: chunked"):  # fmt: skip
        assert status(served.get("/repeat", header, method="POST")) == 413


def test_a_body_that_does_not_come_whole_asks_for_nothing(serve: Serve) -> None:
    with serve().connect() as sock:
        sock.sendall(b"POST /repeat?q HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_an_answer_in_pieces_ends_with_its_last_one(serve: Serve) -> None:
    answer = serve().get("/pieces")
    assert answer.endswith(b"\r\n\r\none\ntwo\n")
    assert b"Content-Length" not in answer


def test_a_client_that_leaves_is_noticed_at_once(serve: Serve) -> None:
    served = serve()
    with served.connect() as sock:
        sock.sendall(f"GET /look?{2 * DEADLINE} HTTP/1.1\r\n\r\n".encode())
    eventually(lambda: served.found == [True], "a look at a client that has left")


def test_a_client_that_stays_has_not_left_whatever_it_sends(serve: Serve) -> None:
    served = serve()
    assert status(served.get("/look?0")) == status(served.get("/look?0.05")) == 200
    assert served.found == [False] * 2
    # A client that never stops sending does not delay the answer, either.
    with served.connect() as sock, suppress(OSError):
        sock.sendall(b"GET /look?0.05 HTTP/1.1\r\n\r\n")
        while len(served.found) == 2:
            sock.sendall(b"x" * 100_000)
    eventually(lambda: served.found == [False] * 3, "the end of the look")


def test_a_bug_in_a_page_ends_its_request_alone(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    assert served.get("/break") == b""
    assert "ended by a bug" in caplog.text
    assert status(served.get("/repeat")) == 200


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00", b"GET", bytes(range(256)) * 400,
     b"GET /metrics HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
     b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"GET //[ HTTP/1.1\r\n\r\n",
     b"GET http://[::1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"],
)  # fmt: skip
def test_garbage_ends_its_connection_alone(
    serve: Serve, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    with served.connect() as sock:
        try:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except TimeoutError:
            raise
        except OSError:
            # The connection may be reset at any of these calls, and shutdown reports a reset by
            # another error.
            pass
    assert status(served.get("/repeat")) == 200
    assert "a bug" not in caplog.text


def test_connections_without_a_request_do_not_keep_others_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds for clients that send their request byte by byte: a health check must be
    answered.
    """
    # On a busy machine the thread of a closed connection needs its time.
    monkeypatch.setattr(server_module, "MAKE_ROOM", DEADLINE)
    served = serve()
    silent = [served.connect() for _ in range(3 * MOST_CONNECTIONS)]
    try:
        for sock in silent[::2]:
            with suppress(ConnectionError):
                sock.sendall(b"GET /repeat HTTP/1.1\r\nHost: ")
        eventually(lambda: len(served.server._until) == MOST_CONNECTIONS)
        for _ in range(5):
            assert status(served.get("/repeat")) == 200
    finally:
        for sock in silent:
            sock.close()


def test_more_requests_than_there_may_be_are_answered_at_once(serve: Serve) -> None:
    served = serve()
    waiting = [served.connect() for _ in range(MOST_CONNECTIONS)]
    try:
        for sock in waiting:
            sock.sendall(b"GET /wait HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        eventually(lambda: served.waiting == MOST_CONNECTIONS)
        assert b"too many connections" in served.ask(b"")
        served.go_on.set()
        assert status(waiting[0].recv(65536)) == 200, "those who were first are answered"
    finally:
        served.go_on.set()
        for sock in waiting:
            sock.close()
    eventually(lambda: status(served.get("/repeat")) == 200)


def test_a_client_that_is_too_slow_is_ended(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LONGEST_REQUEST", 0.05)
    served = serve()
    with served.connect() as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert sock.recv(100) == b"", "in the middle of its request"


def test_with_a_token_only_health_checks_are_open(serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\nmore\n")
    served = serve(str(token))
    assert status(served.get("/repeat")) == 401
    assert status(served.get("/repeat", "Authorization: Bearer wrong")) == 401
    assert status(served.get("/repeat", "Authorization: Basic s3cret")) == 401
    assert status(served.get("/repeat", "Authorization: bearer s3cret")) == 200
    assert status(served.get("/healthz")) == 503, "there is no run, and the token is not asked for"
    token.write_text("changed")
    assert status(served.get("/repeat", "Authorization: Bearer s3cret")) == 401
    token.unlink()
    assert status(served.get("/repeat", "Authorization: Bearer changed")) == 503


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1:9100", 200), ("localhost:9100", 200), ("[::1]:9100", 200), ("[::1]", 200),
     ("127.0.0.1", 200), ("LOCALHOST", 200), ("evil.example:9100", 403), ("", 403)],
)  # fmt: skip
def test_without_a_token_a_web_page_cannot_ask_under_a_name_of_its_own(
    serve: Serve, host: str, expected: int
) -> None:
    assert status(serve().ask(f"GET /repeat HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == expected


def test_a_health_check_needs_no_host(serve: Serve) -> None:
    """HAProxy sends no Host; browsers always do."""
    assert status(serve().ask(b"GET /repeat HTTP/1.0\r\n\r\n")) == 200
