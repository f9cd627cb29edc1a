"""The socket of libzmq, a real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from wsraw.runtime.link.bell import Bell
from wsraw.workers.shells.remote_dealer import RemoteDealer


class Ends:
    def __init__(self) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind("tcp://127.0.0.1:*")
        self.bell = Bell()
        self.dealer = RemoteDealer(self.router.getsockopt_string(zmq.LAST_ENDPOINT), self.bell)

    def probe(self) -> bytes:
        # The probe leaves when the dealer's thread looks at its socket.
        eventually(lambda: self.dealer.is_readable() or self.router.poll(10), "the probe")
        identity, empty = self.router.recv_multipart()
        assert empty == b""
        return identity


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.dealer.close()
    made.bell.close()
    made.router.close()
    made.context.term()


def test_batches_go_both_ways(ends: Ends) -> None:
    identity = ends.probe()
    assert ends.dealer.receive() is None
    assert not ends.dealer.is_readable()
    ends.router.send_multipart([identity, b"in"])
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.receive() == b"in"
    assert ends.dealer.send(b"out")
    assert ends.router.poll(1000 * DEADLINE)
    assert ends.router.recv_multipart() == [identity, b"out"]


def test_a_wait_ends_in_time(ends: Ends) -> None:
    ends.probe()
    assert not ends.dealer.wait(0.0)
    assert not ends.dealer.wait(0.001)


def test_the_waker_ends_a_wait(ends: Ends) -> None:
    ends.probe()
    done = threading.Event()

    def wait() -> None:
        ends.dealer.wait(float("inf"))
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    ends.bell.ring()
    thread.join(DEADLINE)
    assert done.is_set()
    # It was heard: the next wait sleeps again.
    assert not ends.dealer.wait(0.0)


def test_nothing_is_queued_for_a_gateway_that_is_away(ends: Ends) -> None:
    """IMMEDIATE: else a new gateway would get what was meant for the old one."""
    ends.probe()
    endpoint = ends.router.getsockopt_string(zmq.LAST_ENDPOINT)
    ends.router.close()
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.is_lost
    assert not ends.dealer.send(b"stale")
    ends.router = ends.context.socket(zmq.ROUTER)
    ends.router.setsockopt(zmq.LINGER, 0)

    def bind() -> bool:
        try:
            ends.router.bind(endpoint)
        except zmq.ZMQError:
            return False
        return True

    eventually(bind, "the endpoint to be free")
    # libzmq has a connection again, but nobody has heard yet that the old one is lost.
    identity = ends.probe()
    ends.router.send_multipart([identity, b"to the next session"])
    assert not ends.dealer.send(b"stale")
    assert ends.dealer.receive() is None
    ends.dealer.reconnect()
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.receive() == b"to the next session"
    assert ends.dealer.wait(DEADLINE, to_send=True) is False
    assert ends.dealer.send(b"fresh")
    assert ends.router.poll(1000 * DEADLINE)
    assert ends.router.recv_multipart()[1] == b"fresh"


def test_an_invalid_endpoint_is_refused() -> None:
    bell = Bell()
    with pytest.raises(OSError):
        RemoteDealer("nonsense", bell)
    bell.close()
