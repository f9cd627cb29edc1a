"""Many sockets at once; test_endpoint.py tests a single one."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import pytest

from tests.gateway.harness import HANDSHAKE
from tests.gateway.socket_harness import SocketHarness
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.entry import PAUSED_OWN
from wsraw.gateway.sockets import sockets as s
from wsraw.link.records import OnClose, OnError, Open


@pytest.fixture
def served() -> Iterator[SocketHarness]:
    made = SocketHarness()
    yield made
    made.close()


def test_a_flush_writes_to_a_bounded_number_of_sockets(served: SocketHarness) -> None:
    for n in range(s.WRITE_BUDGET + 1):
        served.sockets.shared.dirty[Connection.ended(n, served.sockets.settings)] = None
    served.sockets.flush()
    assert len(served.sockets.shared.dirty) == 1
    served.sockets.flush()
    assert not served.sockets.shared.dirty


def test_a_stop_closes_an_unknown_client_without_a_handler(served: SocketHarness) -> None:
    silent = served.connect()
    served.sockets.close_unannounced()
    assert served.con.ending.cause == "going-away"
    silent.close()
    served.until(lambda: not served.sockets.endpoints)
    assert served.heard == []
    assert not served.sockets.unwritten()


def test_listeners_pause_under_memory_pressure(served: SocketHarness) -> None:
    served.turn()
    flow = served.harness.registry.flow
    total, limit = flow.total, flow.memory_limit
    flow.memory_limit = flow.total = 1000
    flow.check_above = -math.inf
    served.turn()
    host, port = served.sockets.listeners[0].address.rsplit(":", 1)
    with socket.create_connection((host, int(port))):
        for _ in range(3):
            served.turn()
        assert not served.sockets.endpoints
        flow.total, flow.memory_limit = total, limit
        flow.check_above = -math.inf
        served.until(lambda: served.sockets.endpoints)


def test_no_connection_is_dialed_while_memory_is_full(served: SocketHarness) -> None:
    flow = served.harness.registry.flow
    flow.full = True
    flow.check_above = math.inf
    linked = served.linked
    linked.say(Open(linked.link.new_id(), served.sockets.listeners[0].address))
    served.until(lambda: served.kinds() == [OnError, OnClose])
    failed, end = served.heard
    assert "memory_limit" in failed.message
    assert end.cause == "connect-failed"
    assert served.harness.registry.counters.counts == {"memory_limit": 1}


def test_close_frees_listeners_and_clients(served: SocketHarness) -> None:
    client = served.connect()
    served.sockets.close()
    assert served.sockets.listeners == []
    assert not served.sockets.endpoints
    client.setblocking(True)
    client.settimeout(15)
    assert client.recv(1) == b""


def test_writing_has_a_share_of_a_turn(served: SocketHarness) -> None:
    for _ in range(4):
        served.connect()
    served.until(lambda: not served.sockets.shared.dirty)
    served.clock.step = 0.6 * s.WRITE_TIME
    order = [endpoint.con for endpoint in served.sockets.endpoints]
    for con in order:
        served.sockets.shared.dirty[con] = None
    served.sockets.flush()
    assert list(served.sockets.shared.dirty) == order[2:]
    served.sockets.flush()
    assert not served.sockets.shared.dirty


def test_closing_has_a_share_of_a_turn(served: SocketHarness) -> None:
    for _ in range(4):
        served.connect()
    served.until(lambda: not served.sockets.shared.dirty)
    served.clock.step = 1.1 * s.WRITE_TIME
    served.sockets.shared.ended.extend(served.sockets.endpoints)
    left = []
    while served.sockets.shared.ended:
        served.sockets.flush()
        left.append(len(served.sockets.endpoints))
        assert len(served.sockets.shared.ended) == left[-1]
    assert left == [3, 2, 1, 0]


def test_held_frames_have_a_share_of_a_turn_and_are_served_in_turn(served: SocketHarness) -> None:
    """A client with more than one share of frames goes to the end of the queue."""
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        client.send(HANDSHAKE + b"\x82\x81\0\0\0\0x" * 500)
    served.until(lambda: len(served.sockets.shared.read_queue) == 3)
    served.clock.step = 1.1 * s.READ_TIME
    order = list(served.sockets.shared.read_queue)
    for n in range(3):
        assert next(iter(served.sockets.shared.read_queue)) is order[n]
        served.sockets.apply_pauses()
        assert list(served.sockets.shared.read_queue)[-1] is order[n]
    served.clock.step = 0.0
    served.until(lambda: served.data() == b"x" * 1500)
    assert not served.sockets.shared.read_queue


def test_pausing_has_a_share_of_a_turn(served: SocketHarness) -> None:
    for _ in range(3):
        served.connect().send(b"x")
    served.until(lambda: len(served.data()) == 3)
    flow = served.harness.registry.flow
    entries = list(served.harness.registry.entries.values())
    served.clock.step = 1.1 * s.READ_TIME
    for entry in entries:
        flow.pause(entry, PAUSED_OWN)
    for left in (2, 1, 0):
        served.sockets.apply_pauses()
        assert len(flow.changed) == left
    served.clock.step = 0.0
    assert not any(entry.con.endpoint.reading for entry in entries)
    for entry in entries:
        flow.resume(entry, PAUSED_OWN)
    served.until(lambda: all(entry.con.endpoint.reading for entry in entries))


def test_connections_leave_a_reserve_of_descriptors(served: SocketHarness) -> None:
    """The last clients to connect wait in the kernel; connections that handlers open fail."""
    with socket.socket() as probe:
        served.sockets.descriptors._top = probe.fileno() + 6
    host, port = served.sockets.listeners[0].address.rsplit(":", 1)
    clients = [socket.create_connection((host, int(port))) for _ in range(4)]
    served.clients += clients
    served.until(lambda: served.sockets.endpoints)
    served.turn()
    standing = len(served.sockets.endpoints)
    assert 0 < standing < 4
    linked = served.linked
    linked.say(Open(linked.link.new_id(), served.sockets.listeners[0].address))
    served.until(lambda: OnError in served.kinds())
    told = next(event for event in served.heard if type(event) is OnError)
    assert "Too many open files" in told.message
    assert len(served.sockets.endpoints) == standing
    for client in clients[:standing]:
        client.close()
    served.sockets.descriptors._top += 100
    served.until(lambda: len(served.sockets.endpoints) == 4 - standing, seconds=0.4)


def test_refused_clients_do_not_use_the_reserve_of_descriptors() -> None:
    """Without a descriptor for a polite refusal, the client is reset at once, and the listener
    does not pause (python-websockets #822).
    """
    served = SocketHarness(max_connections=1)
    try:
        served.connect()
        with socket.socket() as probe:
            served.sockets.descriptors._top = probe.fileno() + 3
        host, port = served.sockets.listeners[0].address.rsplit(":", 1)
        late = [socket.create_connection((host, int(port))) for _ in range(8)]
        served.clients += late
        for _ in range(8):
            served.turn()
        assert served.harness.registry.counters.counts == {"max_connections": 8}
        assert served.sockets.descriptors.has_room() is False
    finally:
        served.close()
