from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, UNIT, eventually
from wsraw.config.addresses import Listen
from wsraw.gateway.sockets.listener import ACCEPT_BUDGET, Listener
from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop
from wsraw.runtime.sockets import INHERITED, printable

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


class Accepting:
    """A loop, its listeners, and the connections that they have accepted."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.accepted: list[tuple[Listen, socket.socket, object]] = []
        self.listeners: list[Listener] = []
        self.room = True
        self.loop.before_sleep = self._check

    def _check(self, now: float) -> bool:
        for listener in self.listeners:
            listener.update(self.room)
        return False

    def listen(self, given: socket.socket | None = None, **asked: Any) -> Listener:
        listen = Listen(**{"name": "test", "host": "127.0.0.1", **asked})
        listener = Listener(
            self.loop, listen, lambda *new: self.accepted.append(new), given  # type: ignore[arg-type]
        )  # fmt: skip
        self.listeners.append(listener)
        self.loop.turn(False)
        return listener

    def until(self, condition: Any) -> None:
        def turn() -> Any:
            self.loop.turn(False)
            return condition()

        eventually(turn)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        for _, sock, _ in self.accepted:
            sock.close()
        self.loop.close()


@pytest.fixture
def gate() -> Iterator[Accepting]:
    gate = Accepting()
    yield gate
    gate.close()


def test_a_client_that_connected_before_the_gateway_started_gets_its_options(
    gate: Accepting,
) -> None:
    """The supervisor listens while the gateway's Python still starts."""
    sock = listening.bind(Listen(name="test", host="127.0.0.1"))
    with socket.create_connection(sock.getsockname()):
        gate.listen(sock)
        gate.until(lambda: gate.accepted)
        _, accepted, _ = gate.accepted[0]
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) or not INHERITED


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_clients_are_accepted_over_ipv4_and_ipv6(gate: Accepting, host: str, shown: str) -> None:
    listener = gate.listen(host=host)
    assert listener.address == f"{shown}:{port_of(listener)}"
    with socket.create_connection((host, port_of(listener))) as client:
        gate.until(lambda: gate.accepted)
        [(listen, sock, address)] = gate.accepted
        assert listen is listener.listen
        assert printable(address) == printable(client.getsockname())
        sock.sendall(b"x")
        assert client.recv(1) == b"x"


@unix_only
def test_a_unix_socket_is_accepted_from_and_its_file_is_removed(
    gate: Accepting, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    listener = gate.listen(host="", path=path)
    assert listener.address == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        gate.until(lambda: gate.accepted)
    assert printable(gate.accepted[0][2]) == "unix"
    gate.listeners.remove(listener)
    listener.close()
    assert not os.path.exists(path)


@unix_only
def test_an_inherited_socket_is_accepted_from_and_its_file_is_left(
    gate: Accepting, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    ours = listening.bind(Listen(name="test", path=path))
    given = listening.adopt(str(os.dup(ours.fileno())))
    listener = gate.listen(given, host="", path=path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        gate.until(lambda: gate.accepted)
    gate.listeners.remove(listener)
    listener.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    ours.close()


# --- bounds ---


def test_at_max_connections_no_client_is_accepted(gate: Accepting) -> None:
    gate.room = False
    port = port_of(gate.listen())
    with socket.create_connection(("127.0.0.1", port)), socket.create_server(("127.0.0.1", 0)):
        for _ in range(20):
            gate.loop.turn(False)
        assert gate.accepted == []
        gate.room = True
        gate.until(lambda: gate.accepted)
        gate.room = False
        gate.loop.turn(False)
        with socket.create_connection(("127.0.0.1", port)):
            for _ in range(20):
                gate.loop.turn(False)
            assert len(gate.accepted) == 1


def test_a_storm_of_clients_is_accepted_in_portions(gate: Accepting) -> None:
    port = port_of(gate.listen())
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(ACCEPT_BUDGET * 2 + 5)]
    portions = []
    while len(gate.accepted) < len(clients):
        before = len(gate.accepted)
        gate.loop.turn()
        portions.append(len(gate.accepted) - before)
    assert max(portions) == ACCEPT_BUDGET
    for client in clients:
        client.close()


EXHAUSTED = r"""
import logging, resource, socket, sys, time
from wsraw.gateway.sockets.listener import Listener
from wsraw.runtime.loop import Loop
from wsraw.config.addresses import Listen

logging.basicConfig(format="%(message)s")
unit = float(sys.argv[1])
loop = Loop()
accepted = []
listener = Listener(loop, Listen(name="here", host="127.0.0.1"), lambda l, s, a: accepted.append(s))
turns = 0

def before_sleep(now):
    global turns
    turns += 1
    listener.update(True)
    return False

loop.before_sleep = before_sleep
address = listener._sock.getsockname()
clients = [socket.create_connection(address) for _ in range(20)]
# The lowest limit that all there is now stays under, and five more.
limit = max(sock.fileno() for sock in clients) + 6
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def until(condition):
    deadline = time.monotonic() + 20 * unit
    while not condition():
        assert time.monotonic() < deadline, len(accepted)
        loop.turn()

until(lambda: len(accepted) == 5)
paused_at, turns = time.monotonic(), 0
until(lambda: time.monotonic() > paused_at + 1.2)
assert len(accepted) == 5, len(accepted)
assert turns < 50, f"{turns} turns: it spins"
for sock in accepted:
    sock.close()
until(lambda: len(accepted) == 10)
print("survived")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors to lower")
def test_without_descriptors_accepting_pauses_and_resumes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, str(UNIT)], capture_output=True, text=True, check=False,
        timeout=DEADLINE,
    )  # fmt: skip
    assert done.stdout == "survived\n", done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cannot accept on here: Too many open files; paused")
    assert "ulimit -n" in done.stderr


def test_a_connection_aborted_before_it_is_accepted_is_ignored(
    gate: Accepting, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of(gate.listen())
    for _ in range(10):
        socket.create_connection(("127.0.0.1", port)).close()
    gate.until(lambda: len(gate.accepted) == 10)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
