"""Key exchanges with a whole run: only the expensive ones are refused."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.authority import ca_file, client_context, server_file
from tests.deadline import eventually
from tests.e2e.serving import ECHO, TIMEOUT, Serving, linux, receive_exactly, serve
from tests.gateway.tls.handshake_messages import (
    FFDHE8192,
    GREASE,
    P256,
    RETRY,
    UNKNOWN,
    X25519,
    extension,
    message,
    records,
    shares,
    supported,
    vector,
)
from tests.ports import free_port

pytestmark = [linux, pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")]

ALERT = 21


@pytest.fixture(scope="module", params=["ecdsa", "rsa"])
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("certificates")
    cert = server_file(folder, rsa=request.param == "rsa")
    with serve(ECHO, f"--tls-cert={cert}", "--plain-http=health") as serving:
        yield serving


def s_client(serving: Serving, options: str, port: int = 0) -> tuple[int, str]:
    """Shake hands and leave; returns the exit code and the output of openssl."""
    host, own = serving.addresses[0]
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{host}:{port or own}", *options.split()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="latin-1",
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def cpu(serving: Serving) -> float:
    """The CPU time of the gateway, in seconds."""
    fields = Path(f"/proc/{serving.gateway}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- clients that are accepted ---


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ("", "X25519"),
        ("-groups X25519", "X25519"),
        ("-groups P-256", "ECDH, prime256v1"),
        ("-groups P-384", "ECDH, secp384r1"),
        ("-groups P-521", "ECDH, secp521r1"),
        ("-groups X448", "X448"),
        ("-groups X25519:ffdhe2048:ffdhe8192", "X25519"),
        ("-groups P-256:ffdhe8192", "ECDH, prime256v1"),
        ("-tls1_2", "X25519"),
        ("-tls1_2 -groups P-256", "ECDH, prime256v1"),
        ("-tls1_2 -groups X25519:P-256:ffdhe8192", "X25519"),
        ("-tls1_2 -groups ffdhe8192:P-256", "ECDH, prime256v1"),
    ],
)
def test_openssl_connects_with_every_allowed_curve(
    serving: Serving, options: str, taken: str
) -> None:
    code, said = s_client(serving, options)
    assert code == 0, said
    assert f"Server Temp Key: {taken}" in said


# In TLS 1.2 the curve of an ECDSA certificate must be among the groups.
@pytest.mark.parametrize(
    ("version", "curve"),
    [
        (ssl.TLSVersion.TLSv1_2, ""),
        (ssl.TLSVersion.TLSv1_2, "prime256v1"),
        (ssl.TLSVersion.TLSv1_3, ""),
        (ssl.TLSVersion.TLSv1_3, "prime256v1"),
        (ssl.TLSVersion.TLSv1_3, "secp521r1"),
        (ssl.TLSVersion.TLSv1_3, "X25519"),
    ],
)
def test_python_connects_with_each_key_exchange(
    serving: Serving, version: ssl.TLSVersion, curve: str
) -> None:
    context = client_context(version=version)
    if curve:
        context.set_ecdh_curve(curve)
    with context.wrap_socket(serving.tcp(), server_hostname="localhost") as sock:
        sock.sendall(b"hello")
        assert receive_exactly(sock, 5) == b"hello"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
@pytest.mark.parametrize("options", ["", "--curves P-256", "--curves X25519", "--tls-max 1.2"])
def test_curl_connects_with_each_key_exchange(
    serving: Serving, tmp_path: Path, options: str
) -> None:
    _, port = serving.addresses[0]
    command = ["curl", "-s", "-4", "--cacert", ca_file(tmp_path), *options.split()]
    done = subprocess.run(
        [*command, f"https://localhost:{port}/"],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout == "ok\n"


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
@pytest.mark.parametrize("curve", ["auto", "P-256", "X25519", "P-521:P-384"])
def test_node_connects_with_each_key_exchange(serving: Serving, tmp_path: Path, curve: str) -> None:
    _, port = serving.addresses[0]
    text = """
    const [port, ca, ecdhCurve] = process.argv.slice(1);
    const options = {host: '127.0.0.1', port, servername: 'localhost', ecdhCurve,
                     ca: require('fs').readFileSync(ca)};
    const sock = require('tls').connect(options, () => sock.write('hello'));
    sock.on('data', data => { process.stdout.write(data); sock.end(); });
    """
    done = subprocess.run(
        ["node", "-e", text, str(port), ca_file(tmp_path), curve],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("hello", "")


# --- clients that are refused ---


@pytest.mark.parametrize(
    "options",
    [
        "-groups ffdhe8192",
        "-groups ffdhe2048",
        "-groups ffdhe8192:ffdhe2048",
        # The client sends a key of its first group only.
        "-groups ffdhe8192:P-256",
        # Python gives OpenSSL no parameters for finite-field DHE, so TLS 1.2 is without it.
        "-tls1_2 -cipher DHE",
        "-tls1_2 -cipher ALL -groups ffdhe8192",
    ],
)
def test_an_expensive_key_exchange_is_refused(serving: Serving, options: str) -> None:
    before = cpu(serving)
    code, said = s_client(serving, options)
    assert code == 1
    assert "alert handshake failure" in said
    assert cpu(serving) - before < 0.1


@contextmanager
def changing(serving: Serving, change: Callable[[bytes], bytes]) -> Iterator[tuple[int, list[int]]]:
    """A proxy that changes the first message of clients. Yields its port, and a list with the
    type of the first record in each answer of the gateway.
    """
    answers: list[int] = []

    def pump(source: socket.socket, target: socket.socket, edit: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(change(data) if edit else data)
                if not edit:
                    answers.append(data[0])
                edit = False
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def stand() -> None:
        client, _ = listener.accept()
        with client, serving.tcp() as server:
            up = threading.Thread(target=pump, args=(client, server, True))
            up.start()
            pump(server, client, False)
            up.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        thread = threading.Thread(target=stand)
        thread.start()
        try:
            yield listener.getsockname()[1], answers
        finally:
            thread.join()


def hide(group: int) -> Callable[[bytes], bytes]:
    """Replace X25519 in a client's list of groups by another group, and remove its key."""

    def change(data: bytes) -> bytes:
        listed = supported(X25519, FFDHE8192)
        shown = struct.pack("!HHHHH", 51, 38, 36, X25519, 32)
        assert listed in data, "this OpenSSL says it in another way"
        assert shown in data, "this OpenSSL says it in another way"
        data = data.replace(listed, supported(group, FFDHE8192))
        return data.replace(shown, struct.pack("!HHHHH", 51, 38, 36, group, 32))

    return change


@pytest.mark.parametrize("group", [UNKNOWN, GREASE])
def test_an_expensive_curve_is_not_requested_in_a_retry(serving: Serving, group: int) -> None:
    """This real client would answer a HelloRetryRequest with a key of ffdhe8192."""
    before = cpu(serving)
    with changing(serving, hide(group)) as (port, answers):
        code, said = s_client(serving, "-groups X25519:ffdhe8192", port)
    assert code == 1
    assert "alert handshake failure" in said
    assert answers == [ALERT]
    assert cpu(serving) - before < 0.1


def second_hello(group: int, key: bytes) -> bytes:
    entry = struct.pack("!H", group) + vector(key, 2)
    return records(message(*COMMON, extension(51, vector(entry, 2))))


COMMON = [
    extension(43, vector(b"\3\4", 1)),
    extension(13, vector(b"\4\3\10\4", 2)),
    supported(GREASE, FFDHE8192, P256),
]


def test_a_client_that_was_asked_for_a_curve_must_use_it(serving: Serving) -> None:
    before = cpu(serving)
    for _ in range(10):
        with serving.tcp() as sock:
            sock.sendall(records(message(*COMMON, shares())))
            answer = sock.recv(1 << 16)
            assert RETRY in answer
            assert extension(51, struct.pack("!H", P256)) in answer
            sock.sendall(second_hello(FFDHE8192, b"\x7f" + bytes(1022) + b"\5"))
            kind, *_ = receive_exactly(sock, 5)
            # In TLS 1.3 a change_cipher_spec record may come first, and has no meaning.
            assert kind in (ALERT, 20)
            assert not sock.recv(1 << 16).startswith(b"\x16")
    # One such key exchange alone would take the gateway longer.
    assert cpu(serving) - before < 0.1
    eventually(lambda: shake(serving) == b"hello")


def shake(serving: Serving) -> bytes:
    with client_context().wrap_socket(serving.tcp(), server_hostname="localhost") as sock:
        sock.sendall(b"hello")
        return receive_exactly(sock, 5)


# --- servers that handlers connect to ---


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("-groups ffdhe8192", "it asks for a finite-field key exchange"),
        ("-tls1_2 -cipher DHE -dhparam {dh}", "alert handshake failure"),
        ("-groups X25519", ""),
        ("-groups P-384", ""),
        ("-tls1_2 -cipher ECDHE", ""),
    ],
)
def test_an_opened_connection_refuses_a_server_that_asks_for_an_expensive_curve(
    handlers: Callable[[str], Path], tmp_path: Path, options: str, why: str
) -> None:
    port = free_port()
    if "{dh}" in options:
        options = options.format(dh=tmp_path / "dh.pem")
        group = ["-algorithm", "DH", "-pkeyopt", "group:ffdhe8192"]
        subprocess.run(
            ["openssl", "genpkey", "-genparam", *group, "-out", str(tmp_path / "dh.pem")],
            check=True,
            capture_output=True,
        )
    cert = server_file(tmp_path, rsa=True)
    command = ["openssl", "s_server", "-accept", str(port), "-cert", cert, "-key", cert, "-rev"]
    text = f"""
    from wsraw import open_client_connection

    def on_message(msg, con):
        if con.listener:
            up = open_client_connection("tls://localhost:{port}", ca={ca_file(tmp_path)!r})
            up.send("hello\\n")
        else:
            print("got", msg["data"])

    def on_error(message, con):
        print("failed:", message)
    """
    with (
        subprocess.Popen(
            [*command, *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as server,
        serve(handlers(text)) as serving,
    ):
        try:
            assert server.stdout is not None
            while b"ACCEPT" not in (line := server.stdout.readline()):
                assert line, "it did not start"
            with serving.tcp() as client:
                before = cpu(serving)
                client.sendall(b"go")
                serving.run.line(rf"failed: TLS to .*{why}" if why else r"got b'olleh\\n'")
                assert cpu(serving) - before < 0.15
        finally:
            server.kill()
