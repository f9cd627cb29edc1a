"""The control link of the gateway, over a real ROUTER."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from wsraw.gateway.sessions.control import ControlSocket, new_context

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    context = new_context()
    yield context
    # Sockets that a test has left open are closed, so that a failure does not hang here.
    context.destroy(linger=0)


def is_pending(control: ControlSocket) -> bool:
    """Ask as a loop does: it tells when the descriptor is ready, and only then."""
    if select.select([control.fd], [], [], 0)[0]:
        control.wake(True, False)
    return control.pending()


def test_the_control_link_carries_records_both_ways(context: Context) -> None:
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    control = ControlSocket(context, f"tcp://127.0.0.1:{port}")
    assert control.receive() is None
    assert not control.pending()
    control.send(b"hello")
    assert router.poll(int(1000 * DEADLINE))
    identity, said = router.recv_multipart()
    assert said == b"hello"
    router.send_multipart([identity, b"answer"])
    eventually(lambda: is_pending(control))
    assert control.receive() == b"answer"
    assert control.receive() is None
    control.send(b"last words")
    control.close()
    assert router.poll(int(1000 * DEADLINE))
    assert router.recv_multipart() == [identity, b"last words"]
    router.close(0)


def test_a_control_link_without_a_supervisor_does_not_wait(context: Context) -> None:
    control = ControlSocket(context, "tcp://127.0.0.1:9")
    for _ in range(5000):
        control.send(b"x")
    assert control.receive() is None
    control._socket.set(zmq.LINGER, 0)
    control.close()
