from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deadline import UNIT, eventually

from wsraw.gateway.listener import ACCEPT_BUDGET, Listener, printable
from wsraw.loop import Loop
from wsraw.settings import Listen

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


class Accepting:
    """A loop, its listeners, and what they have accepted."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.accepted: list[tuple[Listen, socket.socket, object]] = []
        self.listeners: list[Listener] = []
        self.room = True
        self.loop.before_sleep = self._judge

    def _judge(self, now: float) -> bool:
        for listener in self.listeners:
            listener.judge(self.room, now)
        return False

    def listen(self, **asked: Any) -> Listener:
        listen = Listen(**{"name": "test", "host": "127.0.0.1", **asked})
        listener = Listener(
            self.loop, listen, lambda *new: self.accepted.append(new)  # type: ignore[arg-type]
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


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_accepts_over_both_protocols(gate: Accepting, host: str, shown: str) -> None:
    listener = gate.listen(host=host)
    assert listener.address == f"{shown}:{port_of(listener)}"
    with socket.create_connection((host, port_of(listener))) as client:
        gate.until(lambda: gate.accepted)
        [(listen, sock, address)] = gate.accepted
        assert listen is listener.listen
        assert printable(address) == printable(client.getsockname())
        sock.sendall(b"x")
        assert client.recv(1) == b"x"


def test_ipv6_is_ipv6_alone(gate: Accepting) -> None:
    """Else [::]:8000 and 0.0.0.0:8000 could not be listened on together."""
    six = gate.listen(host="::")
    four = gate.listen(host="0.0.0.0", port=port_of(six))
    assert port_of(four) == port_of(six)


def test_a_name_is_looked_up(gate: Accepting) -> None:
    assert printable_host(gate.listen(host="localhost")) in ("127.0.0.1", "[::1]")


def printable_host(listener: Listener) -> str:
    return listener.address.rpartition(":")[0]


@unix_only
def test_a_unix_socket_and_its_file(gate: Accepting, tmp_path: Path) -> None:
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
def test_a_socket_file_of_a_run_that_was_killed_is_replaced(
    gate: Accepting, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert gate.listen(host="", path=path).address == f"unix:{path}"


@unix_only
@pytest.mark.parametrize("link", [False, True], ids=["file", "link to a file"])
def test_a_file_that_is_no_socket_is_left_alone(
    gate: Accepting, tmp_path: Path, link: bool
) -> None:
    path, precious = tmp_path / "s", tmp_path / "precious"
    (precious if link else path).write_text("precious")
    if link:
        path.symlink_to(precious)
    with pytest.raises(OSError, match=r"cannot listen on test: the address is in use"):
        gate.listen(host="", path=str(path))
    assert path.read_text() == "precious"


@unix_only
def test_a_unix_socket_in_use(gate: Accepting, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    gate.listen(host="", path=path)
    with pytest.raises(OSError, match="in use") as error:
        gate.listen(host="", path=path)
    assert error.value.errno == errno.EADDRINUSE
    assert os.path.exists(path)


# --- wrong use: one line that says what to do ---


def test_a_port_in_use(gate: Accepting) -> None:
    port = port_of(gate.listen())
    with pytest.raises(OSError) as error:
        gate.listen(name="127.0.0.1:8000", port=port)
    assert error.value.errno == errno.EADDRINUSE
    assert error.value.strerror == (
        "cannot listen on 127.0.0.1:8000: the address is in use; stop the other program or choose "
        "another port"
    )


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"host": "no-such-name.invalid"}, "write an address of this machine"),
        ({"host": "a" * 64}, "write an address of this machine"),
        ({"host": "a..b"}, "write an address of this machine"),
        ({"host": "192.0.2.1"}, "this machine has no such address"),
        ({"host": "", "path": "no/such/folder/s"}, "No such file"),
        ({"host": "", "path": "x" * 300}, "too long"),
    ],
)
def test_advice(gate: Accepting, asked: dict[str, Any], advice: str) -> None:
    if "path" in asked and not hasattr(socket, "AF_UNIX"):
        advice = "no unix sockets"
    with pytest.raises(OSError) as error:
        gate.listen(**asked)
    assert (error.value.strerror or "").startswith("cannot listen on test: ")
    assert advice in (error.value.strerror or "")


def test_a_privileged_port(gate: Accepting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may be allowed to: then the kernel's refusal is put in."""

    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(OSError, match="not permitted; choose a port above 1023"):
        gate.listen(port=80)


# --- bounds ---


def test_no_room_no_accepting(gate: Accepting) -> None:
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


def test_a_storm_is_taken_in_portions(gate: Accepting) -> None:
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
from wsraw.gateway.listener import Listener
from wsraw.loop import Loop
from wsraw.settings import Listen

logging.basicConfig(format="%(message)s")
unit = float(sys.argv[1])
loop = Loop()
accepted = []
listener = Listener(loop, Listen(name="here", host="127.0.0.1"), lambda l, s, a: accepted.append(s))
turns = 0

def before_sleep(now):
    global turns
    turns += 1
    listener.judge(True, now)
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
def test_out_of_descriptors_it_pauses_says_so_once_and_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, str(UNIT)], capture_output=True, text=True, check=False,
        timeout=60 * UNIT,
    )  # fmt: skip
    assert done.stdout == "survived\n", done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cannot accept on here: Too many open files; paused")
    assert "ulimit -n" in done.stderr


def test_an_aborted_connection_is_no_trouble(
    gate: Accepting, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of(gate.listen())
    for _ in range(10):
        socket.create_connection(("127.0.0.1", port)).close()
    gate.until(lambda: len(gate.accepted) == 10)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/tmp/s", "unix:/tmp/s"),
        ("", "unix"),
        (b"\0abstract", "unix"),
    ],
)
def test_printable(address: object, shown: str) -> None:
    assert printable(address) == shown
