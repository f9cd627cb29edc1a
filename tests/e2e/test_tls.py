"""TLS with a whole run: third-party clients, reload, client certificates, outgoing connections."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.authority import (
    ca,
    ca_file,
    client_context,
    leaf,
    pem,
    server_context,
    server_file,
    write,
)
from tests.deadline import DEADLINE, UNIT, eventually
from tests.e2e.command_line import ask
from tests.e2e.serving import ECHO, TIMEOUT, Serving, posix, receive_exactly, serve
from tests.e2e.upstream import raw_upstream
from tests.needs import curl
from tests.running import wsraw

Write = Callable[[str], Path]

openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")


def tls(serving: Serving, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    return (context or client_context()).wrap_socket(serving.tcp(), server_hostname="localhost")


def test_one_port_serves_websocket_and_raw_clients_with_and_without_tls(tmp_path: Path) -> None:
    cert = server_file(tmp_path)
    with serve(ECHO, "--tls=optional", f"--tls-cert={cert}") as serving:
        with serving.tcp() as plain, tls(serving) as secure:
            for sock in (plain, secure):
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"
        with serving.ws() as client:
            client.send("plain")
            assert client.recv(TIMEOUT) == "plain"
        _host, port = serving.addresses[0]
        from websockets.sync.client import connect

        with connect(
            f"wss://localhost:{port}",
            sock=serving.tcp(),
            ssl=client_context(),
            max_size=None,
            open_timeout=TIMEOUT,
        ) as wss:
            for data in ("hello", b"x" * 1_000_000):
                wss.send(data)
                assert wss.recv(TIMEOUT) == data


@openssl
def test_openssl_exchanges_data_and_its_renegotiations_are_survived(tmp_path: Path) -> None:
    cert, authority = server_file(tmp_path), ca_file(tmp_path)
    with serve(ECHO, f"--tls-cert={cert}") as serving:
        host, port = serving.addresses[0]

        def s_client(*options: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [
                    "openssl",
                    "s_client",
                    "-connect",
                    f"{host}:{port}",
                    "-CAfile",
                    authority,
                    "-verify_return_error",
                    *options,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
            )

        with s_client("-quiet") as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"hello\n")
            seen = b""
            while b"hello\n" not in seen:
                seen += client.stdout.read(100)
            client.terminate()
        # K asks for new keys in both directions (TLS 1.3), R for a renegotiation (TLS 1.2).
        for command, version in ((b"K\n", "-tls1_3"), (b"R\n", "-tls1_2")):
            with s_client(version) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                seen = b""
                while b"Verify return code: 0" not in seen:
                    part = client.stdout.read(4096)
                    assert part, seen
                    seen += part
                try:
                    for _ in range(50):
                        client.stdin.write(command)
                        # s_client takes the letter as a command only if it is read alone.
                        time.sleep(0.002)
                except BrokenPipeError:
                    assert command == b"R\n"
                client.terminate()
        for refused in (["-groups", "ffdhe8192"], ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]):
            with s_client(*refused) as client:
                output, _ = client.communicate(timeout=TIMEOUT)
                assert client.returncode == 1
                assert b"CONNECTED" in output
        with tls(serving) as secure:
            secure.sendall(b"alive")
            assert receive_exactly(secure, 5) == b"alive"


@curl
def test_curl_is_told_that_it_needs_tls(tmp_path: Path) -> None:
    cert, authority = server_file(tmp_path), ca_file(tmp_path)
    with serve(None, f"--tls-cert={cert}", "--plain-http=health") as serving:
        _, port = serving.addresses[0]

        def fetch(scheme: str) -> str:
            return subprocess.run(
                [
                    "curl",
                    "-s",
                    "-4",
                    "-w",
                    "%{http_code}",
                    "--cacert",
                    authority,
                    f"{scheme}://localhost:{port}/",
                ],
                capture_output=True,
                encoding="utf-8",
                timeout=TIMEOUT,
                check=True,
            ).stdout

        assert fetch("https").endswith("200")
        answer = fetch("http")
        assert answer.endswith("400")
        assert "TLS is needed here" in answer


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: write(folder, "x.pem", b"nonsense"), "PEM form"),
        (
            lambda folder: write(
                folder,
                "x.pem",
                leaf("a").private_key_pem.bytes() + leaf("b").cert_chain_pems[0].bytes(),
            ),
            "does not belong",
        ),
    ],
)
def test_a_wrong_certificate_ends_the_run_before_it_serves(
    tmp_path: Path, spoil: Callable[[Path], str], said: str
) -> None:
    result = wsraw("run", "--listen=127.0.0.1:0", f"--tls-cert={spoil(tmp_path)}")
    assert result.returncode == 3
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_certificate_is_refused_before_the_start(tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text("\ntls_cert = 'no.pem'\n", "utf-8")
    result = wsraw("run", "--listen=127.0.0.1:0", f"--config={file}")
    assert result.returncode == 2
    where = f"{file}:2: tls_cert: {tmp_path / 'no.pem'}"
    assert result.stderr == f"wsraw: {where}: No such file or directory\n"


@openssl
def test_an_encrypted_key_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    cert = server_file(tmp_path)
    key = str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", cert, "-aes128", "-passout", "pass:x", "-out", key],
        check=True,
        capture_output=True,
    )
    result = wsraw("run", "--listen=127.0.0.1:0", f"--tls-cert={cert}", f"--tls-key={key}")
    assert result.returncode == 3
    assert "the key is encrypted" in result.stderr


@posix
def test_reload_reads_certificates_and_touches_no_connection(tmp_path: Path) -> None:
    file = Path(write(tmp_path, "cert.pem", pem(leaf())))
    with serve(ECHO, f"--tls-cert={file}") as serving, tls(serving) as old:

        def shown() -> bytes | None:
            with tls(serving) as sock:
                return sock.getpeercert(True)

        before = shown()
        file.write_bytes(b"nonsense")
        done = ask(serving, "reload")
        assert done.returncode == 1
        assert "certificates refused, the old ones stay" in done.stderr
        assert shown() == before
        file.write_bytes(pem(leaf("localhost")))
        done = ask(serving, "reload")
        assert (done.returncode, done.stderr) == (0, "")
        after = shown()
        assert after != before
        file.write_bytes(pem(leaf()))
        serving.run.send(signal.SIGHUP)
        eventually(lambda: shown() == before)
        old.sendall(b"still here")
        assert receive_exactly(old, 10) == b"still here"


def test_handlers_see_the_certificate_of_a_client(handlers: Write, tmp_path: Path) -> None:
    text = """
    def on_message(msg, con):
        con.send(repr((con.tls["client"]["names"], con.tls["server_name"])) + "\\n")
    """
    options = [f"--tls-cert={server_file(tmp_path)}", f"--tls-client-ca={ca_file(tmp_path)}"]
    with serve(handlers(text), *options, "--tls-client-auth=required") as serving:
        with tls(serving, client_context(leaf("me"))) as sock:
            sock.sendall(b"x")
            assert receive_exactly(sock, 25) == b"(['DNS:me'], 'localhost')"
        with pytest.raises((ssl.SSLError, ConnectionError)), tls(serving) as sock:
            sock.recv(1)


def test_handlers_open_connections_with_tls(handlers: Write, tmp_path: Path) -> None:
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    ca().configure_trust(context)
    got: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            got.append(receive_exactly(secure, 5))
            secure.sendall(b"answer")
            secure.recv(1)

    with raw_upstream(answer) as upstream:
        mine = write(tmp_path, "mine.pem", pem(leaf("me")))
        text = f"""
        from wsraw import open_client_connection

        def on_message(msg, con):
            if con.listener:
                up = open_client_connection("tls://localhost:{upstream.port}",
                                            ca={ca_file(tmp_path)!r}, cert={mine!r})
                up.state = con.id
                up.send("early")
            else:
                print("got", msg["data"])
                con.close()
        """
        with serve(handlers(text)) as serving, serving.tcp() as client:
            client.sendall(b"go")
            serving.run.line("got b'answer'")
    assert got == [b"early"]
    assert not upstream.errors


def test_a_flood_of_half_handshakes_does_not_stop_the_others(tmp_path: Path) -> None:
    options = [f"--tls-cert={server_file(tmp_path)}", f"--handshake-timeout={5 * UNIT}"]
    with serve(ECHO, *options) as serving:
        flood = []
        for n in range(300):
            sock = serving.tcp()
            sock.sendall(b"\x16\3\1\2\0\1\0\1\xfc"[: 1 + n % 9])
            flood.append(sock)
        with tls(serving) as secure:
            secure.sendall(b"alive")
            assert receive_exactly(secure, 5) == b"alive"
        for sock in flood:
            sock.settimeout(DEADLINE)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            sock.close()
