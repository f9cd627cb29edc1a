"""The single line of output when a connection fails, for each cause, with a real server."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest

from tests.authority import ca_file, leaf, server_context, server_file, write
from tests.authority import pem as pem_of
from tests.e2e.serving import ECHO, Serving, serve
from tests.needs import HAS_SIGNALS, signals, unix_sockets
from tests.ports import free_port
from tests.tools.connect.driving import answering, server, told


@pytest.mark.parametrize("scheme", ["ws", "tcp", "wss", "tls"])
def test_a_refused_connection_asks_whether_the_server_is_started(scheme: str) -> None:
    port = free_port()
    text = told(f"{scheme}://127.0.0.1:{port}")
    assert text.startswith(f"{scheme}://127.0.0.1:{port}")
    assert "no server is listening there (connection refused): is it started, on this port?" in text


def test_an_unknown_name_is_named() -> None:
    assert "the name 'no-such-host.invalid' is not known" in told("ws://no-such-host.invalid/")


def test_a_name_that_cannot_be_one_is_named() -> None:
    assert "is not the name of a host" in told(f"ws://{'a' * 64}.example/")


@unix_sockets
def test_a_unix_socket_that_is_not_there_is_reported(tmp_path: Path) -> None:
    assert "there is no such socket" in told(f"unix:{tmp_path}/no.sock")


@unix_sockets
def test_a_unix_socket_without_its_server_is_reported(tmp_path: Path) -> None:
    path = f"{tmp_path}/old.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
    assert "connection refused" in told(f"ws+unix:{path}:/")


@signals
@unix_sockets
@pytest.mark.skipif(HAS_SIGNALS and os.geteuid() == 0, reason="root may use every socket")
def test_a_unix_socket_of_others_is_reported(tmp_path: Path) -> None:
    path = f"{tmp_path}/a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
        os.chmod(path, 0)
        assert "permission denied" in told(f"unix:{path}")


def test_a_server_that_does_not_answer_is_given_up() -> None:
    def wait(client: socket.socket) -> None:
        while client.recv(1 << 16):
            pass

    with server(wait) as port:
        text = told(f"ws://127.0.0.1:{port}", "--timeout=0.5")
    assert "the WebSocket handshake was not answered within 0.5s (--timeout)" in text


# --- TLS ---


def test_a_server_without_tls_is_recognized() -> None:
    with serve(ECHO) as serving:
        for scheme, hint in (("wss", "write ws… instead of wss…"), ("tls", "write tcp://…")):
            text = told(serving.url().replace("ws://", f"{scheme}://").rstrip("/"))
            assert "the server does not speak TLS on this port" in text
            assert hint in text


def test_a_server_that_answers_a_tls_hello_with_http_is_recognized() -> None:
    with server(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "does not speak TLS on this port" in told(f"wss://127.0.0.1:{port}")


def test_a_server_that_ends_the_tls_handshake_is_reported() -> None:
    with server(answering(b"")) as port:
        text = told(f"wss://127.0.0.1:{port}")
    assert "the server closed the connection during the TLS handshake" in text


@pytest.mark.parametrize("optional", [False, True])
def test_a_certificate_that_is_not_trusted_names_the_options(
    tmp_path: Path, optional: bool
) -> None:
    cert = server_file(tmp_path)
    with serve(ECHO, f"--tls-cert={cert}", f"--tls={'optional' if optional else 'required'}") as s:
        text = told(f"wss://127.0.0.1:{s.addresses[0][1]}")
    assert "the server's certificate is not trusted" in text
    assert "--ca FILE" in text
    assert "--insecure" in text


def test_a_server_with_tls_is_recognized_by_a_client_without(tmp_path: Path) -> None:
    cert = server_file(tmp_path)
    with serve(ECHO, f"--tls-cert={cert}") as serving:
        text = told(serving.url())
    assert "400 Bad Request: TLS is needed here (write wss… instead of ws…" in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_of_the_client_is_recognized(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_file(tmp_path))
    context.maximum_version = version

    def behave(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            secure.recv(1)

    with server(behave) as port:
        text = told(f"wss://127.0.0.1:{port}", "--ca", ca_file(tmp_path))
    assert "wants a certificate of the client" in text
    assert "give --cert FILE" in text


# --- answers that are no handshake ---


@pytest.fixture(scope="module")
def echo() -> Serving:  # type: ignore[misc]
    with serve(ECHO) as serving:
        yield serving


def test_an_origin_that_is_not_allowed_shows_the_reason_of_the_server(echo: Serving) -> None:
    text = told(echo.url(path="/x?token=secret"), "--origin=https://evil.example")
    assert "the server answered 403 Forbidden: pages of this Origin may not connect here" in text
    assert "secret" not in text


def test_a_path_without_a_pool_is_a_404() -> None:
    with serve(None, f"--pool=chat={ECHO}", "--route=/chat=chat") as serving:
        text = told(serving.url(path="/other"))
        assert "the server answered 404 Not Found" in text


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (b"404 Not Found\r\n\r\n", "404 Not Found (nothing is at this path: check the path"),
        (b"401 Unauthorized\r\n\r\n", "401 Unauthorized (it wants credentials"),
        (b"403 Forbidden\r\n\r\n", "403 Forbidden (it does not allow this client: try --origin"),
        (b"403 Forbidden\r\nContent-Length: 8\r\n\r\nno\nway\x1b[", "403 Forbidden: no"),
        (
            b"403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 55\r\n\r\n"
            b"<html><title>Blocked \x1b here</title>" + b" " * 100,
            "403 Forbidden: Blocked \\x1b here",
        ),
        (b"200 OK\r\nContent-Length: 0\r\n\r\n", "200 OK (it answers as a web server"),
        (
            b"301 Moved Permanently\r\nLocation: https://u:secret@h/x?secret\r\n\r\n",
            "it redirects to https://...@h...: connect there",
        ),
        (b"503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "try again later"),
        (b"502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "a proxy before it"),
        (b"599 Odd\r\nContent-Length: 0\r\n\r\n", "599 Odd"),
    ],
)
def test_an_answer_that_opens_nothing_says_what_to_do(answer: bytes, hint: str) -> None:
    with server(answering(b"HTTP/1.1 " + answer)) as port:
        text = told(f"ws://127.0.0.1:{port}/x?secret", "--header=Cookie: secret")
    assert hint in text
    assert "secret" not in text


def test_a_server_that_closes_instead_of_answering_is_reported() -> None:
    with server(answering(b"")) as port:
        text = told(f"ws://127.0.0.1:{port}")
    assert "the server closed the connection instead of answering the WebSocket handshake" in text


def test_a_server_that_answers_with_something_else_than_http_is_reported() -> None:
    with server(answering(b"220 mail.example ESMTP\r\n")) as port:
        text = told(f"ws://127.0.0.1:{port}")
    assert "the server sent something else than HTTP" in text
    assert "tcp://…" in text


def test_a_handshake_that_is_wrong_is_reported() -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    with server(answering(answer + b"Sec-WebSocket-Accept: x\r\n\r\n")) as port:
        assert "the handshake has failed: invalid Sec-WebSocket-Accept header" in told(
            f"ws://127.0.0.1:{port}"
        )


# --- files ---


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    empty = write(tmp_path, "empty.pem", b"")
    for option in ("--ca", "--cert"):
        text = told("wss://127.0.0.1:1", option, empty, code=2)
        assert text.startswith(f"{option} {empty}: the file does not contain")


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for option in ("--ca", "--cert"):
        assert "o such file" in told("wss://127.0.0.1:1", option, f"{tmp_path}/no", code=2)


def test_a_key_without_its_certificate_is_refused() -> None:
    assert "give --cert FILE too" in told("wss://127.0.0.1:1", "--key=x", code=2)


def test_a_client_shows_its_certificate(tmp_path: Path) -> None:
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_file(tmp_path))

    def behave(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            secure.sendall(secure.recv(100))
            with contextlib.suppress(OSError):
                secure.unwrap()

    from tests.tools.connect.driving import connect

    cert = write(tmp_path, "client.pem", pem_of(leaf("client.example")))
    with server(behave) as port:
        done = connect(
            f"tls://localhost:{port}", "--ca", ca_file(tmp_path), "--cert", cert, "-x", "hello"
        )
    assert (done.stdout, done.stderr, done.returncode) == (b"hello\n", b"", 0)
