"""Sockets of clients and of workers continue in another gateway, whatever their state."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus import UPGRADE, frame
from tests.gateway.frozen.gateways import Relay
from tests.needs import unix_sockets
from wsraw.link.records import Close, Send, encode

pytestmark = unix_sockets


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path)
    yield made
    made.close()


def say(relay: Relay, client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    assert relay.received(client, len(data)) == data


def test_clients_and_workers_continue_in_the_next_gateway(relay: Relay) -> None:
    relay.worker()
    raw, websocket = relay.connect(), relay.connect()
    websocket.sendall(UPGRADE % b"")
    assert b"101" in relay.received(websocket, 100)
    for number in range(5):
        say(relay, raw, b"raw %d" % number)
        websocket.sendall(frame(0x81, b"hello %d" % number))
        assert relay.received(websocket, 9) == b"\x81\x07hello %d" % number
        relay.upgrade()
    assert relay.generations == 6
    assert len(relay.gateway.sessions.workers) == 1
    totals = relay.gateway.registry.totals.values()
    assert sum(each.open for each in totals) == 2
    assert sum(each.received for each in totals) == 10


def test_what_is_in_flight_and_parked_is_acked_to_the_next_gateway(relay: Relay) -> None:
    worker = relay.worker()
    worker.acks = False
    client = relay.connect()
    for number in range(50):
        client.sendall(b"%02d" % number)
        relay.turn()
    relay.upgrade()
    client.sendall(b"50")
    relay.upgrade()
    worker.acks = True
    expected = b"".join(b"%02d" % number for number in range(51))
    assert relay.received(client, len(expected)) == expected
    flow = relay.gateway.registry.flow
    relay.until(lambda: flow.total == 0)


def test_output_that_a_client_does_not_read_is_written_by_the_next_gateway(
    relay: Relay,
) -> None:
    worker = relay.worker()
    answer = bytes(range(256)) * 8192
    worker.echo = lambda event: [Send(event.con, answer, "binary")] * 6
    client = relay.connect(buffer=4096)
    client.sendall(b"give")
    relay.until(lambda: relay.gateway.registry.flow.unwritten)
    for _ in range(5):
        relay.turn()
    [entry] = relay.gateway.registry.entries.values()
    assert entry.con.output.size
    before = entry.written, entry.con.output.size
    relay.upgrade()
    [entry] = relay.gateway.registry.entries.values()
    assert (entry.written, entry.con.output.size) == before
    # Receiving 4 KiB at a time would take minutes on a busy machine.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert relay.received(client, 6 * len(answer)) == 6 * answer


def test_batches_that_a_worker_does_not_read_go_on_where_they_were(relay: Relay) -> None:
    worker = relay.worker()
    worker.reads = False
    worker.echo = lambda event: []
    big = b"x" * 60_000
    clients = [relay.connect() for _ in range(8)]
    for _ in range(12):
        for client in clients:
            try:
                client.send(big)
            except BlockingIOError:
                pass
        relay.turn()
    links = list(relay.gateway._links._links.values())
    unsent = [link.unsent for link in links]
    relay.upgrade()
    links = list(relay.gateway._links._links.values())
    assert [link.unsent for link in links] == unsent
    worker.reads = True
    relay.until(lambda: relay.gateway.registry.flow.total == 0)
    assert len(relay.gateway.sessions.workers) == 1
    assert relay.gateway.registry.flow.shared == 0


def test_a_batch_that_has_come_in_part_is_completed(relay: Relay) -> None:
    worker = relay.worker()
    client = relay.connect()
    say(relay, client, b"hello")
    sock = worker.client._socket
    assert sock is not None
    # A batch of another session is read and dropped.
    batch = encode([1 << 40, ["unknown", bytes(70_000)]])
    whole = b"\x02" + len(batch).to_bytes(8, "big") + batch
    for start, end in ((0, 5), (5, 100), (100, 50_000), (50_000, 70_000), (70_000, None)):
        part = whole[start:end]
        while part:
            try:
                part = part[sock._sock.send(part) :]
            except BlockingIOError:
                pass
            relay.turn()
        relay.turn()
        relay.upgrade()
    say(relay, client, b"and on")
    assert len(relay.gateway.sessions.workers) == 1


def test_the_death_of_a_worker_is_seen_by_the_next_gateway(relay: Relay) -> None:
    worker = relay.worker()
    worker.acks = False
    client = relay.connect()
    client.sendall(b"hello")
    relay.until(lambda: worker.heard)
    relay.upgrade()
    worker.client.forked()
    relay.workers.remove(worker)
    relay.until(lambda: not relay.gateway.sessions.workers)
    relay.worker()
    assert relay.received(client, 5) == b"hello"


def test_a_client_that_leaves_during_the_upgrade_is_missed(relay: Relay) -> None:
    relay.worker()
    client = relay.connect()
    say(relay, client, b"hello")
    client.close()
    relay.upgrade()
    relay.until(lambda: not relay.gateway.registry.entries)
    assert not relay.gateway.sockets.endpoints


def test_many_upgrades_in_a_row_lose_nothing(relay: Relay) -> None:
    for _ in range(2):
        relay.worker()
    clients = [relay.connect() for _ in range(6)]
    for generation in range(25):
        for number, client in enumerate(clients):
            client.sendall(b"%02d.%d " % (generation, number))
        for _ in range(generation % 3):
            relay.turn()
        relay.upgrade()
    for number, client in enumerate(clients):
        expected = b"".join(b"%02d.%d " % (each, number) for each in range(25))
        assert relay.received(client, len(expected)) == expected
    assert relay.gateway.registry.flow.kept > 0


def test_a_connection_that_sends_too_much_is_read_again_in_time(tmp_path: Path) -> None:
    relay = Relay(tmp_path, message_rate=20)
    try:
        relay.worker()
        client = relay.connect()
        for number in range(40):
            client.sendall(b"%02d" % number)
            relay.turn()
        assert relay.gateway.registry.flow.paused
        relay.upgrade()
        assert relay.gateway.registry.flow.paused
        expected = b"".join(b"%02d" % number for number in range(40))
        assert relay.received(client, len(expected)) == expected
    finally:
        relay.close()


def test_the_last_bytes_of_a_connection_that_has_ended_are_written(relay: Relay) -> None:
    worker = relay.worker()
    answer = bytes(range(256)) * 8192
    worker.echo = lambda event: [Send(event.con, answer, "binary")] * 3 + [Close(event.con)]
    client = relay.connect(buffer=4096)
    client.sendall(b"give")
    relay.until(lambda: any(e.lingering for e in relay.gateway.sockets.endpoints))
    for _ in range(3):
        relay.turn()
    [endpoint] = relay.gateway.sockets.endpoints
    assert endpoint.con.output.size
    relay.upgrade()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert relay.received(client, 3 * len(answer)) == 3 * answer

    def is_over() -> bool:
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False

    relay.until(is_over)
    client.close()
    relay.until(lambda: not relay.gateway.sockets.endpoints)
    assert relay.gateway.registry.flow.accounted == 0
