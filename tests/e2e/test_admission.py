"""Which clients are accepted, with real processes and clients."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.deadline import eventually
from tests.e2e.serving import (
    ECHO,
    EXAMPLES,
    TIMEOUT,
    UPGRADE,
    Serving,
    frame,
    linux,
    posix,
    read_frame,
    read_head,
    receive_all,
    receive_exactly,
    serve,
)

HEADER = b"PROXY TCP4 203.0.113.9 198.51.100.2 4711 443\r\n"

TELLS = """
def on_connect(inf, con):
    con.send(f"{con.peer} {con.proxy} {con.scheme}")
"""


# --- handlers decide ---


@pytest.fixture(scope="module")
def auth() -> Iterator[Serving]:
    with serve(EXAMPLES / "auth.py", "--verdict=handlers", workers=2) as serving:
        yield serving


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"Authorization": "Basic YW5uOnNlY3JldA=="}),
        ("/", {"Authorization": "Bearer token-of-ben"}),
        ("/", {"Cookie": "a=b; token=token-of-ben"}),
        ("/?token=token-of-ben", {}),
    ],
)
def test_a_client_with_credentials_is_let_in(
    auth: Serving, path: str, headers: dict[str, str]
) -> None:
    with auth.ws(path=path, additional_headers=headers) as ws:
        hello = ws.recv(TIMEOUT)
        assert hello in ("Hello ann!", "Hello ben!")
        ws.send("hi")
        assert ws.recv(TIMEOUT) == f"{str(hello)[6:-1]}: hi"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic YW5uOndyb25n"},
        {"Authorization": "Basic YW5u"},
        {"Authorization": "Basic bm9ib2R5Og=="},
        {"Authorization": "Basic ???"},
        {"Authorization": "Bearer ben"},
        {"Authorization": "Digest x"},
        {"Cookie": "token=x"},
    ],
)
def test_a_client_without_credentials_is_refused_with_401(
    auth: Serving, headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        auth.ws(additional_headers=headers)
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="wsraw", Bearer'
    assert response.body == b"Who are you?\n"


def test_a_plain_http_client_sees_the_refusal(auth: Serving) -> None:
    host, port = auth.addresses[0]
    client = http.client.HTTPConnection(str(host), int(port), timeout=TIMEOUT)
    client.request("GET", "/", headers={
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    })  # fmt: skip
    response = client.getresponse()
    assert (response.status, response.read()) == (401, b"Who are you?\n")
    client.close()


def test_a_raw_client_without_credentials_is_told_why_and_closed(auth: Serving) -> None:
    with auth.tcp() as sock:
        sock.sendall(b"hello")
        assert receive_all(sock) == b"Who are you?\n"


def test_frames_sent_with_the_request_are_handled_after_the_101(auth: Serving) -> None:
    request = UPGRADE.replace(b"GET /", b"GET /?token=token-of-ben")
    with auth.tcp() as sock:
        sock.sendall(request + frame(1, b"one"))
        sock.sendall(frame(1, b"two"))
        assert b"101 Switching Protocols" in read_head(sock)
        said = [read_frame(sock)[1] for _ in range(3)]
        assert said == [b"Hello ben!", b"ben: one", b"ben: two"]


SLOW = """
import asyncio, wsraw
waiting = []

async def on_connect(inf, con):
    if inf["url"] == "/raise":
        raise ValueError("no")
    if inf["url"] == "/close":
        con.send("bye")
        con.close(4001, "not you")
        return
    if inf["url"] == "/wait":
        # Long enough to be too long; a stop waits for it.
        await asyncio.sleep(6)

def on_message(msg, con):
    return msg
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    file = tmp_path_factory.mktemp("slow") / "slow.py"
    file.write_text(SLOW, "utf-8")
    options = ("--verdict=handlers", "--verdict-timeout=2", "--drain-timeout=1")
    with serve(file, *options, workers=2, tracebacks=True) as serving:
        yield serving


def status_of(serving: Serving, path: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        serving.ws(path=path)
    return caught.value.response.status_code


def test_a_handler_that_raises_is_answered_with_500(slow: Serving) -> None:
    assert status_of(slow, "/raise") == 500


def test_a_handler_that_takes_too_long_is_answered_with_503(slow: Serving) -> None:
    assert status_of(slow, "/wait") == 503
    assert slow.run.line("on_connect has not decided within 2 s")


def test_a_close_in_on_connect_sends_a_close_frame(slow: Serving) -> None:
    with slow.ws(path="/close") as ws:
        assert ws.recv(TIMEOUT) == "bye"
        with pytest.raises(Exception, match="4001"):
            ws.recv(TIMEOUT)


DIES = """
import os

def on_connect(inf, con):
    if con.delivery == 1:
        os._exit(1)
    con.accept("two", {"X-Delivery": str(con.delivery)})

def on_message(msg, con):
    return msg
"""


def test_a_handshake_survives_the_death_of_the_worker_that_decides(tmp_path: Path) -> None:
    file = tmp_path / "dies.py"
    file.write_text(DIES, "utf-8")
    options = ("--verdict=handlers", f"--verdict-timeout={TIMEOUT}")
    with (
        serve(file, *options, workers=2) as serving,
        serving.ws(subprotocols=["one", "two"]) as ws,
    ):
        assert ws.subprotocol == "two"
        assert ws.response is not None
        assert int(ws.response.headers["X-Delivery"]) > 1
        ws.send("hi")
        assert ws.recv(TIMEOUT) == "hi"


def test_bytes_sent_before_the_verdict_are_not_read_without_bound(slow: Serving) -> None:
    """TCP slows down a client that floods before its verdict, and the client still gets its
    answer.
    """
    with slow.tcp() as sock:
        sock.sendall(UPGRADE.replace(b"GET /", b"GET /wait"))
        sock.settimeout(0.2)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += sock.send(frame(2, bytes(60_000)))
        except (TimeoutError, ConnectionError):
            pass
        assert sent < 64 << 20


# --- Origin and Host ---


def test_a_wrong_origin_or_host_is_refused() -> None:
    options = ("--hosts=127.0.0.1", "--hosts=example.org", "--origins=https://*.example.org")
    with serve(ECHO, *options) as serving:
        for origin in (None, "https://a.example.org"):
            with serving.ws(origin=origin) as ws:
                ws.send("x")
                assert ws.recv(TIMEOUT) == "x"
        with pytest.raises(InvalidStatus) as caught:
            serving.ws(origin="https://example.com")
        assert caught.value.response.status_code == 403
        assert b"setting origins" in caught.value.response.body
        with serving.tcp() as sock:
            sock.sendall(UPGRADE)
            assert read_head(sock).startswith(b"HTTP/1.1 421 ")
        assert serving.limit_counts() == {"origins": 1, "hosts": 1}
        assert serving.run.line(r"limit origins: refused .*\(403\)")


def test_pages_of_other_sites_are_refused_by_default() -> None:
    with serve(ECHO) as serving:
        port = serving.addresses[0][1]
        for origin in (f"http://127.0.0.1:{port}", "http://localhost:3000"):
            with serving.ws(origin=origin):
                pass
        with pytest.raises(InvalidStatus):
            serving.ws(origin="https://evil.example")


# --- proxies ---


@pytest.fixture
def tells(tmp_path: Path) -> Path:
    file = tmp_path / "tells.py"
    file.write_text(TELLS, "utf-8")
    return file


def test_the_client_address_is_taken_from_a_proxy_protocol_header(tells: Path) -> None:
    listen = ["127.0.0.1:0?proxy_protocol=required", "127.0.0.1:0?proxy_protocol=optional"]
    with serve(tells, "--trusted-proxies=127.0.0.1", listen=listen) as serving:
        for n in (0, 1):
            with serving.tcp(n) as sock:
                for byte in HEADER + b"x":
                    sock.sendall(bytes([byte]))
                me = sock.getsockname()
                told = f"203.0.113.9:4711 127.0.0.1:{me[1]} tcp".encode()
                assert receive_exactly(sock, len(told)) == told
            with serving.tcp(n) as sock:
                sock.sendall(HEADER + UPGRADE)
                assert b" 101 " in read_head(sock)
                assert read_frame(sock)[1].endswith(b" ws")
        with serving.tcp(1) as sock:
            sock.sendall(b"hello")
            told = f"127.0.0.1:{sock.getsockname()[1]}  tcp".encode()
            assert receive_exactly(sock, len(told)) == told
        with serving.tcp(0) as sock:
            sock.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                assert sock.recv(1) == b"?"
        assert serving.limit_counts() == {"proxy_protocol": 1}


def test_a_proxy_protocol_header_from_an_untrusted_address_is_reset(tells: Path) -> None:
    listen = ["127.0.0.1:0?proxy_protocol=required", "127.0.0.1:0?proxy_protocol=optional"]
    with serve(tells, "--trusted-proxies=192.0.2.0/24", listen=listen) as serving:
        for n in (0, 1):
            # The reset may arrive before connect() has returned.
            with pytest.raises(ConnectionError), serving.tcp(n) as sock:
                sock.sendall(HEADER + b"x")
                assert sock.recv(1) == b"?"
                raise ConnectionError("closed")
        eventually(lambda: serving.limit_counts() == {"proxy_protocol": 2}, "both to be counted")
        with serving.tcp(1) as sock:
            sock.sendall(b"hello")
            assert sock.recv(9) == b"127.0.0.1"


@posix
def test_a_proxy_on_a_unix_socket_can_be_trusted(tells: Path, tmp_path: Path) -> None:
    listen = [f"unix:{tmp_path}/s"]
    with serve(tells, "--trusted-proxies=unix", listen=listen) as serving, serving.tcp() as sock:
        more = b"X-Forwarded-For: 1.1.1.1, 2001:db8::7\r\nX-Forwarded-Proto: https\r\n\r\n"
        sock.sendall(UPGRADE[:-2] + more)
        read_head(sock)
        assert read_frame(sock)[1] == b"2001:db8::7 unix wss"


@linux
def test_connections_from_untrusted_addresses_leave_no_descriptors(tells: Path) -> None:
    listen = ["127.0.0.1:0?proxy_protocol=required"]
    with serve(tells, "--trusted-proxies=192.0.2.1", listen=listen) as serving:
        before = serving.descriptors()
        for _ in range(200):
            try:
                with serving.tcp() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except ConnectionError:
                pass
        eventually(lambda: serving.descriptors() <= before, "all descriptors to be free")
        assert len(str(serving.run).split("is not a trusted proxy")) < 5


def test_connections_behind_a_proxy_are_counted_by_client_address() -> None:
    options = ("--proxy-protocol=required", "--trusted-proxies=127.0.0.1")
    with (
        serve(ECHO, *options, "--max-connections-per-address=1") as serving,
        serving.tcp() as one,
    ):
        one.sendall(HEADER + UPGRADE)
        assert read_head(one).startswith(b"HTTP/1.1 101 ")
        with serving.tcp() as more:
            more.sendall(HEADER)
            more.sendall(UPGRADE)
            told = receive_all(more)
            assert told.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nRetry-After: 5\r\n" in told
        with serving.tcp() as more, pytest.raises(ConnectionResetError):
            more.sendall(HEADER + b"raw")
            more.recv(1)
        # The limit counts another client address behind the same proxy separately.
        with serving.tcp() as other:
            other.sendall(HEADER.replace(b".9 ", b".10 ") + b"raw")
            assert receive_exactly(other, 3) == b"raw"
        eventually(lambda: serving.limit_counts() == {"max_connections_per_address": 2})
        assert serving.run.line(r"limit max_connections_per_address: .*\(203\.0\.113\.9:4711\)")
