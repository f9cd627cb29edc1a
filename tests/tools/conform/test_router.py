from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from wsraw.tools.conform.router import Router

COUNT = 100


@pytest.fixture(params=[False, True], ids=["local", "remote"])
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    router = Router(remote=request.param)
    yield router
    router.close()


def worker(context: zmq.Context[zmq.Socket[bytes]], router: Router) -> zmq.Socket[bytes]:
    sock = context.socket(zmq.DEALER)
    keys = router.variables
    if keys:
        sock.curve_serverkey = keys["WSRAW_CURVE_SERVERKEY"].encode()
        sock.curve_publickey = keys["WSRAW_CURVE_PUBLICKEY"].encode()
        sock.curve_secretkey = keys["WSRAW_CURVE_SECRETKEY"].encode()
    sock.connect(router.endpoint)
    return sock


def test_all_that_a_worker_has_sent_can_be_received_once_its_link_has_ended(router: Router) -> None:
    """Otherwise a bye that libzmq has not read yet would be missed if the end of the process is
    known first.
    """
    assert not router.is_linked()
    for n in range(5):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sock = worker(context, router)
        sock.send(b"hello")
        assert router.receive(DEADLINE) is not None
        assert router.is_linked()
        for _ in range(COUNT):
            sock.send(b"x" * 5000)
        sock.send(b"bye %d" % n)
        sock.close()
        # close() waits until everything is written.
        context.term()
        eventually(lambda: not router.is_linked())
        found = [router.receive(0) for _ in range(COUNT + 1)]
        assert found[-1] is not None
        assert found[-1][1] == [b"bye %d" % n]


def test_a_router_begins_again_without_the_links_of_before(router: Router) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = worker(context, router)
    sock.send(b"hello")
    assert router.receive(DEADLINE) is not None
    router.down()
    assert not router.is_linked()
    router.up()
    eventually(router.is_linked)
    sock.close()
    context.term()
    eventually(lambda: not router.is_linked())
