from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import eventually
from tests.runtime.link.ends import Served, take, work
from wsraw.runtime.link import client as client_module
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.link.connection import LONGEST_SOCKET_PATH


@pytest.fixture(params=["unix", "tcp"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "unix" and not hasattr(socket, "AF_UNIX"):
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
