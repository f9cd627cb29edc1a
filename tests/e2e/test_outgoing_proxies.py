"""Connections that are opened through a proxy in a process of its own."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.authority import leaf, pem
from tests.deadline import eventually
from tests.e2e.serving import TIMEOUT
from tests.e2e.upstream import raw_upstream, web_upstream
from tests.ports import free_port
from tests.running import Running

KINDS = ("http", "socks5")


@contextmanager
def proxy(kind: str, login: str = "") -> Iterator[int]:
    """A proxy; yields its port."""
    words = [sys.executable, str(Path(__file__).with_name("proxy.py")), kind, login]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def bridge(*arguments: str) -> Running:
    return Running(*arguments, listen=["ws://127.0.0.1:0"], subcommand="bridge")


def greet(sock: socket.socket) -> None:
    """Send a greeting first, then echo."""
    sock.sendall(b"RFB 003.008\n")
    while data := sock.recv(1 << 16):
        sock.sendall(data)


@pytest.mark.parametrize("login", ["", "ann:p:w"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_reached_by_a_name_that_only_the_proxy_knows(kind: str, login: str) -> None:
    at = f"{login}@" if login else ""
    with (
        raw_upstream(greet) as upstream,
        proxy(kind, login) as port,
        bridge(
            f"--to=tcp://target.test:{upstream.port}",
            f"--connect-proxy={kind}://{at}127.0.0.1:{port}",
        ) as run,
        connect(f"ws://127.0.0.1:{run.ready().port}/") as client,
    ):
        got = client.recv(TIMEOUT)
        assert got == b"RFB 003.008\n"
        client.send(b"hello")
        assert client.recv(TIMEOUT) == b"hello"


@pytest.mark.parametrize("kind", KINDS)
def test_tls_and_websockets_pass_through_a_proxy(kind: str, tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_bytes(pem(leaf("target.test")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)

    def secret(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            greet(secure)  # type: ignore[arg-type]

    def answer(connection: object) -> None:
        for message in connection:  # type: ignore[attr-defined]
            connection.send(message)  # type: ignore[attr-defined]

    with (
        proxy(kind) as port,
        raw_upstream(secret) as safe,
        web_upstream(answer) as web,
    ):
        for target, first in (
            (f"tls://target.test:{safe.port}", b"RFB 003.008\n"),
            (f"ws://target.test:{web.port}/", None),
        ):
            with (
                bridge(
                    f"--to={target}", f"--proxy={kind}://127.0.0.1:{port}", "--no-verify"
                ) as run,
                connect(f"ws://127.0.0.1:{run.ready().port}/") as client,
            ):
                if first:
                    assert client.recv(TIMEOUT) == first
                client.send(b"hello")
                assert client.recv(TIMEOUT) == b"hello"


@pytest.mark.parametrize(
    ("kind", "login", "error"),
    [
        ("http", "ann:wrong@", "needs a login, or rejects this one"),
        ("socks5", "ann:wrong@", "rejects this user and password"),
        ("socks5", "", "needs a login"),
        ("http", "ann:right@", "cannot reach the target"),
        ("socks5", "ann:right@", "the target refused"),
    ],
)
def test_a_proxy_that_refuses_is_logged_without_the_password(
    kind: str, login: str, error: str
) -> None:
    dead = free_port()
    with (
        proxy(kind, "ann:right") as port,
        bridge(
            f"--to=tcp://target.test:{dead}", f"--connect-proxy={kind}://{login}127.0.0.1:{port}"
        ) as run,
    ):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{run.ready().port}/")
        assert refused.value.response.status_code == 502
        run.line(error)
        assert "wrong" not in str(run)
        assert "right@" not in str(run)


def test_a_proxy_that_says_nothing_holds_up_nobody() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        raw_upstream(greet) as upstream,
        Running(
            f"--bridge=/silent=tcp://target.test:{upstream.port}",
            f"--bridge=tcp://127.0.0.1:{upstream.port}",
            f"--connect-proxy=socks5://127.0.0.1:{silent.getsockname()[1]}",
            "--connect-timeout=1",
        ) as run,
    ):
        url = f"ws://127.0.0.1:{run.ready().port}"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{url}/silent")
        assert refused.value.response.status_code == 504
        # Loopback addresses are reached without the proxy.
        with connect(f"{url}/") as client:
            assert client.recv(TIMEOUT) == b"RFB 003.008\n"


@pytest.mark.parametrize("program", ["microsocks", "tinyproxy"])
def test_proxies_that_others_have_written_reach_the_target(program: str, tmp_path: Path) -> None:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    if program == "microsocks":
        kind, words = "socks5", [path, "-i", "127.0.0.1", "-p", str(port), "-u", "u", "-P", "pw"]
    else:
        config = tmp_path / "tinyproxy.conf"
        config.write_text(f"Port {port}\nListen 127.0.0.1\nBasicAuth u pw\n", "utf-8")
        kind, words = "http", [path, "-d", "-c", str(config)]

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    with (
        raw_upstream(greet) as upstream,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            eventually(listens, program)
            with (
                bridge(
                    f"--to=tcp://127.0.0.1:{upstream.port}",
                    f"--proxy={kind}://u:pw@127.0.0.1:{port}",
                ) as run,
                connect(f"ws://127.0.0.1:{run.ready().port}/") as client,
            ):
                assert client.recv(TIMEOUT) == b"RFB 003.008\n"
                for n in range(100):
                    client.send(b"%d" % n)
                    assert client.recv(TIMEOUT) == b"%d" % n
        finally:
            process.kill()
