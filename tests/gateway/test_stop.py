"""How a gateway stops, with real sockets and a worker in the same thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deadline import eventually
from tests.gateway.socket_harness import SocketHarness
from wsraw.gateway.sessions.backlog import SHARE
from wsraw.gateway.stop import LAST_WAIT, GracefulStop
from wsraw.link.records import Bye, FromGateway, OnClose, Publish, Send, Stopped
from wsraw.link.states import LinkState


@pytest.fixture
def served() -> Iterator[SocketHarness]:
    made = SocketHarness()
    yield made
    made.close()


def stop_of(served: SocketHarness) -> GracefulStop:
    return GracefulStop(
        served.loop, served.harness.registry, served.harness.sessions, served.sockets
    )


def said(served: SocketHarness) -> list[FromGateway]:
    return [word for word in served.harness.sessions.to_supervisor if isinstance(word, Stopped)]


def test_a_stop_finishes_events_then_closes_clients_then_drains_workers(
    served: SocketHarness,
) -> None:
    served.working = False
    client = served.connect()
    client.sendall(b"hello")
    served.until(lambda: len(served.linked.events) == 2)
    stop = stop_of(served)
    assert not stop.phases
    stop.begin(30.0)
    assert served.sockets.listeners == []
    assert not stop.advance(served.loop.now)
    assert served.con.ending.cause == "", "nobody is closed while a handler runs"
    served.working = True
    served.until(lambda: not served.linked.events)
    assert not stop.advance(served.loop.now)
    assert served.con.ending.cause == "going-away"
    served.until(lambda: OnClose in served.kinds())
    client.close()
    served.until(lambda: not served.sockets.endpoints)
    assert not stop.advance(served.loop.now)
    assert served.linked.worker.session.state is LinkState.DRAINING
    assert said(served) == []
    served.linked.say(Bye())
    assert stop.advance(served.loop.now)
    assert len(said(served)) == 1


def test_the_deadline_of_a_stop_ends_each_phase(served: SocketHarness) -> None:
    served.working = False
    served.connect().sendall(b"hello")
    served.until(lambda: served.linked.events)
    stop = stop_of(served)
    stop.begin(5.0)
    assert not stop.advance(served.loop.now + 4.9)
    assert stop.advance(served.loop.now + 5.0)
    assert served.con.ending.cause == "going-away"


def test_a_second_stop_can_only_shorten_the_deadline(served: SocketHarness) -> None:
    stop = stop_of(served)
    stop.begin(5.0)
    stop.begin(9.0)
    assert not stop.advance(served.loop.now + 4.9), "the worker is still there"
    stop.begin(1.0)
    assert stop.advance(served.loop.now + 1.0)


def test_a_stop_does_not_wait_for_a_client_that_never_closes(served: SocketHarness) -> None:
    served.connect().sendall(b"hello")
    served.until(lambda: len(served.heard) == 2)
    stop = stop_of(served)
    stop.begin(30.0)
    stop.advance(served.loop.now)
    served.until(lambda: OnClose in served.kinds())
    eventually(lambda: served.turn() or not served.sockets.unwritten())
    stop.advance(served.loop.now)
    assert served.sockets.endpoints, "its side is open"
    assert served.linked.worker.session.state is LinkState.READY
    stop.advance(served.loop.now + LAST_WAIT)
    assert served.linked.worker.session.state is LinkState.DRAINING


def test_a_stop_does_not_wait_for_what_workers_go_on_to_send(served: SocketHarness) -> None:
    """A timer that publishes more than the gateway can write, or another program that does."""
    client = served.connect()
    client.sendall(b"hello")
    served.until(lambda: len(served.heard) == 2)
    linked, sessions = served.linked, served.harness.sessions

    def say(*last: Send) -> None:
        """The gateway applies a share of this in each turn."""
        for record in [*[Publish("room", b"x", "text")] * (3 * SHARE), *last]:
            linked.link.command(record)
        batch = linked.link.data_to_send()
        assert batch is not None
        sessions.receive(linked.identity, batch, served.loop.now)

    say()
    say(Send(served.con.id, b"the last before the stop"))
    stop = stop_of(served)
    stop.begin(30.0)
    for _ in range(20):
        say()
        assert not stop.advance(served.loop.now)
        if served.con.ending.cause:
            break
        sessions.backlog.go_on(served.loop.now)
    assert sessions.backlog.workers, "there was always more"
    assert served.con.ending.cause == "going-away"
    served.until(lambda: OnClose in served.kinds())
    assert client.recv(100) == b"the last before the stop"
