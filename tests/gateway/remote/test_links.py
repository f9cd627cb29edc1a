"""When a worker is dead, and what becomes of batches that find no room. Over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
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
from wsraw.gateway.remote.links import DEATH_CERTAIN_AFTER, DRAIN_BUDGET, UNSENT_LIMIT, Links
from wsraw.gateway.remote.transport import Sent, WorkerSocket, new_context
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import Answer, Kill, encode
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.loop import Loop


class Tap:
    """A ROUTER whose queues can be made to be full."""

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

    def __init__(self, hall: Hall, token: str, **options: int) -> None:
        self.hall = hall
        self.socket = hall.peers.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 5000)
        self.socket.set(zmq.PROBE_ROUTER, 1)
        for name, value in options.items():
            self.socket.set(getattr(zmq, name), value)
        self.socket.connect(hall.wire.endpoint)
        self.link = WorkerEnd(pool="default", token=token, instance=token, language="test")
        self.heard: list[Any] = []

    def receive(self) -> list[Any]:
        """Read what waits, answer `who`."""
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
        """The process ends; what it has said arrives."""
        self.socket.close()


class Hall:
    """A gateway's links without its clients; time passes as a test says."""

    def __init__(self, folder: Path) -> None:
        self.time = 1000.0
        self.loop = Loop(lambda: self.time)
        self.registry = Registry(Settings(), 1, 1 << 30)
        self.sessions = Sessions(self.registry)
        self.context = new_context()
        self.peers: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.wire = WorkerSocket(self.context, str(folder))
        self.tap: Any = Tap(self.wire._socket)
        self.wire._socket = self.tap
        self.links = Links(self.loop, self.registry, self.sessions, self.wire)
        self.linked_workers: list[LinkedWorker] = []

    def close(self) -> None:
        self.peers.destroy(linger=0)
        self.wire.close()
        self.context.term()
        self.loop.close()

    @property
    def now(self) -> float:
        return self.loop.now

    def pass_time(self, seconds: float) -> None:
        """In steps that the loop does not take for its own absence."""
        until = self.time + seconds
        while self.time < until:
            self.time += 0.05
            self.loop.turn(False)

    def turn(self) -> None:
        self.loop.turn(False)  # hears the descriptor
        self.links.drain()
        self.links.end_dead(self.now)
        self.links.send(self.now)
        for linked in self.linked_workers:
            if not linked.socket.closed:
                linked.receive()

    def worker(self, n: int, **options: int) -> tuple[LinkedWorker, Any]:
        """A worker that is ready, and the gateway's end of it. 0: nobody watches its process."""
        token = f"token-{n}" if n else TOKEN
        self.sessions.tokens.add(token, n)
        linked = LinkedWorker(self, token, **options)
        self.linked_workers.append(linked)
        eventually(lambda: self.turn() or linked.link.session)  # type: ignore[func-returns-value]
        [worker] = [
            w for w in self.sessions.workers.values() if w.session.number == linked.link.session
        ]
        return linked, worker

    def client(self, data: bytes = b"hello") -> Connection:
        con = accepted(self.registry.ids.new(), Listen(name="test"), Settings(), {}, self.now)
        self.registry.take(con, con.receive_data(data, self.now), self.now)
        return con


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    hall = Hall(tmp_path)
    yield hall
    hall.close()


def gone(worker: Any) -> bool:
    return worker.session.state is LinkState.GONE


def in_hand(hall: Hall, linked: LinkedWorker, count: int = 2) -> list[Any]:
    """Events of clients, read by the worker and not acked."""
    hall.client()
    eventually(
        lambda: hall.turn() or len([e for e in linked.heard if hasattr(e, "seq")]) >= count  # type: ignore[func-returns-value]
    )
    return [event for event in linked.heard if hasattr(event, "seq")]


# --- death ---


def test_an_exit_alone_is_not_a_certain_death(hall: Hall) -> None:
    """The report comes over another socket: the last acks may still be on their way."""
    linked, worker = hall.worker(3)
    in_hand(hall, linked)
    hall.links.exited(3, hall.now)
    hall.links.end_dead(hall.now)
    assert not gone(worker), "its link still stands"
    hall.pass_time(DEATH_CERTAIN_AFTER + 0.1)
    hall.links.end_dead(hall.now)
    assert gone(worker), "for ever it is not waited"


def test_a_lost_link_alone_is_not_the_death_of_a_watched_process(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    in_hand(hall, linked)
    linked.leave()
    hall.pass_time(5.0)
    for _ in range(20):
        hall.client()
        hall.turn()
        hall.links.probe_unwatched()
    assert not gone(worker)
    hall.links.exited(3, hall.now)
    eventually(lambda: hall.turn() or gone(worker))  # type: ignore[func-returns-value]


def test_acks_that_are_still_unread_count_before_a_death(hall: Hall) -> None:
    """Exit reported, EHOSTUNREACH, and yet: its last batches come first."""
    linked, worker = hall.worker(3)
    con = hall.client()
    events: list[Any] = []

    def hear() -> bool:
        hall.turn()
        events[:] = [event for event in linked.heard if hasattr(event, "seq")]
        return bool(events)

    eventually(hear)
    linked.ack(*events)
    linked.leave()
    eventually(lambda: hall.wire.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
    hall.links.exited(3, hall.now)
    hall.links.end_dead(hall.now)
    assert gone(worker)
    assert events
    assert worker.window.acked_events == len(events)
    assert con.entry is not None
    assert con.entry.in_flight == 0
    assert not con.entry.parked, "nothing is given out again"


def test_without_the_last_drain_acked_events_would_be_redelivered(hall: Hall) -> None:
    """The failing twin: the same, and nothing is drained."""
    linked, worker = hall.worker(3)
    con = hall.client()
    eventually(lambda: hall.turn() or any(hasattr(e, "seq") for e in linked.heard))  # type: ignore[func-returns-value]
    linked.ack(*[event for event in linked.heard if hasattr(event, "seq")])
    linked.leave()
    eventually(lambda: hall.wire.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
    hall.sessions.end(worker, hall.now, died=True)
    assert con.entry is not None
    assert con.entry.parked


def test_a_drain_that_ends_with_its_budget_decides_nothing(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    sent = 3 * DRAIN_BUDGET + 1
    for _ in range(sent):
        linked.socket.send(encode([linked.link.session]))
    linked.leave()
    eventually(lambda: hall.wire.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
    hall.links.exited(3, hall.now)
    # As fast as may be: the budget of time is none.
    hall.wire._clock = lambda: 0.0
    rounds = 0
    while not gone(worker):
        before = worker.session.batches
        hall.links.end_dead(hall.now)
        rounds += 1
        assert gone(worker) or worker.session.batches == before + DRAIN_BUDGET
    assert rounds >= 3
    assert worker.session.batches == sent


@pytest.mark.parametrize("unread", [0, 1, 600])
def test_a_flood_of_other_workers_does_not_delay_the_end_of_a_dead_one(
    hall: Hall, unread: int
) -> None:
    """No drain ever finds the ROUTER empty. But what the dead one has sent is read before."""
    linked, worker = hall.worker(3)
    floods = [hall.worker(n)[0] for n in (4, 5)]
    for _ in range(unread):
        linked.socket.send(encode([linked.link.session]))
    linked.leave()
    eventually(lambda: hall.wire.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
    hall.links.exited(3, hall.now)
    hall.wire._clock = lambda: 0.0
    before, rounds = worker.session.batches, 0
    while not gone(worker):
        for flood in floods:
            for _ in range(DRAIN_BUDGET):
                if flood.socket.poll(0, zmq.POLLOUT):
                    flood.socket.send(encode([flood.link.session]))
        eventually(lambda: hall.wire.look_again() or hall.wire.pending())  # type: ignore[func-returns-value]
        hall.links.end_dead(hall.now)
        rounds += 1
        assert rounds < 100
    assert worker.session.batches == before + unread
    assert not hall.links._final_reads


def test_a_bye_in_the_last_drain_is_a_clean_end(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    in_hand(hall, linked)
    linked.link.bye()
    linked.flush()
    linked.leave()
    eventually(lambda: hall.wire.send(worker.session.identity, b"\x91\x00") is Sent.GONE)
    hall.links.exited(3, hall.now)
    hall.links.end_dead(hall.now)
    assert gone(worker)
    [con] = hall.registry.entries.values()
    assert [event.delivery for event, _ in con.parked] == [1, 1], "not handled in part"


def test_an_unwatched_worker_is_probed_once_a_second(hall: Hall) -> None:
    linked, worker = hall.worker(0)
    in_hand(hall, linked)
    hall.links.probe_unwatched()
    hall.turn()
    assert not gone(worker)
    linked.leave()

    def look() -> bool:
        hall.links.probe_unwatched()
        hall.turn()
        return gone(worker)

    eventually(look)
    [con] = hall.registry.entries.values()
    assert [event.delivery for event, _ in con.parked] == [2, 2]


def test_a_full_link_says_nothing_about_its_worker(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    in_hand(hall, linked)
    hall.tap.is_full = True
    hall.links.exited(3, hall.now)
    hall.links.end_dead(hall.now)
    assert not gone(worker)
    hall.pass_time(DEATH_CERTAIN_AFTER + 0.1)
    hall.links.end_dead(hall.now)
    assert gone(worker)


# --- a full queue ---


def test_a_batch_that_finds_no_room_is_sent_in_order_later(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    hall.tap.is_full = True
    for n in range(1, 6):
        worker.session.notice(Answer(n, n))
        hall.registry.dispatcher.with_output.add(worker)
        hall.links.send(hall.now)
    assert hall.tap.refused == 1, "those behind it are not even tried"
    assert worker.window.choked
    hall.tap.is_full = False
    hall.pass_time(0.1)
    eventually(lambda: hall.turn() or len(linked.heard) >= 6)  # type: ignore[func-returns-value]
    assert [r.ref for r in linked.heard if type(r) is Answer] == [1, 2, 3, 4, 5]
    assert not worker.window.choked


def test_a_worker_that_does_not_read_is_given_no_more_events(hall: Hall) -> None:
    _, full = hall.worker(3)
    _, free = hall.worker(4)
    full.window.choked = True
    for _ in range(3):
        hall.client()
    assert not full.window.in_flight
    assert free.window.in_flight


def test_too_much_unsent_output_ends_the_session(
    hall: Hall,
) -> None:
    linked, worker = hall.worker(3)
    in_hand(hall, linked)
    hall.tap.is_full = True
    for _ in range(2):
        assert not gone(worker)
        worker.session.notice(Answer(1, "x" * (UNSENT_LIMIT * 6 // 10)))
        hall.registry.dispatcher.with_output.add(worker)
        hall.links.send(hall.now)
    assert gone(worker)
    assert hall.links._unsent == {}
    assert Kill(3, "it does not read what is sent to it") in hall.sessions.to_supervisor
    [con] = hall.registry.entries.values()
    assert len(con.parked) == 2, "what it held is for others"


def test_connections_of_workers_that_left_do_not_go_to_stuck_ones(hall: Hall) -> None:
    linked, worker = hall.worker(3)
    events = in_hand(hall, linked)
    linked.ack(*events)
    eventually(lambda: hall.turn() or not worker.window.in_flight)  # type: ignore[func-returns-value]
    _, stuck = hall.worker(4)
    stuck.window.choked = True
    hall.sessions.end(worker, hall.now, died=True)
    [con] = hall.registry.entries.values()
    hall.turn()
    assert con.holder is None
    assert not hall.sessions.is_busy, "it waits, it does not spin"
    stuck.window.choked = False
    hall.turn()
    assert con.holder is stuck
