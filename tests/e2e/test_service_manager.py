"""A run under a service manager: its notifications, and the sockets that it is passed.

The service manager is a datagram socket here, and systemd-socket-activate where it is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.deadline import DEADLINE, eventually
from tests.e2e.command_line import done
from tests.e2e.serving import ECHO, TIMEOUT, receive_exactly, serve
from tests.needs import signals, unix_sockets
from tests.ports import free_port
from tests.running import Running, command, environment

pytestmark = [unix_sockets, signals]

Write = Callable[[str], Path]
ACTIVATE = "systemd-socket-activate"
activate = pytest.mark.skipif(not shutil.which(ACTIVATE), reason=f"no {ACTIVATE} here")


class Manager:
    """Receives the notifications of a run."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(self.path)
        self.heard: list[str] = []

    def wait(self, line: str) -> str:
        """Wait for the next message that begins with this line."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            message = self.socket.recv(4096).decode()
            self.heard.append(message)
            if message.startswith(line):
                return message
        raise AssertionError(f"{line} did not come: {self.heard}")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


def test_a_run_says_when_it_is_ready_reloads_stops_and_lives(
    manager: Manager, handlers: Write
) -> None:
    text = """
        import os
        def on_message(msg, con):
            found = [name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG"))]
            con.send(" ".join(found) or "none")
    """
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"}
    with serve(handlers(text), env=env) as serving:
        manager.wait("READY=1")
        assert not any(message.startswith("RELOADING") for message in manager.heard)
        manager.wait("WATCHDOG=1")
        if "STATUS=1 of 1 workers are ready" not in manager.heard:
            manager.wait("STATUS=1 of 1 workers are ready")
        done(serving, "reload")
        assert "\nMONOTONIC_USEC=" in manager.wait("RELOADING=1")
        manager.wait("READY=1")
        with serving.ws() as client:
            client.send("what do you get?")
            assert client.recv(TIMEOUT) == "none"
        serving.stop()
        manager.wait("STOPPING=1")
        assert serving.run.wait() == 0


def test_a_refused_reload_ends_and_its_reason_stays_until_one_succeeds(
    manager: Manager, handlers: Write
) -> None:
    good = "def on_message(msg, con): return msg"
    file = handlers(good)
    with serve(file, env={"NOTIFY_SOCKET": manager.path}, tracebacks=True) as serving:
        manager.wait("READY=1")
        file.write_text("import")
        serving.run.send(signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        serving.run.line("refused|the old workers stay")
        why = "refused: the new worker exited with code 3: its handlers file does not load"
        told = manager.wait(f"STATUS=1 of 1 workers are ready; last reload: {why}")
        assert "SyntaxError" in told
        assert "ago: refused: the new worker" in done(serving, "status")
        file.write_text(good)
        done(serving, "reload")
        assert "refused" not in done(serving, "status")


def test_a_run_whose_handlers_do_not_load_is_never_ready(manager: Manager, handlers: Write) -> None:
    before = os.environ.get("NOTIFY_SOCKET")
    assert before is None
    os.environ["NOTIFY_SOCKET"] = manager.path
    try:
        run = Running(f"--workers={handlers('import')}")
    finally:
        del os.environ["NOTIFY_SOCKET"]
    with run:
        assert run.wait() == 3
        manager.wait("STOPPING=1")
        assert not any(message.startswith("READY") for message in manager.heard)


# --- passed sockets ---


@contextmanager
def activated(
    *options: str, listen: Sequence[str], arguments: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A run that systemd-socket-activate starts at the first connection, and its log."""
    process = subprocess.Popen(
        [
            ACTIVATE, *(f"--listen={each}" for each in listen), *options,
            *(f"--setenv={name}" for name in ("PYTHONPATH", "XDG_RUNTIME_DIR")),
            *command("run", f"--workers={ECHO}", *arguments),
        ],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )  # fmt: skip
    lines: list[str] = []
    try:
        yield process, lines
        process.terminate()
        lines += (process.communicate(timeout=DEADLINE)[1] or "").splitlines()
        assert process.returncode == 0, lines
    finally:
        process.kill()
        process.communicate()


@activate
@pytest.mark.parametrize(
    ("address", "options", "arguments"),
    [
        ("127.0.0.1:{port}", [], []),
        ("127.0.0.1:{port}", [], ["--listen=fd:3?plain_http=health"]),
        ("127.0.0.1:{port}", ["--fdname=web"], ["--listen=fd:web"]),
        ("127.0.0.1:{port}", [], ["--listen=127.0.0.1:{port}"]),
        ("[::]:{port}", [], []),
    ],
    ids=["all", "number", "name", "address", "both families"],
)
def test_the_first_client_starts_the_run_and_is_served(
    address: str, options: list[str], arguments: list[str]
) -> None:
    port = free_port()
    with activated(
        *options,
        listen=[address.format(port=port)],
        arguments=[each.format(port=port) for each in arguments],
    ):

        def reach() -> socket.socket | None:
            try:
                return socket.create_connection(("127.0.0.1", port), TIMEOUT)
            except ConnectionRefusedError:
                return None

        client = eventually(reach, "systemd-socket-activate to listen")
        assert client is not None
        with client:
            client.sendall(b"hello")
            assert receive_exactly(client, 5) == b"hello"
        with connect(f"ws://127.0.0.1:{port}", proxy=None, open_timeout=TIMEOUT) as web:
            web.send("over the same socket")
            assert web.recv(TIMEOUT) == "over the same socket"


def test_a_passed_socket_stays_open_between_two_runs(tmp_path: Path) -> None:
    """Clients wait in the socket's queue, and none is refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as sock:
        address = sock.getsockname()
        with inherited(sock, tmp_path) as first:
            first.send(signal.SIGTERM)
            assert first.wait() == 0
        with (
            socket.create_connection(address, TIMEOUT) as client,
            inherited(sock, tmp_path) as second,
        ):
            client.sendall(b"hello")
            assert receive_exactly(client, 5) == b"hello"
            os.kill(second.pid("gateway"), signal.SIGKILL)
            with socket.create_connection(address, TIMEOUT) as other:
                other.sendall(b"again")
                assert receive_exactly(other, 5) == b"again"
            second.send(signal.SIGTERM)
            assert second.wait() == 0


def inherited(sock: socket.socket, folder: Path) -> Running:
    """A run that inherits this socket, without variables in its environment."""
    return Running(
        f"--workers={ECHO}", f"--run-dir={folder / 'run'}", listen=[f"fd:{sock.fileno()}"],
        keep_open=[sock.fileno()],
    ).ready()  # fmt: skip
