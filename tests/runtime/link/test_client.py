from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.ports import free_port
from tests.runtime.link.ends import Served, take, work
from wsraw.link.batches import LARGEST_BATCH
from wsraw.runtime.clock import monotonic
from wsraw.runtime.link import client as client_module
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.link.connection import HAS_UNIX, LONGEST_SOCKET_PATH

unix_only = pytest.mark.skipif(not HAS_UNIX, reason="no unix sockets here")


@pytest.fixture(params=["unix", "tcp"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "unix" and not HAS_UNIX:
        pytest.skip("no unix sockets here")
    return str(tmp_path) if request.param == "unix" else ""


@pytest.fixture
def served(folder: str) -> Iterator[Served]:
    made = Served(folder)
    yield made
    made.close()


def test_a_router_of_libzmq_is_a_server_too(folder: str) -> None:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(f"ipc://{folder}/link.sock" if folder else "tcp://127.0.0.1:*")
    client = LinkClient(router.getsockopt_string(zmq.LAST_ENDPOINT), probe=True)
    eventually(lambda: work(client) and client.is_connected)
    for batch in (b"hello", bytes(3_000_000)):
        assert client.send(batch)
    got: list[bytes] = []
    eventually(
        lambda: (
            (work(client) and router.poll(0) and got.append(router.recv_multipart()[1])) or got[2:]
        )
    )
    assert [len(batch) for batch in got] == [0, 5, 3_000_000]
    client.close()
    router.close()
    context.term()


def test_a_probe_is_the_first_batch_of_each_connection(served: Served) -> None:
    client = served.client(probe=True)
    served.until(lambda: work(client) and served.links)
    assert served.batches[served.links[0]] == [b""]
    served.links[0].cut("again")
    served.until(lambda: take(client) == [] and client.is_lost)
    client.reconnect()
    served.until(lambda: work(client) and len(served.links) == 2)
    assert served.batches[served.links[1]] == [b""]
    client.close()


def test_a_loss_is_told_after_the_last_batch(served: Served) -> None:
    client, link = served.joined()
    for n in range(3):
        link.send(b"%d" % n)
    link.cut("no more")
    served.until(lambda: work(client) and client.fileno() < 0)
    assert not client.is_lost
    assert not client.send(b"for nobody")
    assert [client.receive() for _ in range(3)] == [b"0", b"1", b"2"]
    assert client.is_lost
    assert "no more" in client.why
    client.close()


def test_a_server_that_sends_too_long_a_batch_is_left(served: Served) -> None:
    client, link = served.joined()
    link.send(b"before")
    assert link._socket._sock.send(b"\2" + (LARGEST_BATCH + 1).to_bytes(8, "big")) == 9
    served.until(lambda: take(client) == [] and client.is_lost)
    assert f"{LARGEST_BATCH + 1:,} bytes" in client.why
    served.until(lambda: served.ends)
    assert f"{LARGEST_BATCH + 1:,} bytes" in served.ends[0][1], "it is told"
    client.close()


def test_a_loss_lasts_until_reconnect(served: Served) -> None:
    client, link = served.joined()
    link.cut("no more")
    served.until(lambda: work(client) and client.is_lost)
    time.sleep(client_module.RETRY_FIRST)
    for _ in range(10):
        client.work(time.monotonic())
    assert client.fileno() < 0
    client.reconnect()
    served.until(lambda: work(client) and client.is_connected)
    assert not client.is_lost
    assert client.send(b"second")
    served.until(lambda: len(served.links) == 2)
    client.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "ipc://",
        "ipc:///" + LONGEST_SOCKET_PATH * "x",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:http",
        "udp://127.0.0.1:1",
    ],
)
def test_an_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(OSError, match=endpoint):
        LinkClient(endpoint)


# --- attempts ---


@unix_only
def test_attempts_get_rarer_until_a_server_is_there(tmp_path: Path) -> None:
    client = LinkClient(f"ipc://{tmp_path}/link.sock")
    now = 100.0
    pauses = []
    begin = now
    for _ in range(40):
        client.work(now)
        assert client.fileno() == -1
        assert not client.is_lost
        assert client.why == os.strerror(2)
        pauses.append(client.wait_until - now)
        # This is too early, so the client does not try.
        client.work(client.wait_until - 0.01)
        # A new server is found soon, compared with the time that the attempts have taken so far.
        assert pauses[-1] < 0.021 + (now - begin) / 8
        now = client.wait_until
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == pytest.approx((0.02, 1.0))
    served = Served(tmp_path)
    client.work(now)
    assert client.fileno() >= 0
    client.close()
    served.close()


def test_after_a_short_connection_the_pause_is_longer(served: Served) -> None:
    """Otherwise a client that the server refuses each time would try fifty times a second."""
    client = served.client(probe=True)
    now = 100.0
    pauses = []
    for number in range(1, 5):
        served.until(lambda now=now, n=number: client.work(now) or len(served.links) == n)
        served.links[-1].cut("no")
        now += 0.1 if number < 4 else client_module.RETRY_MOST
        served.until(lambda now=now: client.work(now) or client.is_lost)
        pauses.append(client.wait_until - now)
        client.reconnect()
        now = client.wait_until
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.02])
    client.close()


@unix_only
def test_a_full_queue_of_the_listening_socket_is_no_end(tmp_path: Path) -> None:
    path = str(tmp_path / "link.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    clients = [LinkClient(f"ipc://{path}") for _ in range(5)]
    for client in clients:
        client.work(0.0)
    refused = [client for client in clients if client.fileno() < 0]
    assert refused
    for client in refused:
        assert client.wait_until == client_module.RETRY_FIRST
        assert "unavailable" in client.why
    while True:
        # Make room for the next client.
        accepted, _ = listener.accept()
        accepted.close()
        if not refused:
            break
        refused[-1].work(refused[-1].wait_until)
        assert refused.pop().fileno() >= 0
    for client in clients:
        client.close()
    listener.close()


def test_a_port_where_nobody_listens_is_tried_again() -> None:
    port = free_port()
    client = LinkClient(f"tcp://127.0.0.1:{port}")
    eventually(lambda: work(client) and client.why)
    assert client.fileno() == -1
    assert not client.is_lost
    client.close()


def test_a_server_that_does_not_greet_is_left_in_time(folder: str) -> None:
    """For example a stopped server, for which the system accepts connections."""
    if folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/link.sock")
        listener.listen()
        endpoint = f"ipc://{folder}/link.sock"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    client = LinkClient(endpoint)
    client.work(100.0)
    if client.wants_write:
        select.select([], [client.fileno()], [], DEADLINE)
        client.work(100.0)
    assert client.fileno() >= 0
    assert client.wait_until == 100.0 + client_module.CONNECT_TIMEOUT
    client.work(100.0 + client_module.CONNECT_TIMEOUT)
    assert client.fileno() == -1
    assert not client.is_lost
    assert "handshake" in client.why
    client.close()
    listener.close()


def test_a_server_that_is_no_server_is_left(folder: str) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.bind(f"ipc://{folder}/link.sock" if folder else "tcp://127.0.0.1:*")
    client = LinkClient(dealer.getsockopt_string(zmq.LAST_ENDPOINT))
    eventually(lambda: work(client) and client.why)
    assert client.fileno() == -1
    assert not client.is_lost
    client.close()
    dealer.close()
    context.term()


def test_no_call_of_work_closes_a_descriptor_and_opens_another(served: Served) -> None:
    """Otherwise a shell would take the new descriptor for the old one: the numbers are equal."""
    seen: list[int] = []
    client = served.client(probe=True)
    client.on_change = lambda: seen.append(client.fileno())
    for number in range(1, 4):
        served.until(lambda n=number: work(client) and len(served.links) == n)
        served.links[-1].cut("no")
        served.until(lambda: work(client) and client.is_lost)
        client.reconnect()
    opened = [number for before, number in pairwise(seen) if before != number]
    assert -1 in opened
    assert all(a == -1 or b == -1 for a, b in pairwise(opened))
    client.close()


def test_an_old_descriptor_is_open_when_its_end_is_told(served: Served) -> None:
    """A selector removes the descriptor at that moment."""
    client, link = served.joined()
    descriptor = client.fileno()
    states: list[tuple[int, bool]] = []

    def note() -> None:
        os.fstat(descriptor)
        states.append((client.fileno(), client.wants_write))

    if sys.platform != "win32":
        client.on_change = note
        link.cut("no more")
        served.until(lambda: work(client) and client.is_lost)
        assert states == [(-1, False)]
        with pytest.raises(OSError):
            os.fstat(descriptor)
    client.on_change = lambda: None
    client.close()


@unix_only
def test_a_new_server_is_found_at_the_old_place(tmp_path: Path) -> None:
    """No batch for the old server reaches the new one."""
    served = Served(tmp_path)
    client, _ = served.joined()
    while not client.unsent:
        assert client.send(b"for the first" * 1000)
    served.close()
    eventually(lambda: work(client) and client.is_lost)
    assert not client.send(b"for nobody")
    served = Served(tmp_path)
    client.reconnect()
    served.until(lambda: work(client) and client.is_connected)
    assert client.unsent == 0
    assert client.send(b"for the second")
    served.until(lambda: served.links)
    assert served.batches[served.links[0]] == [b"for the second"]
    client.close()
    served.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit there")
def test_without_a_descriptor_a_client_tries_again(served: Served) -> None:
    import resource

    client = served.client()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        client.work(time.monotonic())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert client.fileno() == -1
    assert client.why
    served.until(lambda: work(client) and client.is_connected)
    client.close()


# --- output, and the end ---


def test_what_a_server_does_not_read_is_bounded(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    count = 0
    while client.send(bytes(50_000)):
        count += 1
    assert client.is_connected
    assert client.wants_write
    assert client_module.UNSENT_LIMIT < client.unsent < client_module.UNSENT_LIMIT + 50_100
    link.resume()
    served.until(lambda: work(client) and not client.unsent)
    assert not client.wants_write
    assert client.send(b"more")
    served.until(lambda: len(served.batches[link]) == count + 2)
    client.close()


def test_a_batch_for_a_server_that_has_gone_is_a_loss_after_its_last_batch(
    served: Served,
) -> None:
    client, link = served.joined()
    link.send(b"last")
    served.server.close()
    client.send(b"for nobody")
    client.send(b"for nobody")
    eventually(lambda: work(client) and client.fileno() < 0)
    batches = list(iter(client.receive, None))
    # TCP drops received data when it learns that the peer no longer reads.
    assert batches == [b"last"] or (not batches and served.server.endpoint.startswith("tcp"))
    assert client.is_lost
    client.close()


def test_nothing_is_read_while_batches_wait(served: Served) -> None:
    client, link = served.joined()
    link.send(b"first")
    eventually(lambda: work(client) and client._batches)
    link.send(b"second")
    for _ in range(3):
        client.work(time.monotonic())
    assert [client.receive(), client.receive()] == [b"first", None]
    eventually(lambda: work(client) and client._batches)
    assert client.receive() == b"second"
    client.close()


def test_a_flush_waits_until_all_is_written(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    while not client.unsent:
        client.send(bytes(50_000))
    assert not client.flush(0.01)
    assert client.unsent
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(client.flush(DEADLINE)))
    thread.start()
    link.resume()
    served.until(lambda: done)
    thread.join()
    assert done == [True]
    assert not client.unsent
    assert not client.wants_write
    client.close()
    assert client.flush(0.0)


def test_a_close_without_time_waits_for_nothing(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    while not client.unsent:
        client.send(bytes(50_000))
    client.close()
    assert client.fileno() == -1
    client.close(DEADLINE)
    for _ in range(3):
        client.work(1e9)
    assert client.fileno() == -1


def test_a_close_lasts_no_longer_than_it_may(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    while not client.unsent:
        client.send(bytes(50_000))
    begin = monotonic()
    client.close(0.2)
    assert 0.19 < monotonic() - begin < DEADLINE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_lets_go_of_the_connection(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    while not client.unsent:
        client.send(bytes(50_000))
    begun, go = os.pipe()
    pid = os.fork()
    if not pid:
        client.forked()
        os.write(go, b"1")
        time.sleep(DEADLINE)
        os._exit(0)
    try:
        assert os.read(begun, 1)
        unsent = client.unsent
        link.resume()
        served.until(lambda: work(client) and not client.unsent)
        assert unsent
        client.close()
        # The link ends although the child is alive.
        served.until(lambda: served.ends)
        assert set(served.batches[link][1:]) == {bytes(50_000)}
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(begun)
        os.close(go)
