"""`wsraw bridge` with real processes and without workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection

from tests.authority import ca, leaf, pem
from tests.deadline import eventually
from tests.e2e.serving import TIMEOUT, receive_all, receive_exactly
from tests.e2e.upstream import raw_upstream, web_upstream
from tests.needs import signals
from tests.ports import free_port
from tests.running import Running, wsraw

BURST = 64 * 1024


def echo(sock: socket.socket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.sendall(b"goodbye")


def web_echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def bridge(listen: str, *arguments: str) -> Running:
    return Running(*arguments, listen=[listen], subcommand="bridge")


def test_a_websocket_client_reaches_a_raw_server() -> None:
    """Send bursts both ways as a remote desktop does, and compare them byte for byte."""
    with (
        raw_upstream(echo) as upstream,
        bridge("ws://127.0.0.1:0", f"--to=tcp://127.0.0.1:{upstream.port}") as run,
    ):
        assert not run.ready().pids("worker [0-9]+")
        with connect(f"ws://127.0.0.1:{run.port}/", max_size=None, compression=None) as client:
            sent = [os.urandom(BURST) for _ in range(64)]
            thread = threading.Thread(target=lambda: [client.send(burst) for burst in sent])
            thread.start()
            got = bytearray()
            while len(got) < BURST * len(sent):
                got += client.recv(TIMEOUT)  # type: ignore[operator]
            thread.join()
            assert bytes(got) == b"".join(sent)
        assert upstream.came == 1


def test_a_raw_client_reaches_a_websocket_server() -> None:
    with (
        web_upstream(web_echo) as upstream,
        bridge(
            "raw://127.0.0.1:0", f"--to=ws://127.0.0.1:{upstream.port}/", "--framing=line"
        ) as run,
        socket.create_connection(("127.0.0.1", run.ready().port), TIMEOUT) as sock,
    ):
        sock.sendall("grün\nzwei\n".encode())
        assert receive_exactly(sock, 11) == "grün\nzwei\n".encode()


def test_a_bridge_speaks_tls_on_both_sides(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_bytes(pem(leaf("localhost")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)

    def answer(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            echo(secure)
            # Without a close_notify the end would count as a loss.
            secure.unwrap()

    trust = ssl.create_default_context()
    ca().configure_trust(trust)
    with (
        raw_upstream(answer) as upstream,
        bridge(
            "localhost:0",
            "--tls=optional",
            f"--tls-cert={cert}",
            f"--to=tls://localhost:{upstream.port}",
            "--no-verify",
        ) as run,
    ):
        port = run.ready().port
        with (
            socket.create_connection(("localhost", port), TIMEOUT) as sock,
            trust.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"question")
            assert receive_exactly(secure, 8) == b"question"
        # The client's end reaches the target as a close_notify, and the target's answer comes back.
        with socket.create_connection(("localhost", port), TIMEOUT) as plain:
            plain.sendall(b"last ")
            plain.shutdown(socket.SHUT_WR)
            assert receive_all(plain) == b"last goodbye"


def test_a_client_is_refused_if_its_target_is_down_and_closed_if_it_dies() -> None:
    port = free_port()
    run = bridge("127.0.0.1:0", f"--to=tcp://127.0.0.1:{port}")
    with run:
        url = f"ws://127.0.0.1:{run.ready().port}/"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code == 502
        with socket.create_connection(("127.0.0.1", run.port), TIMEOUT) as sock:
            sock.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with socket.create_server(("127.0.0.1", port)) as server, connect(url) as client:
            target, _ = server.accept()
            client.send(b"hello")
            assert receive_exactly(target, 5) == b"hello"
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            target.close()
            with pytest.raises(ConnectionClosed) as ended:
                client.recv(TIMEOUT)
            close = ended.value.rcvd
            assert close is not None
            assert (close.code, close.reason) == (1014, "the target was lost")


def test_tokens_come_and_go(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.cfg"
    with raw_upstream(echo) as upstream:
        tokens.write_text("# none yet\n", "utf-8")
        run = bridge("ws://127.0.0.1:0", f"--tokens={tokens}", "--path=/vnc/{token}")
        with run:
            url = f"ws://127.0.0.1:{run.ready().port}/vnc/desk"
            with pytest.raises(InvalidStatus) as refused:
                connect(url)
            assert refused.value.response.status_code == 404
            tokens.write_text(f"desk: 127.0.0.1:{upstream.port}\n", "utf-8")

            def talks() -> bool:
                try:
                    with connect(url) as client:
                        client.send(b"x")
                        return client.recv(TIMEOUT) == b"x"
                except InvalidStatus:
                    return False

            eventually(talks, "the token")


def test_check_tries_the_targets(tmp_path: Path) -> None:
    with raw_upstream(echo) as upstream:
        good = wsraw("check", "--listen=127.0.0.1:0", f"--bridge=tcp://127.0.0.1:{upstream.port}")
    assert good.returncode == 0, good.stdout
    assert f"bridge 1: tcp://127.0.0.1:{upstream.port}: takes connections" in good.stdout
    down = wsraw("check", "--listen=127.0.0.1:0", f"--bridge=tcp://127.0.0.1:{upstream.port}")
    assert down.returncode == 1
    assert "refused" in down.stdout
    wrong = tmp_path / "tokens"
    wrong.write_text("nothing\n", "utf-8")
    for file, why in ((wrong, "line 1: write token: host:port"), (tmp_path / "none", "No such")):
        failed = wsraw("bridge", f"--tokens={file}")
        assert failed.returncode == 2
        assert why in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "--to is missing"),
        (["--to=nowhere"], "--to: cannot open 'nowhere'"),
        (["--to=tcp://h:1", "--type=text"], "--type: text needs framing line or length"),
        (["--to=tcp://h:1", "--path=vnc"], "vnc"),
        (
            ["--to=tcp://h:1", "--framing=words"],
            "--framing: 'words': write chunk or line or length",
        ),
    ],
)
def test_wrong_options_are_named(arguments: list[str], error: str) -> None:
    done = wsraw("bridge", *arguments)
    assert (done.returncode, error in done.stderr) == (2, True), done.stderr


def test_bridges_work_beside_handlers(tmp_path: Path) -> None:
    """A bridge and handlers share one port, told apart by the path; the status counts both."""
    handlers = tmp_path / "handlers.py"
    handlers.write_text("def on_message(msg, con):\n    return 'handled'\n", "utf-8")
    folder = tmp_path / "run"
    config = tmp_path / "wsraw.toml"
    with raw_upstream(echo) as upstream:
        config.write_text(
            f"workers = ['{handlers}']\nrun_dir = '{folder}'\n"
            f"[[bridges]]\npath = '/vnc'\nto = '127.0.0.1:{upstream.port}'\n",
            "utf-8",
        )
        with Running("--config", str(config)) as run:
            url = f"ws://127.0.0.1:{run.ready().port}"
            with connect(f"{url}/vnc") as bridged, connect(f"{url}/") as served:
                bridged.send("x")
                served.send("x")
                assert (bridged.recv(TIMEOUT), served.recv(TIMEOUT)) == (b"x", "handled")
                listed = wsraw("connections", "--run-dir", str(folder), "--pool", "bridge:1")
                assert "2 connections" in listed.stdout or "bridge:1" in listed.stdout
                reloaded = wsraw("reload", "--run-dir", str(folder))
                assert reloaded.returncode == 0, reloaded.stderr
                bridged.send("y")
                assert bridged.recv(TIMEOUT) == b"y"


@signals
@pytest.mark.parametrize("command", ["reload", "upgrade"])
def test_a_bridge_is_reloaded_and_upgraded(tmp_path: Path, command: str) -> None:
    folder, tokens = tmp_path / "run", tmp_path / "tokens.cfg"
    with raw_upstream(echo) as upstream:
        tokens.write_text(f"desk: 127.0.0.1:{upstream.port}\n", "utf-8")
        arguments = ["ws://127.0.0.1:0", f"--tokens={tokens}", f"--run-dir={folder}"]
        with (
            bridge(*arguments) as run,
            connect(f"ws://127.0.0.1:{run.ready().port}/?token=desk") as client,
        ):
            for _ in range(2):
                done = wsraw(command, "--run-dir", str(folder))
                assert done.returncode == 0, done.stderr
                assert {"reload": "there are no workers", "upgrade": "2 connections"}[
                    command
                ] in done.stdout
                client.send(b"x")
                assert client.recv(TIMEOUT) == b"x"


def test_what_needs_workers_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with bridge("ws://127.0.0.1:0", "--to=tcp://127.0.0.1:1", f"--run-dir={folder}") as run:
        run.ready()
        for command in (("reload", "--canary"), ("rollback",), ("scale", "3")):
            done = wsraw(*command, "--run-dir", str(folder))
            assert done.returncode == 1
            assert "this run has no workers of its own" in done.stderr
        done = wsraw("reload", "--pool", "x", "--run-dir", str(folder))
        assert "there is no pool 'x'; there are none" in done.stderr


def test_what_is_spliced_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        raw_upstream(echo) as upstream,
        bridge(
            "127.0.0.1:0",
            f"--to=tcp://127.0.0.1:{upstream.port}",
            f"--run-dir={folder}",
        ) as run,
        socket.create_connection(("127.0.0.1", run.ready().port), TIMEOUT) as sock,
    ):
        sock.sendall(b"x")
        assert receive_exactly(sock, 1) == b"x"
        rows = wsraw("connections", "--run-dir", str(folder), "--json").stdout.splitlines()
        assert len(rows) == 2
        ids = [json.loads(row)["id"] for row in rows]
        shown = wsraw("connection", str(ids[0]), "--run-dir", str(folder))
        assert f"with {ids[1]}" in shown.stdout
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"goodbye"


@signals
def test_stop_ends_a_bridge() -> None:
    with (
        raw_upstream(echo) as upstream,
        bridge("127.0.0.1:0", f"--to=tcp://127.0.0.1:{upstream.port}") as run,
        connect(f"ws://127.0.0.1:{run.ready().port}/") as client,
    ):
        client.send(b"x")
        assert client.recv(TIMEOUT) == b"x"
        run.send(15)
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(TIMEOUT)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1001
        assert run.wait() == 0


ECHO = """
import socket, threading
def serve(sock):
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.close()
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


class Busy:
    """A client that sends bursts, and verifies the answers until it ends."""

    def __init__(self, url: str) -> None:
        self.client = connect(url, max_size=None, compression=None).__enter__()
        self.verified = 0
        self.wrong = False
        self.end: ConnectionClosed | None = None
        self._sent = os.urandom(BURST)
        # This client does not read while it waits to write: more bursts at once would deadlock it.
        self._room = threading.Semaphore(4)
        self._threads = [threading.Thread(target=each) for each in (self._push, self._pull)]
        for thread in self._threads:
            thread.start()

    def _push(self) -> None:
        try:
            while not self.end:
                if self._room.acquire(timeout=0.1):
                    self.client.send(self._sent)
        except ConnectionClosed:
            pass

    def _pull(self) -> None:
        try:
            while True:
                got = self.client.recv()
                assert isinstance(got, bytes)
                at = self.verified % BURST
                wanted = (self._sent + self._sent)[at : at + len(got)]
                self.wrong = self.wrong or got != wanted
                for _ in range((at + len(got)) // BURST):
                    self._room.release()
                self.verified += len(got)
        except ConnectionClosed as error:
            self.end = error

    def moves(self) -> None:
        before = self.verified
        eventually(lambda: self.verified > before + BURST or self.end, "more data")

    def close(self) -> None:
        self.client.socket.close()
        for thread in self._threads:
            thread.join(TIMEOUT)


@signals
def test_clients_and_the_target_stop_and_die_under_load() -> None:
    words = [sys.executable, "-c", ECHO]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as target:
        assert target.stdout is not None
        try:
            port = int(target.stdout.readline())
            with bridge("ws://127.0.0.1:0", f"--to=tcp://127.0.0.1:{port}") as run:
                url = f"ws://127.0.0.1:{run.ready().port}/"
                busy = [Busy(url) for _ in range(4)]
                try:
                    for each in busy:
                        each.moves()
                    # One client disappears in the middle of its bursts.
                    busy[0].client.socket.shutdown(socket.SHUT_RDWR)
                    for each in busy[1:]:
                        each.moves()
                    # A target that is stopped for a while only delays its clients.
                    target.send_signal(signal.SIGSTOP)
                    target.send_signal(signal.SIGCONT)
                    for each in busy[1:]:
                        each.moves()
                        assert each.end is None
                    target.kill()
                    for each in busy[1:]:
                        eventually(lambda each=each: each.end, "the end")  # type: ignore[misc]
                        assert each.end is not None
                        assert each.end.rcvd is not None
                        # The code is 1014 after a reset, as the target had unread data, and 1000
                        # after a FIN.
                        assert each.end.rcvd.code in (1014, 1000)
                    assert not any(each.wrong for each in busy)
                finally:
                    for each in busy:
                        each.close()
        finally:
            target.kill()
