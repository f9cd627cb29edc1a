from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import DEADLINE
from tests.runtime.link.ends import Served, take, work

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


@pytest.fixture(params=["unix", "tcp"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    if request.param == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("no unix sockets here")
    made = Served(tmp_path if request.param == "unix" else "")
    yield made
    made.close()


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Served]:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no unix sockets here")
    made = Served(tmp_path)
    yield made
    made.close()


# --- batches ---


def test_batches_go_both_ways(served: Served) -> None:
    client, link = served.joined()
    batches = [bytes(size) for size in (0, 10, 100_000, 3_000_000)]
    for batch in batches:
        assert client.send(batch)
    served.until(lambda: work(client) and served.batches[link] == [b"hello", *batches])
    for batch in batches:
        link.send(batch)
    found: list[bytes] = []
    served.until(lambda: found.extend(take(client)) or len(found) == len(batches))
    assert found == batches
    assert link.unsent == 0
    client.close()


def test_a_dealer_of_libzmq_is_served(served: Served) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.PROBE_ROUTER, 1)
    dealer.setsockopt(zmq.HEARTBEAT_IVL, 20)
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 600_000)
    dealer.connect(served.server.endpoint)
    dealer.send(b"hello")
    served.until(lambda: served.links and served.links[0].is_admitted)
    (link,) = served.links
    for batch in (b"x" * 1000, b"y" * 5_000_000):
        dealer.send(batch)
    served.until(lambda: len(served.batches[link]) == 4)
    assert served.batches[link] == [b"", b"hello", b"x" * 1000, b"y" * 5_000_000]
    for batch in served.batches[link]:
        link.send(batch)
    found: list[bytes] = []
    served.until(lambda: (dealer.poll(0) and found.append(dealer.recv())) or len(found) == 4)
    assert found == served.batches[link]
    dealer.close()
    context.term()
    served.until(lambda: served.ends)
    assert served.ends == [(link, "")]


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.REQ, zmq.SUB])
def test_other_sockets_of_libzmq_are_not_served(served: Served, kind: int) -> None:
    context = zmq.Context()
    other = context.socket(kind)
    other.setsockopt(zmq.LINGER, 0)
    monitor = other.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)
    other.connect(served.server.endpoint)
    served.until(lambda: monitor.poll(0))
    other.disable_monitor()
    monitor.close(0)
    other.close()
    context.term()
    assert not served.batches


def test_all_batches_of_a_peer_that_has_gone_come_before_its_end(served: Served) -> None:
    client, link = served.joined()
    count = 0
    while not client.unsent and count < 20_000:
        count += 1
        assert client.send(b"%d" % count)
    leaving = threading.Thread(target=client.close, args=(DEADLINE,))
    leaving.start()
    served.until(lambda: served.ends)
    leaving.join()
    assert served.batches[link] == [b"hello"] + [b"%d" % (n + 1) for n in range(count)]
    assert served.ends == [(link, "")]
    assert link.ended
    assert not link.send(b"for nobody")
