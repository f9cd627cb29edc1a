from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, UNIT, eventually
from tests.ports import free_port
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.sockets import dialer, resolver
from wsraw.gateway.sockets.dialer import Dialer
from wsraw.link.open_options import check
from wsraw.link.records import Open
from wsraw.runtime.loop import Loop
from wsraw.runtime.sockets import strerror

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


class Dialling:
    """A loop and a dialer, and the results of the connections that it has dialed."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.ended: list[tuple[Connection, socket.socket | str]] = []
        self.dialler = Dialer(
            self.loop,
            lambda con, sock, terms: self.ended.append((con, sock)),
            lambda con, why: self.ended.append((con, why)),
            lambda con, error: self.ended.append((con, repr(error))),
        )

    def dial(self, target: str, timeout: float = DEADLINE, **options: Any) -> Connection:
        asked = check(Open(1, target, options={"connect_timeout": timeout, **options}))
        con = dialed(1, asked, Settings(), {}, self.loop.now)
        self.dialler.dial(con)
        return con

    def wait(self, count: int = 1) -> None:
        def turn() -> bool:
            self.loop.turn(len(self.ended) < count)
            return len(self.ended) >= count

        eventually(turn)

    def result(self, target: str, **asked: Any) -> Any:
        self.dial(target, **asked)
        self.wait()
        [(_, result)] = self.ended
        assert not self.dialler.attempts
        return result

    def close(self) -> None:
        for _, result in self.ended:
            if not isinstance(result, str):
                result.close()
        self.loop.close()


@pytest.fixture
def dialling() -> Iterator[Dialling]:
    dialling = Dialling()
    yield dialling
    dialling.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def is_connected(sock: socket.socket, server: socket.socket) -> bool:
    peer = server.accept()[0]
    with peer:
        peer.sendall(b"x")
        sock.setblocking(True)
        return sock.recv(1) == b"x"


def test_an_address_is_dialed(dialling: Dialling, server: socket.socket) -> None:
    port = server.getsockname()[1]
    sock = dialling.result(f"127.0.0.1:{port}")
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert is_connected(sock, server)


def test_an_ipv6_address_is_dialed(dialling: Dialling) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert is_connected(dialling.result(f"[::1]:{server.getsockname()[1]}"), server)


def test_a_name_is_resolved_and_dialed(dialling: Dialling, server: socket.socket) -> None:
    """localhost may resolve to an IPv6 address first, on which nothing listens."""
    sock = dialling.result(f"localhost:{server.getsockname()[1]}")
    assert is_connected(sock, server)


@unix_only
@pytest.mark.parametrize("scheme", ["unix:", "unix://"])
def test_a_unix_socket_is_dialed(dialling: Dialling, tmp_path: Path, scheme: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert is_connected(dialling.result(f"{scheme}{tmp_path / 's'}"), server)


def test_the_addresses_of_a_name_are_tried_one_after_another(
    dialling: Dialling, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [
        (socket.AF_INET, ("127.0.0.1", free_port())),
        (12345, ("of a family that is none", 1)),
        (socket.AF_INET, ("127.0.0.1", free_port())),
        (socket.AF_INET, server.getsockname()),
        (socket.AF_INET, ("127.0.0.1", free_port())),
    ]
    monkeypatch.setattr(resolver, "_look_up", lambda host, port, flags: addresses)
    assert is_connected(dialling.result("name:1"), server)


# --- failures: each is told once ---


def test_a_refused_connection_is_reported(dialling: Dialling) -> None:
    port = free_port()
    why = dialling.result(f"127.0.0.1:{port}")
    assert why == f"cannot connect to 127.0.0.1:{port}: {strerror(errno.ECONNREFUSED)}"


def test_the_last_of_several_failures_is_reported(
    dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [free_port() for _ in range(3)]
    addresses = [(socket.AF_INET, ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(resolver, "_look_up", lambda host, port, flags: addresses)
    assert f"127.0.0.1:{ports[-1]}" in dialling.result("name:1")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no-such-name.invalid:80", "cannot resolve 'no-such-name.invalid': "),
        ("a..b:80", "cannot resolve 'a..b': "),
        ("255.255.255.255:1", "cannot connect to 255.255.255.255:1: "),
    ],
)
def test_a_target_that_cannot_be_dialed_is_reported(
    dialling: Dialling, target: str, why: str
) -> None:
    assert why in dialling.result(target)


@unix_only
def test_a_missing_unix_socket_is_reported(dialling: Dialling, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert dialling.result(f"unix:{path}") == f"cannot connect to unix:{path}: {os.strerror(2)}"


@unix_only
@pytest.mark.parametrize("path", ["x" * 300])
def test_an_impossible_unix_path_is_reported(dialling: Dialling, path: str) -> None:
    assert dialling.result(f"unix:{path}").startswith("cannot connect to unix:")


@unix_only
def test_a_unix_socket_whose_backlog_is_full_is_reported(
    dialling: Dialling, tmp_path: Path
) -> None:
    """Here EAGAIN does not mean that the connect is in progress: the socket would be ready at
    once, and never connected.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        waiting = []
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            sock.connect_ex(str(tmp_path / "s"))
            waiting.append(sock)
        assert isinstance(dialling.result(f"unix:{tmp_path / 's'}"), str)
        for sock in waiting:
            sock.close()


# --- time ---


def silent_address() -> tuple[list[socket.socket], int]:
    """A listener with a full backlog: further connects wait."""
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    socks = [server]
    for _ in range(8):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(server.getsockname())
        socks.append(sock)
    return socks, server.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[Callable[[], tuple[int, Any]]]:
    """Makes addresses that do not answer."""
    made: list[socket.socket] = []

    def make() -> tuple[int, Any]:
        socks, port = silent_address()
        made.extend(socks)
        return socket.AF_INET, ("127.0.0.1", port)

    yield make
    for sock in made:
        sock.close()


Silent = Callable[[], tuple[int, Any]]


def give(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    monkeypatch.setattr(resolver, "_look_up", lambda host, port, flags: [*addresses])


def test_a_silent_address_does_not_delay_the_next_one_for_long(
    dialling: Dialling, server: socket.socket, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """connect_timeout is for all addresses together (aiohttp #7342 and #4451, reactphp/socket
    #196, RFC 8305).
    """
    give(monkeypatch, silent(), silent(), (socket.AF_INET, server.getsockname()))
    before = dialling.loop.now
    sock = dialling.result("name:1")
    assert is_connected(sock, server)
    assert dialling.loop.now - before >= 2 * dialer.ATTEMPT_DELAY - 0.01
    assert not dialling.loop._selector.get_map().keys() - {dialling.loop._bell.reader}


def test_after_a_failed_address_the_next_one_is_tried_at_once(
    dialling: Dialling, server: socket.socket, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "ATTEMPT_DELAY", 20 * UNIT)
    closed = (socket.AF_INET, ("127.0.0.1", free_port()))
    give(monkeypatch, closed, closed, (socket.AF_INET, server.getsockname()), silent())
    before = dialling.loop.now
    assert is_connected(dialling.result("name:1"), server)
    assert dialling.loop.now - before < 10 * UNIT


def test_an_address_that_answers_late_may_still_win(
    dialling: Dialling, server: socket.socket, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses after it fail, and the attempt goes on."""
    monkeypatch.setattr(dialer, "ATTEMPT_DELAY", 0.01)
    (first, port) = silent()
    give(monkeypatch, (first, port), (socket.AF_INET, ("127.0.0.1", free_port())))
    dialling.dial("name:1", timeout=UNIT)
    dialling.wait()
    [(_, why)] = dialling.ended
    assert why == f"timed out: no answer from 127.0.0.1:{port[1]}"


def test_the_addresses_of_a_name_are_tried_up_to_a_bound(
    dialling: Dialling, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "ATTEMPT_DELAY", 0.001)
    give(monkeypatch, *[silent()] * 50)
    dialling.dial("name:1", timeout=2 * UNIT)
    most = 0
    while not dialling.ended:
        dialling.loop.turn()
        most = max(most, len(dialling.loop._selector.get_map()) - 1)
    assert most == dialer.MOST_ADDRESSES


def test_ipv6_and_ipv4_addresses_are_tried_in_turn() -> None:
    four: list[tuple[int, Any]] = [(socket.AF_INET, n) for n in range(3)]
    six: list[tuple[int, Any]] = [(socket.AF_INET6, n) for n in range(2)]
    assert dialer._interleaved(six + four) == [six[0], four[0], six[1], four[1], four[2]]
    assert dialer._interleaved([]) == []


def test_a_connection_that_takes_too_long_fails_with_connect_timeout(dialling: Dialling) -> None:
    socks, port = silent_address()
    before = dialling.loop.now
    why = dialling.result(f"127.0.0.1:{port}", timeout=0.2)
    assert why == f"timed out: no answer from 127.0.0.1:{port}"
    assert 0.15 < dialling.loop.now - before < 10 * UNIT
    dialling.ended.clear()
    why = dialling.result("h:1", timeout=0.2, proxy=f"socks5://127.0.0.1:{port}")
    assert why == f"timed out: no answer from the proxy 127.0.0.1:{port}"
    for sock in socks:
        sock.close()


def test_a_name_that_is_resolved_too_late_is_not_dialed(
    dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def slow(host: str, port: int, flags: int) -> list[Any]:
        if flags:
            raise OSError("no address")
        assert go.wait(DEADLINE)
        return [(socket.AF_INET, ("127.0.0.1", 1))]

    monkeypatch.setattr(resolver, "_look_up", slow)
    dialling.dial("slow:1", timeout=0.05)
    dialling.wait()
    go.set()
    again = dialling.dial("255.255.255.255:1")
    dialling.wait(2)
    assert dialling.ended[0][1] == "timed out: the name 'slow' was not resolved"
    assert dialling.ended[1][0] is again
    for _ in range(50):
        dialling.loop.turn(False)
    assert len(dialling.ended) == 2


def test_without_connect_timeout_no_timer_is_left(
    dialling: Dialling, server: socket.socket
) -> None:
    target = f"127.0.0.1:{server.getsockname()[1]}"
    dialling.loop.call_later(3600.0, lambda: None)
    for n in range(20):
        dialling.dial(target, timeout=0.0)
        dialling.wait(n + 1)
    assert not dialling.dialler.attempts
    dialling.loop.turn(False)
    assert len(dialling.loop._timers) == 1, "a timer that never comes is not kept"


# --- closed meanwhile ---


def test_a_connection_closed_before_it_is_dialed_is_not_dialed(
    dialling: Dialling, server: socket.socket
) -> None:
    asked = check(Open(1, f"127.0.0.1:{server.getsockname()[1]}"))
    con = dialed(1, asked, Settings(), {}, dialling.loop.now)
    con.close(1000, "", "handler", dialling.loop.now)
    assert con.state is CLOSED
    dialling.dialler.dial(con)
    assert not dialling.dialler.attempts


def test_a_connection_closed_while_it_is_dialed_ends(
    dialling: Dialling, server: socket.socket
) -> None:
    """The dialer reports to the connection, whose owner closes a socket that comes too late."""
    con = dialling.dial(f"127.0.0.1:{server.getsockname()[1]}")
    con.close(1000, "", "handler", dialling.loop.now)
    dialling.wait()
    assert con.connected(dialling.loop.now) == []
    assert con.connect_failed("late", dialling.loop.now) == []
    assert con.state is CLOSED
