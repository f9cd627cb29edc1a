from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.deadline import eventually
from tests.gateway.harness import HANDSHAKE, Harness
from wsraw.config.addresses import Listen
from wsraw.gateway.admission.per_address import MOST_REFUSED, REFUSAL_TIMEOUT
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.runtime.loop import Loop

ANY = Listen(name="test")
THERE = ("192.0.2.1", 1)


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


class Gate:
    """Sockets whose clients may have any address. The limits are one connection an address, and
    three in all.
    """

    def __init__(self) -> None:
        self.harness = Harness(
            max_connections=3, max_connections_per_address=1, trusted_proxies=("192.0.2.200",)
        )
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.sockets = Sockets(self.loop, self.harness.registry, self.harness.settings)
        self.loop.before_sleep = self._before_sleep
        self.clients: list[socket.socket] = []

    def _before_sleep(self, now: float) -> bool:
        self.harness.turn()
        self.sockets.flush()
        return False

    def come(self, address: object = THERE, listen: Listen = ANY) -> socket.socket:
        # The socket is TCP, as a pair of unix sockets knows no reset.
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        client.setblocking(False)
        self.clients.append(client)
        self.sockets._accepted(listen, accepted, address)
        return client

    def turn(self, seconds: float = 0.0) -> None:
        while seconds > 0:
            self.clock.time += min(0.4, seconds)
            seconds -= 0.4
            self.loop.turn(False)
        self.loop.turn(False)

    def said(self, client: socket.socket) -> bytes:
        """The bytes that the client receives until the end; b"reset" for a reset."""
        data = b""

        def read() -> bool:
            nonlocal data
            self.turn()
            try:
                piece = client.recv(65536)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                data += b"reset"
                return True
            data += piece
            return not piece

        eventually(read)
        return data

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.sockets.close()
        self.loop.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


def test_an_http_client_is_answered_with_503(gate: Gate) -> None:
    gate.come()
    client = gate.come()
    client.sendall(HANDSHAKE)
    head, _, body = gate.said(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 5" in head.split(b"\r\n")
    assert body == b"too many connections from your address\n"
    assert gate.harness.registry.counters.counts == {"max_connections_per_address": 1}


def test_a_request_sent_byte_by_byte_is_answered_with_503(gate: Gate) -> None:
    gate.come()
    client = gate.come()
    for n in range(len(HANDSHAKE)):
        client.sendall(HANDSHAKE[n : n + 1])
        gate.turn()
    assert gate.said(client).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("data", [b"hello", b"GETHER", b"\x16\x03\x01"])
def test_a_client_that_does_not_speak_http_is_reset(gate: Gate, data: bytes) -> None:
    gate.come()
    client = gate.come()
    client.sendall(data)
    assert gate.said(client) == b"reset"


def test_a_client_of_a_raw_listener_is_reset_at_once(gate: Gate) -> None:
    gate.come()
    assert gate.said(gate.come(listen=Listen(name="test", protocol="raw"))) == b"reset"


def test_a_silent_client_is_reset_in_the_end(gate: Gate) -> None:
    gate.come()
    client = gate.come()
    gate.turn(REFUSAL_TIMEOUT - 0.5)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    gate.turn(1.0)
    assert gate.said(client) == b"reset"


def test_a_storm_of_refused_clients_is_reset_at_once(gate: Gate) -> None:
    gate.come()
    waiting = [gate.come() for _ in range(MOST_REFUSED)]
    assert gate.said(gate.come()) == b"reset"
    waiting[0].close()
    gate.turn()
    client = gate.come()
    client.sendall(HANDSHAKE)
    assert gate.said(client).startswith(b"HTTP/1.1 429 ")


def test_connections_are_limited_in_total(gate: Gate) -> None:
    for n in range(3):
        gate.come((f"192.0.2.{n}", 1))
    client = gate.come(("192.0.2.9", 1))
    client.sendall(HANDSHAKE)
    assert gate.said(client).startswith(b"HTTP/1.1 503 ")
    assert gate.harness.registry.counters.counts == {"max_connections": 1}


def test_a_client_that_leaves_makes_room(gate: Gate) -> None:
    client = gate.come()
    client.sendall(b"hello")
    eventually(lambda: gate.turn() or gate.harness.registry.entries)
    client.close()
    gate.harness.worker()
    [linked] = gate.harness.linked_workers

    def left() -> bool:
        linked.work()
        gate.turn()
        return not gate.sockets.endpoints

    eventually(left)
    other = gate.come()
    other.sendall(HANDSHAKE)
    eventually(lambda: gate.turn() or gate.harness.registry.entries)
    assert not gate.harness.registry.counters.counts


# --- behind a proxy ---

PROXY = ("192.0.2.200", 1)


def first_line(gate: Gate, client: socket.socket) -> bytes:
    data = b""

    def read() -> bool:
        nonlocal data
        gate.turn()
        try:
            data += client.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b"reset"
        return True

    eventually(read)
    return data.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("listen", "say"),
    [
        (
            Listen(name="test", proxy_protocol="optional"),
            lambda who: b"PROXY TCP4 %s 192.0.2.1 1 2\r\n" % who + HANDSHAKE,
        ),
        (
            ANY,
            lambda who: HANDSHAKE[:-2] + b"X-Forwarded-For: %s\r\n\r\n" % who,
        ),
    ],
    ids=["PROXY", "X-Forwarded-For"],
)
def test_clients_of_a_trusted_proxy_count_by_themselves(
    gate: Gate, listen: Listen, say: Callable[[bytes], bytes]
) -> None:
    told = []
    for who in (b"203.0.113.1", b"203.0.113.2", b"203.0.113.1"):
        client = gate.come(PROXY, listen)
        client.sendall(say(who))
        told.append(first_line(gate, client))
    good, refused = b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 429 Too Many Requests"
    assert told == [good, good, refused]
    assert gate.harness.registry.counters.counts == {"max_connections_per_address": 1}


def test_an_untrusted_proxy_header_does_not_change_the_counted_address(gate: Gate) -> None:
    for n in range(2):
        client = gate.come(THERE)
        client.sendall(HANDSHAKE[:-2] + b"X-Forwarded-For: 203.0.113.%d\r\n\r\n" % n)
        line = first_line(gate, client)
    assert line == b"HTTP/1.1 429 Too Many Requests"
