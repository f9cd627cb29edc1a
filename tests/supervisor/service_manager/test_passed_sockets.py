"""Sockets that a service manager opens before the run, and passes to it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.needs import unix_sockets
from wsraw.config.addresses import Listen, parse_listen
from wsraw.supervisor.service_manager import passed_sockets
from wsraw.supervisor.service_manager.passed_sockets import PassedSocketError, PassedSockets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows passes no sockets")


class Passing:
    """Passes sockets from a free descriptor on, as the tests may use 3 themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sockets: list[int] = []
        self._names: list[str] = []
        self._monkeypatch = monkeypatch
        self.environ: dict[str, str] = {}

    def add(self, sock: socket.socket, name: str = "unknown") -> int:
        """Pass a socket; returns its descriptor."""
        first = self._sockets[0] if self._sockets else 500
        number = first + len(self._sockets)
        os.dup2(sock.fileno(), number, inheritable=True)
        sock.close()
        self._sockets.append(number)
        self._names.append(name)
        return number

    def take(self) -> PassedSockets:
        if self._sockets:
            self._monkeypatch.setattr(passed_sockets, "FIRST_PASSED", self._sockets[0])
        self.environ = {
            "LISTEN_FDS": str(len(self._sockets)),
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDNAMES": ":".join(self._names),
        }
        return PassedSockets(self.environ)

    def close(self) -> None:
        for number in self._sockets:
            try:
                os.close(number)
            except OSError:
                # The code under test closes the descriptor.
                pass


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passing]:
    passing = Passing(monkeypatch)
    yield passing
    passing.close()


def tcp(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def listens(*texts: str) -> list[Listen]:
    return [parse_listen(text) for text in texts]


def taken(passed: PassedSockets, *texts: str) -> dict[str, object]:
    """The addresses of the listeners that got a passed socket."""
    found = passed.assign(listens(*texts))
    addresses = {name: sock.getsockname() for name, sock in found.items()}
    for sock in found.values():
        sock.close()
    return addresses


def test_sockets_are_taken_by_number_and_by_name(passing: Passing) -> None:
    one, two = tcp(), tcp()
    addresses = [one.getsockname(), two.getsockname()]
    number = passing.add(one, "web")
    passing.add(two, "feed")
    passed = passing.take()
    assert passed.numbers == [number, number + 1]
    found = taken(passed, "raw://fd:feed", f"fd:{number}?plain_http=health")
    assert found == {"raw://fd:feed": addresses[1], f"fd:{number}?plain_http=health": addresses[0]}


@unix_sockets
def test_a_socket_with_the_address_of_a_listener_is_taken_over(
    passing: Passing, tmp_path: Path
) -> None:
    web, local = tcp(), socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "app.sock")
    local.bind(path)
    local.listen()
    port = web.getsockname()[1]
    passing.add(web)
    passing.add(local)
    text = f"ws://127.0.0.1:{port}"
    found = taken(passing.take(), text, "127.0.0.1:0", f"unix:{path}")
    assert found == {text: ("127.0.0.1", port), f"unix:{path}": path}


def test_a_passed_socket_does_not_block_and_is_not_inherited(passing: Passing) -> None:
    number = passing.add(tcp())
    passed = passing.take()
    assert not os.get_inheritable(number)
    [sock] = passed.assign(listens(f"fd:{number}")).values()
    with sock, pytest.raises(BlockingIOError):
        sock.accept()


def test_variables_are_removed_and_those_of_another_process_ignored(passing: Passing) -> None:
    assert passing.take().numbers == []
    assert passing.environ == {}
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}
    assert PassedSockets(environ).numbers == []
    assert environ == {"HOME": "/"}


def test_a_socket_that_nobody_takes_is_an_error(passing: Passing) -> None:
    sock = tcp()
    where = f"127.0.0.1:{sock.getsockname()[1]}"
    number = passing.add(sock, "web")
    with pytest.raises(PassedSocketError) as error:
        passing.take().assign(listens("127.0.0.1:0"))
    assert f"no --listen takes: fd:{number} ({where}, web); give" in str(error.value)


def test_a_name_of_several_sockets_is_refused(passing: Passing) -> None:
    number = passing.add(tcp(), "web")
    passing.add(tcp(), "web")
    with pytest.raises(PassedSocketError, match=rf"write fd:{number} and fd:{number + 1}"):
        passing.take().assign(listens("fd:web"))


def test_an_unknown_name_is_refused_with_those_that_there_are(passing: Passing) -> None:
    passing.add(tcp(), "web")
    with pytest.raises(PassedSocketError, match=r"no socket of this name .*; names: web"):
        passing.take().assign(listens("fd:wbe"))
    with pytest.raises(PassedSocketError, match="names: none"):
        PassedSockets({}).assign(listens("fd:web"))


def test_a_socket_serves_one_listener(passing: Passing) -> None:
    number = passing.add(tcp())
    with pytest.raises(PassedSocketError, match="another --listen has this socket"):
        passing.take().assign(listens(f"fd:{number}", f"raw://fd:{number}"))


def test_only_listening_stream_sockets_are_taken(passing: Passing) -> None:
    passing.add(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with pytest.raises(PassedSocketError, match="not a listening stream socket"):
        passing.take().assign(listens("fd:unknown"))


def test_a_connected_socket_is_refused(passing: Passing) -> None:
    one, two = socket.socketpair()
    with two:
        passing.add(one)
        with pytest.raises(PassedSocketError, match="Accept=no"):
            passing.take().assign(listens("fd:unknown"))


def test_a_descriptor_of_this_process_is_not_taken_for_a_passed_one() -> None:
    """The control socket of the run listens, too."""
    with closing(tcp()) as own, pytest.raises(PassedSocketError, match="no socket was passed"):
        PassedSockets({}).assign(listens(f"fd:{own.fileno()}"))


def test_an_inherited_socket_is_taken_by_its_number_without_variables() -> None:
    """uvicorn --fd and circus pass sockets in this way."""
    sock = tcp()
    address = sock.getsockname()
    os.set_inheritable(sock.fileno(), True)
    text = f"fd:{sock.detach()}"
    assert taken(PassedSockets({}), text) == {text: address}


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(PassedSocketError, match="no socket was passed as descriptor 987"):
        PassedSockets({}).assign(listens("fd:987"))
