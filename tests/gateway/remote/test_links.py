"""Remote links over real sockets: when a worker is lost, and what happens to batches that find
no room.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.deadline import eventually
from tests.gateway.harness import TOKEN
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.remote.links import BUDGET, ZmqLinks
from wsraw.gateway.remote.transport import DRAIN_TIME, RECEIVE_QUEUE, Sent
from wsraw.gateway.sessions.sessions import UNSENT_LIMIT, Sessions
from wsraw.link.records import Answer, encode
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.loop import Loop

# There are no heartbeats: tests leave full queues unread for long (see test_transport.py).
SETTINGS = Settings(worker_listen=("tcp://127.0.0.1:0",), worker_heartbeat=0.0)

UNREAD = RECEIVE_QUEUE // 2 - 1
"""Batches that fit into the queue for sure, so that libzmq goes on reading and notices an end."""


class Tap:
    """A ROUTER whose queues can be made to look full."""

    is_full = False
    refused = 0

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def send(self, *arguments: Any, **options: Any) -> None:
        if self.is_full:
            self.refused += 1
            raise zmq.Again
        self._socket.send(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class LinkedWorker:
    """A worker behind a real DEALER."""

    def __init__(self, hall: Hall, instance: str, **options: int) -> None:
        self.hall = hall
        self.socket = hall.peers.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 5000)
        self.socket.set(zmq.PROBE_ROUTER, 1)
        for name, value in options.items():
            self.socket.set(getattr(zmq, name), value)
        self.socket.connect(hall.router.endpoints[0])
        self.link = WorkerEnd(pool="default", token=TOKEN, instance=instance, language="test")
        self.heard: list[Any] = []

    def receive(self) -> list[Any]:
        """Read what has come, and answer `who`."""
        while self.socket.poll(0):
            self.heard += self.link.receive(self.socket.recv())
            self.flush()
        return self.heard

    def flush(self) -> None:
        data = self.link.data_to_send()
        if data is not None:
            self.socket.send(data)

    def ack(self, *events: Any) -> None:
        for event in events:
            assert self.link.done(self.link.outbox(event))
        self.flush()

    def leave(self) -> None:
        """End the process; its last batches still arrive."""
        self.socket.close()


class Hall:
    """The gateway's remote links without clients; the test controls the time."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.loop = Loop(lambda: self.time)
        self.registry = Registry(SETTINGS, 1, 1 << 30)
        self.sessions = Sessions(self.registry)
        self.sessions.tokens.add(TOKEN, 0)
        self.peers: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.links = ZmqLinks(self.loop, self.registry, self.sessions)
        self.router = self.links._router
        self.tap: Any = Tap(self.router._socket)
        self.router._socket = self.tap
        self.linked_workers: list[LinkedWorker] = []

    def close(self) -> None:
        self.peers.destroy(linger=0)
        self.links.close()
        self.loop.close()

    @property
    def now(self) -> float:
        return self.loop.now

    def pass_time(self, seconds: float) -> None:
        """Advance the time in small steps, as the loop ignores long pauses of its own."""
        until = self.time + seconds
        while self.time < until:
            self.time += 0.05
            self.loop.turn(False)

    def send(self) -> None:
        for worker, batch in self.sessions.batches(self.now):
            self.links.send(worker, batch)
        replies, self.sessions.replies = self.sessions.replies, []
        for identity, batch in replies:
            self.links.reply(identity, batch)

    def turn(self) -> None:
        self.loop.turn(False)  # hears the descriptor
        self.links.drain(DRAIN_TIME)
        self.links.end_dead(self.now)
        self.send()
        for linked in self.linked_workers:
            if not linked.socket.closed:
                linked.receive()

    def worker(self, n: int = 3, **options: int) -> tuple[LinkedWorker, Any]:
        """A worker that is ready, and the gateway's end of it."""
        linked = LinkedWorker(self, f"i{n}", **options)
        self.linked_workers.append(linked)
        eventually(lambda: self.turn() or linked.link.session)  # type: ignore[func-returns-value]
        [worker] = [
            w for w in self.sessions.workers.values() if w.session.number == linked.link.session
        ]
        return linked, worker

    def lose(self, linked: LinkedWorker, worker: Any) -> None:
        """End the process of a worker, and wait until libzmq has noticed."""
        linked.leave()
        eventually(lambda: self.router.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
        self.links.probe()

    def client(self, data: bytes = b"hello") -> Connection:
        con = accepted(self.registry.ids.new(), Listen(name="test"), SETTINGS, {}, self.now)
        self.registry.take(con, con.receive_data(data, self.now), self.now)
        return con


@pytest.fixture
def hall() -> Iterator[Hall]:
    hall = Hall()
    yield hall
    hall.close()


def gone(worker: Any) -> bool:
    return worker.session.state is LinkState.GONE


def in_hand(hall: Hall, linked: LinkedWorker, count: int = 2) -> list[Any]:
    """Events of a client, which the worker has read and not acked."""
    hall.client()
    eventually(
        lambda: hall.turn() or len([e for e in linked.heard if hasattr(e, "seq")]) >= count  # type: ignore[func-returns-value]
    )
    return [event for event in linked.heard if hasattr(event, "seq")]


# --- lost links ---


def test_a_lost_link_is_noticed_within_a_second(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    hall.links.probe()
    hall.turn()
    assert not gone(worker)
    linked.leave()

    def look() -> bool:
        hall.links.probe()
        hall.turn()
        return gone(worker)

    eventually(look)
    [con] = hall.registry.entries.values()
    assert [event.delivery for event, *_ in con.parked] == [2, 2]


def test_acks_that_are_still_unread_count_before_a_loss(hall: Hall) -> None:
    """Sending fails with EHOSTUNREACH, but the last batches of the worker are read first."""
    linked, worker = hall.worker()
    events = in_hand(hall, linked)
    linked.ack(*events)
    hall.lose(linked, worker)

    def look() -> bool:
        # Each call reads a share of the unread batches.
        hall.links.end_dead(hall.now)
        return gone(worker)

    eventually(look)
    assert worker.window.acked_events == len(events)
    [con] = hall.registry.entries.values()
    assert con.in_flight == 0
    assert not con.parked, "nothing is given out again"


def test_without_the_last_drain_acked_events_would_be_redelivered(hall: Hall) -> None:
    """The counterpart: nothing is drained, so the acked events come again."""
    linked, worker = hall.worker()
    linked.ack(*in_hand(hall, linked))
    hall.lose(linked, worker)
    hall.sessions.end(worker, hall.now, died=True)
    [con] = hall.registry.entries.values()
    assert con.parked


def test_a_drain_that_ends_with_its_budget_decides_nothing(hall: Hall) -> None:
    linked, worker = hall.worker()
    sent = UNREAD
    for _ in range(sent):
        linked.socket.send(encode([linked.link.session]))
    hall.lose(linked, worker)
    # The time of a drain is over after three batches.
    ticks = iter(range(10_000))
    hall.router._clock = lambda: next(ticks) * DRAIN_TIME / 2
    rounds = 0
    while not gone(worker):
        before = worker.session.batches
        hall.links.end_dead(hall.now)
        rounds += 1
        assert gone(worker) or worker.session.batches == before + 3
    assert rounds >= 3
    assert worker.session.batches == sent


@pytest.mark.parametrize("unread", [0, 1, UNREAD])
def test_a_flood_of_other_workers_does_not_delay_the_end_of_a_lost_one(
    hall: Hall, unread: int
) -> None:
    """No drain ever finds the ROUTER empty, but the batches of the lost worker are read before
    its end.
    """
    linked, worker = hall.worker()
    floods = [hall.worker(n)[0] for n in (4, 5)]
    for _ in range(unread):
        linked.socket.send(encode([linked.link.session]))
    hall.lose(linked, worker)
    hall.router._clock = lambda: 0.0
    before, rounds = worker.session.batches, 0
    while not gone(worker):
        for flood in floods:
            for _ in range(2 * BUDGET):
                if flood.socket.poll(0, zmq.POLLOUT):
                    flood.socket.send(encode([flood.link.session]))
        eventually(lambda: hall.links.look_again() or hall.links.pending())  # type: ignore[func-returns-value]
        hall.links.end_dead(hall.now)
        rounds += 1
        assert rounds < 100
    assert worker.session.batches == before + unread
    assert not hall.links._lost


def test_a_bye_in_the_last_drain_is_a_clean_end(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    linked.link.bye()
    linked.flush()
    hall.lose(linked, worker)
    hall.links.end_dead(hall.now)
    assert gone(worker)
    [con] = hall.registry.entries.values()
    assert [event.delivery for event, *_ in con.parked] == [1, 1], "not handled in part"


# --- a full queue ---


def test_a_full_link_says_nothing_about_its_worker(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    hall.tap.is_full = True
    hall.links.probe()
    assert not hall.links._lost
    assert not gone(worker)


def test_a_batch_that_finds_no_room_is_sent_in_order_later(hall: Hall) -> None:
    linked, worker = hall.worker()
    hall.tap.is_full = True
    for n in range(1, 6):
        worker.session.notice(Answer(n, n))
        hall.registry.dispatcher.with_output.add(worker)
        hall.send()
    assert hall.tap.refused == 1, "those behind it are not even tried"
    assert worker.window.choked
    hall.tap.is_full = False
    hall.pass_time(0.1)
    eventually(lambda: hall.turn() or len(linked.heard) >= 6)  # type: ignore[func-returns-value]
    assert [r.ref for r in linked.heard if type(r) is Answer] == [1, 2, 3, 4, 5]
    assert not worker.window.choked


def test_too_much_unsent_output_ends_the_session(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    hall.tap.is_full = True
    for _ in range(3):
        assert not gone(worker)
        worker.session.notice(Answer(1, "x" * (UNSENT_LIMIT * 6 // 10)))
        hall.registry.dispatcher.with_output.add(worker)
        hall.send()
    assert gone(worker)
    assert hall.links._unsent == {}
    [con] = hall.registry.entries.values()
    assert len(con.parked) == 2, "what it held is for others"
