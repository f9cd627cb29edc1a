"""Local links to workers over real sockets: budgets, full sockets, and the end of a worker in
every order of its steps.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.deadline import eventually
from tests.gateway.harness import TOKEN, entry_of
from tests.needs import ON_ITS_WAY, unix_sockets
from tests.runtime.link.ends import take, work
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.links import (
    CHOKED_ABOVE,
    HELD_OPEN_FOR,
    READ_TIME,
    Links,
)
from wsraw.gateway.sessions.sessions import UNSENT_LIMIT, Sessions
from wsraw.link.batches import LARGEST_BATCH, Batch
from wsraw.link.records import Answer, Kill, Left, OnClose, Query, Refused, encode
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.link.server import HELLO_TIMEOUT, Link
from wsraw.runtime.loop import Loop


class LinkedWorker:
    """A worker at the other end of a real socket, which the test controls."""

    def __init__(self, hall: Hall, token: str, instance: str) -> None:
        self.hall = hall
        self.client = LinkClient(hall.links.endpoint, probe=True)
        self.link = WorkerEnd(pool="default", token=token, instance=instance, language="test")
        self.heard: list[Any] = []
        self.reads = True
        self.closed = False
        self.handled: dict[int, list[tuple[str, int]]] | None = None
        """Set if it acks whatever comes: the types and `delivery` of events by connection."""

    def work(self) -> None:
        """Read what has come, and answer `who`."""
        if self.closed or not self.reads:
            return
        for batch in take(self.client):
            self.heard += self.link.receive(batch)
        self.flush()
        if self.handled is not None and self.events:
            for event in self.events:
                tag = str(type(event).__struct_config__.tag)
                self.handled.setdefault(event.con, []).append((tag, event.delivery))
            self.ack(*self.events)

    def flush(self) -> None:
        while (data := self.link.data_to_send()) is not None:
            assert self.client.send(data)

    @property
    def events(self) -> list[Any]:
        return [record for record in self.heard if hasattr(record, "seq")]

    def ack(self, *events: Any) -> None:
        for event in events:
            self.heard.remove(event)
            assert self.link.done(self.link.outbox(event))
        self.flush()

    def inherited(self) -> socket.socket:
        """A duplicate of the worker's socket, as a child process has it."""
        assert self.client._socket is not None
        return self.client._socket._sock.dup()

    def exit(self) -> None:
        """End the process: the system closes its socket."""
        self.closed = True
        self.client.forked()


class Hall:
    """The gateway's links without clients; the test controls the time."""

    def __init__(self, folder: Path, opened: bool = True) -> None:
        self.time = 1000.0
        self.loop = Loop(lambda: self.time)
        self.registry = Registry(Settings(), 1, 1 << 30)
        self.sessions = Sessions(self.registry)
        self.sessions.tokens.add(TOKEN, 0)
        self.links = Links(self.loop, self.registry, self.sessions, str(folder))
        # Turns have time for everything, however busy the machine is.
        self.links._clock = lambda: 0.0
        if opened:
            self.links.open()
        self.loop.before_sleep = self.end_turn
        self.linked_workers: list[LinkedWorker] = []

    def close(self) -> None:
        for linked in self.linked_workers:
            if not linked.closed:
                linked.exit()
        self.links.close()
        self.loop.close()

    @property
    def now(self) -> float:
        return self.loop.now

    def end_turn(self, now: float) -> bool:
        """End a turn like Gateway._before_sleep."""
        self.registry.flow.now = now
        self.links.drain()
        self.links.meet()
        self.sessions.backlog.go_on(now)
        self.links.end_dead(now)
        self.links.send(now)
        return self.sessions.is_busy or self.links.pending()

    def turn(self) -> None:
        self.loop.turn(False)
        for linked in self.linked_workers:
            linked.work()

    def settle(self) -> None:
        """Take turns until nothing happens any more."""
        for _ in range(20):
            time.sleep(ON_ITS_WAY / 20)
            self.turn()

    def pass_time(self, seconds: float) -> None:
        """Advance the time in small steps, as the loop ignores long pauses of its own."""
        until = self.time + seconds
        while self.time < until:
            self.time += 0.05
            self.turn()

    def connect(self, n: int, instance: str = "") -> LinkedWorker:
        """A worker that is about to send its hello. With 0, no supervisor watches its process."""
        token = f"token-{n}" if n else TOKEN
        if n not in self.sessions.tokens._numbers.values():
            self.sessions.tokens.add(token, n)
        linked = LinkedWorker(self, token, instance or f"i{len(self.linked_workers)}")
        self.linked_workers.append(linked)
        return linked

    def worker(self, n: int = 3) -> tuple[LinkedWorker, Any]:
        """A worker that is ready, and the gateway's end of it."""
        linked = self.connect(n)
        eventually(lambda: self.turn() or linked.link.session)  # type: ignore[func-returns-value]
        return linked, self.of(linked)

    def of(self, linked: LinkedWorker) -> Any:
        """The gateway's end of a worker."""
        numbers = {w.session.number: w for w in self.sessions.workers.values()}
        return numbers[linked.link.session]

    def client(self, data: bytes = b"hello") -> Connection:
        """A client that connects and sends a message, which makes two events."""
        con = accepted(self.registry.ids.new(), Listen(name="test"), Settings(), {}, self.now)
        self.registry.take(con, con.receive_data(data, self.now), self.now)
        return con

    def hang_up(self, con: Connection) -> None:
        self.registry.take(con, con.lost("connection reset by peer", self.now), self.now)

    def tell(self, worker: Any, size: int) -> None:
        """Queue something long for the worker."""
        worker.session.notice(Answer(1, "x" * size))
        self.registry.dispatcher.with_output.add(worker)

    def choke(self, worker: Any) -> None:
        """Send more than the system keeps to a worker that does not read."""
        while not worker.window.choked:
            self.tell(worker, 4 * CHOKED_ABOVE)
            self.links.send(self.now)

    @property
    def left(self) -> list[int]:
        """The numbers of workers whose sessions have ended."""
        return [r.n for r in self.sessions.to_supervisor if type(r) is Left]


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    hall = Hall(tmp_path)
    yield hall
    hall.close()


def gone(worker: Any) -> bool:
    return worker.session.state is LinkState.GONE


def in_hand(hall: Hall, linked: LinkedWorker) -> Connection:
    """Two events of a client, which the worker has read and not acked."""
    before = len(linked.events)
    con = hall.client()
    hall.settle()
    assert len(linked.events) == before + 2
    return con


def parked(con: Connection) -> list[int]:
    """How often each waiting event of the connection was handed out."""
    return [event.delivery for event, *_ in entry_of(con).parked]


# --- death ---


@pytest.mark.parametrize("n", [0, 3], ids=["by hand", "spawned"])
def test_the_end_of_its_link_ends_a_session_at_once(hall: Hall, n: int) -> None:
    linked, worker = hall.worker(n)
    con = in_hand(hall, linked)
    linked.exit()
    time.sleep(ON_ITS_WAY)
    hall.turn()
    assert gone(worker)
    assert parked(con) == [2, 2]


def test_acks_that_are_still_unread_count_before_a_death(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    linked.ack(*linked.events)
    linked.exit()
    hall.settle()
    assert gone(worker)
    assert worker.window.acked_events == 2
    assert not entry_of(con).in_flight
    assert not parked(con), "nothing is given out again"


def test_a_reported_exit_ends_nothing_while_its_last_words_are_unread(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    linked.ack(*linked.events)
    linked.exit()
    hall.links.exited(3)
    assert not gone(worker)
    hall.settle()
    assert gone(worker)
    assert not parked(con)
    hall.pass_time(2 * HELD_OPEN_FOR)
    assert hall.left == [3], "once"


def test_a_link_that_a_child_of_the_worker_holds_open_ends_a_little_later(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    child = linked.inherited()
    first, second = linked.events
    linked.ack(first)
    linked.exit()
    hall.links.exited(3)
    hall.settle()
    assert not gone(worker)
    child.send(b"\0\x01\xc1")  # what is no batch, and would end it at once if it were read
    hall.links.is_open = False  # the loop is too busy to look
    hall.pass_time(HELD_OPEN_FOR + 0.1)
    child.close()
    assert gone(worker)
    assert worker.window.acked_events == 1
    assert parked(con) == [2], second
    assert hall.left == [3]


def test_the_last_words_of_a_dead_worker_are_read_however_many_they_are(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    child = linked.inherited()
    child.send(40_000 * b"\0\0")  # empty batches
    linked.ack(*linked.events)
    linked.exit()
    hall.links.exited(3)
    hall.loop.before_sleep = None  # the gateway is too busy to read it in time
    hall.pass_time(HELD_OPEN_FOR + 0.1)
    child.close()
    assert gone(worker)
    assert worker.window.acked_events == 2
    assert not parked(con)


def test_a_bye_before_the_end_is_a_clean_end(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    linked.link.bye()
    linked.flush()
    linked.exit()
    time.sleep(ON_ITS_WAY)
    hall.turn()
    assert gone(worker)
    assert parked(con) == [1, 1], "not handled in part"


def test_a_link_is_not_kept_open_for_ever_after_a_bye(hall: Hall) -> None:
    linked, _ = hall.worker()
    other, _ = hall.worker(4)
    linked.link.bye()
    linked.flush()
    hall.pass_time(HELLO_TIMEOUT - 1)
    assert not linked.client.is_lost
    hall.pass_time(2)
    assert linked.client.is_lost
    assert not other.client.is_lost


def test_a_worker_may_say_hello_again_after_a_bye(hall: Hall) -> None:
    linked, worker = hall.worker()
    for _ in range(2):
        linked.link.bye()
        linked.flush()
        hall.settle()
        assert gone(worker)
        linked.link = WorkerEnd(pool="default", token="token-3", instance="i", language="test")
        assert linked.client.send(b"")
        hall.settle()
        worker = hall.of(linked)
    hall.pass_time(HELLO_TIMEOUT + 1)
    assert not gone(worker)
    assert not linked.client.is_lost
    in_hand(hall, linked)


def test_links_that_have_said_bye_are_bounded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process could begin session after session, each on a link of its own."""
    monkeypatch.setattr(hall.links._server._silent, "_most", 2)
    for _ in range(4):
        linked, _ = hall.worker(0)
        linked.link.bye()
        linked.flush()
        hall.settle()
    assert [each.client.is_lost for each in hall.linked_workers] == [True, True, False, False]


@unix_sockets
def test_all_that_was_sent_is_applied_before_the_end_however_many_turns_that_takes(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    linked, worker = hall.worker()
    other, _ = hall.worker(4)
    con = in_hand(hall, linked)
    batch = [Query(n, "members", "g") for n in range(1, 1000)]
    acks = [["ack", linked.events[0].seq, linked.events[1].seq]]
    assert linked.client.send(encode([linked.link.session, *batch]))
    assert linked.client.send(encode([linked.link.session, *acks, ["bye"]]))
    linked.exit()
    # A failed write shows at once that the worker is gone; its last batches and the end of its link
    # are read together.
    hall.tell(worker, 10)
    hall.links.send(hall.now)
    hall.turn()
    assert worker in hall.links.dying
    assert not gone(worker)
    # New events go to other workers meanwhile.
    late = hall.client()
    hall.settle()
    assert gone(worker)
    assert not hall.links.dying
    assert worker.window.acked_events == 2
    assert not parked(con)
    assert [event.con for event in other.events] == [late.id, late.id]
    assert "is gone" not in caplog.text, "it has said bye"


@pytest.mark.parametrize("repeats", [True, False], ids=["at least once", "at most once"])
def test_a_worker_whose_link_has_ended_is_given_nothing_new(hall: Hall, repeats: bool) -> None:
    """Events that come while its last batches are being applied go to other workers, as if never
    sent.
    """
    hall.registry.pool().repeats = repeats
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    acks = [["ack", linked.events[0].seq, linked.events[1].seq]]
    batch = [Query(n, "members", "g") for n in range(1, 1000)]
    assert linked.client.send(encode([linked.link.session, *acks, *batch]))
    linked.exit()
    hall.tell(worker, 10)
    hall.links.send(hall.now)
    early = hall.client()
    assert entry_of(early).in_flight == 2
    hall.turn()
    assert worker in hall.links.dying
    hall.registry.take(con, con.receive_data(b"late", hall.now), hall.now)
    hall.turn()
    assert worker in hall.links.dying
    hall.settle()
    assert gone(worker)
    assert parked(early) == [1, 1], "it was given to the worker, and never sent"
    assert parked(con) == [1]


STEPS = ("exit report", "end", "again")
"""The exit is reported; its socket is closed; the same instance comes on a new one."""


@pytest.mark.parametrize("turns", [True, False], ids=["in turns", "in one turn"])
@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids=", ".join)
def test_nothing_is_lost_in_whatever_order_a_worker_ends(
    hall: Hall, order: tuple[str, ...], turns: bool
) -> None:
    """The worker has one handled event whose ack is unread, one event in hand, and one that was
    never sent.
    """
    linked, worker = hall.worker()
    acked, in_work = in_hand(hall, linked), in_hand(hall, linked)
    linked.ack(*linked.events[:2])
    for con in (acked, in_work):
        hall.hang_up(con)
    linked.reads = False
    unsent = hall.client()
    hall.choke(worker)
    heard: dict[int, list[tuple[str, int]]] = {}
    for step in order:
        if step == "exit report":
            hall.links.exited(3)
        elif step == "end":
            linked.exit()
        else:
            again = hall.connect(3, linked.link._hello.instance)
            again.handled = heard
            work(again.client)
        if turns:
            hall.settle()
    hall.pass_time(2 * HELD_OPEN_FOR)
    assert gone(worker)
    assert worker.window.acked_events == 2
    heir, _ = hall.worker(4)
    heir.handled = heard
    hall.pass_time(1.0)
    end = [("on_error", 1), ("on_close", 1)]
    assert heard[acked.id] == end
    assert heard[in_work.id] == [("on_connect", 2), ("on_message", 2), *end]
    assert heard[unsent.id] == [("on_connect", 1), ("on_message", 1)], "as if never given"
    assert [*hall.registry.entries] == [unsent.id]


def test_at_most_once_repeats_what_was_never_sent(tmp_path: Path) -> None:
    """Only events that may have been handled must not come again."""
    hall = Hall(tmp_path)
    pool = hall.registry.pool()
    pool.repeats = False
    linked, worker = hall.worker()
    seen = in_hand(hall, linked)
    linked.reads = False
    unsent = hall.client()
    hall.tell(worker, 4 * CHOKED_ABOVE)
    hall.links.send(hall.now)
    linked.exit()
    hall.settle()
    assert gone(worker)
    assert [type(event) for event, *_ in entry_of(seen).parked] == [OnClose]
    assert seen.ending.cause == "worker-died"
    assert parked(unsent) == [1, 1]
    hall.close()


def test_an_old_link_is_read_before_a_new_one_of_the_same_worker(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    linked.ack(*linked.events)
    again = hall.connect(3, linked.link._hello.instance)
    for _ in range(10):
        # The hello waits before the loop has looked at the old link.
        work(again.client)
        hall.loop._selector.select(0)
        if again.client.is_connected:
            break
        hall.loop.turn(False)
    eventually(lambda: hall.turn() or again.link.session)  # type: ignore[func-returns-value]
    assert gone(worker)
    assert worker.window.acked_events == 2


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("why", ["no time", "backlog"])
def test_an_old_link_that_had_to_wait_is_read_out_for_a_new_one(
    hall: Hall, why: str, closes: bool
) -> None:
    """This turn had no time for the old link, or an earlier batch of it is still being applied."""
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    if why == "backlog":
        queries = [Query(n, "members", "g") for n in range(1, 1000)]
        assert linked.client.send(encode([linked.link.session, *queries]))
        hall.loop.turn(False)
        assert worker in hall.sessions.backlog.workers
    linked.ack(*linked.events)
    if closes:
        linked.exit()
    again = hall.connect(3, linked.link._hello.instance)
    hall.loop.before_sleep = lambda now: bool(hall.links.meet())  # type: ignore[func-returns-value]
    eventually(lambda: hall.loop.turn(False) and work(again.client) and again.client.is_connected)
    again.link.receive(encode([0, ["who"]]))
    again.flush()
    hall.loop.turn(False)
    assert gone(worker)
    assert worker.window.acked_events == 2
    assert not parked(con)
    assert len([w for w in hall.sessions.workers.values() if w.session.number]) == 1
    assert not hall.sessions._lost, "it has come back"


# --- faults of workers ---


@pytest.mark.parametrize("batch", [b"\xc1", b"\x93\x01"])
def test_a_worker_that_sends_no_batch_is_told_why_and_later_cut_off(
    hall: Hall, batch: bytes
) -> None:
    linked, worker = hall.worker()
    other, _ = hall.worker(4)
    con = in_hand(hall, linked)
    assert linked.client.send(batch)
    hall.settle()
    assert gone(worker)
    assert [kill.n for kill in hall.sessions.to_supervisor if type(kill) is Kill] == [3]
    assert [type(record) for record in linked.heard if type(record) is Refused] == [Refused]
    assert not linked.client.why, "libzmq would drop what is not read by then"
    assert [event.con for event in other.events] == [con.id], "a suspect, alone"
    assert linked.client.send(encode([worker.session.number, ["nope"]]))
    hall.pass_time(HELLO_TIMEOUT + 0.1)
    hall.settle()
    assert "not a batch" in linked.client.why
    assert not hall.links._links.keys() & {worker.session.identity}


def test_a_worker_that_does_not_read_gets_the_reason_in_place_of_what_waits(hall: Hall) -> None:
    linked, worker = hall.worker(0)
    linked.reads = False
    hall.choke(worker)
    hall.tell(worker, 10)
    hall.links.send(hall.now)
    (link,) = hall.links._server._links
    assert link.unsent_batches(begun=False)
    assert linked.client.send(b"\xc1")
    hall.turn()
    assert gone(worker)
    [said] = link.unsent_batches(begun=False)
    assert b"not a batch" in said
    assert not hall.links._behind
    linked.reads = True
    eventually(lambda: hall.turn() or Refused in map(type, linked.heard))  # type: ignore[func-returns-value]


def test_a_batch_above_the_limit_is_reported_with_its_size_and_its_worker(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    linked, worker = hall.worker()
    other, _ = hall.worker(4)
    eventually(lambda: linked.client.send(bytes(LARGEST_BATCH + 1)) is not None)
    with caplog.at_level(logging.ERROR, "wsraw"):
        eventually(lambda: hall.turn() or gone(worker))  # type: ignore[func-returns-value]
    [line] = [r.getMessage() for r in caplog.records if "worker 3" in r.getMessage()]
    assert f"{LARGEST_BATCH + 1:,}" in line
    eventually(lambda: hall.turn() or linked.client.why)  # type: ignore[func-returns-value]
    assert f"{LARGEST_BATCH + 1:,}" in linked.client.why
    assert not gone(hall.of(other))


def test_an_event_whose_answer_is_always_too_long_becomes_a_dead_letter(hall: Hall) -> None:
    """The worker is cut off for the answer and comes back each time, which must not reset the
    count.
    """
    con = hall.client()
    for _ in range(2 * Settings().max_deliveries):
        linked = hall.connect(0, "the same")
        eventually(lambda: hall.turn() or linked.events or hall.sessions.dead_letters)  # type: ignore[func-returns-value]  # noqa: B023
        if hall.sessions.dead_letters:
            break
        with linked.inherited() as sock:
            sock.send(b"\2" + (LARGEST_BATCH + 1).to_bytes(8, "big"))
        eventually(lambda: hall.turn() or linked.client.why)  # type: ignore[func-returns-value]  # noqa: B023
        assert f"{LARGEST_BATCH + 1:,}" in linked.client.why
        linked.exit()
    [letter] = hall.sessions.dead_letters
    assert (letter["con"], letter["deaths"]) == (con.id, Settings().max_deliveries)


def test_an_error_of_our_own_ends_that_link_alone(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked, worker = hall.worker()
    other, _ = hall.worker(4)

    def fail(link: Link, batch: Batch) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(hall.links._server, "receive", fail)
    linked.client.send(encode([linked.link.session]))
    hall.settle()
    assert gone(worker)
    assert not gone(hall.of(other))


# --- strangers ---


def test_nothing_is_read_before_tokens_are_known(tmp_path: Path) -> None:
    hall = Hall(tmp_path, opened=False)
    linked = hall.connect(3)
    hall.pass_time(1.0)
    assert not hall.sessions.workers
    assert not hall.links.pending(), "the loop may sleep meanwhile"
    hall.links.open()
    eventually(lambda: hall.turn() or linked.link.session)  # type: ignore[func-returns-value]
    assert hall.links._server._accepted == 1, "it is the first connection that is read then"
    hall.close()


def test_a_hello_is_not_judged_in_the_middle_of_a_turn(hall: Hall) -> None:
    """The gateway may not have read what the supervisor has said about the worker."""
    hall.worker()
    newcomer = hall.connect(4)
    for _ in range(20):
        work(newcomer.client)
        hall.loop.turn(False)
        if newcomer.client.is_connected:
            break
    newcomer.link.receive(encode([0, ["who"]]))
    newcomer.flush()
    hall.loop.before_sleep = lambda now: False
    hall.loop.turn(False)
    hall.links.drain()
    numbers = [worker.session.number for worker in hall.sessions.workers.values()]
    assert sum(number > 0 for number in numbers) == 1
    hall.links.meet()
    numbers = [worker.session.number for worker in hall.sessions.workers.values()]
    assert sum(number > 0 for number in numbers) == 2


def test_a_dealer_of_libzmq_is_a_worker_like_others(hall: Hall) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.set(zmq.LINGER, 5000)
    dealer.set(zmq.PROBE_ROUTER, 1)
    dealer.set(zmq.IMMEDIATE, 1)
    dealer.connect(hall.links.endpoint)
    link = WorkerEnd(pool="default", token=TOKEN, instance="z", language="test")
    heard: list[Any] = []

    def listen() -> int:
        hall.turn()
        while dealer.poll(0):
            heard.extend(link.receive(dealer.recv()))
            if (data := link.data_to_send()) is not None:
                dealer.send(data)
        return link.session

    eventually(listen)
    con = hall.client()
    eventually(lambda: listen() and sum(hasattr(r, "seq") for r in heard) == 2)
    first = next(record for record in heard if hasattr(record, "seq"))
    assert link.done(link.outbox(first))
    data = link.data_to_send()
    assert data is not None
    dealer.send(data)
    dealer.close()
    context.term()
    eventually(lambda: hall.turn() or not hall.sessions.workers)  # type: ignore[func-returns-value]
    assert parked(con) == [2]


# --- budgets ---


def test_what_does_not_fit_into_a_turn_is_read_in_the_next_ones(hall: Hall) -> None:
    """Each link gets its turn, and no new data is needed for that."""
    flood, worker = hall.worker()
    quiet, other = hall.worker(4)
    ticks = itertools.count()
    # The time of a turn is over after three batches.
    hall.links._clock = lambda: next(ticks) * READ_TIME / 3
    before = worker.session.batches
    for _ in range(100):
        assert flood.client.send(encode([flood.link.session]))
    assert quiet.client.send(encode([quiet.link.session]))
    time.sleep(ON_ITS_WAY)
    at = other.session.batches
    seen = []
    while worker.session.batches < before + 100:
        was = worker.session.batches
        assert hall.loop._timeout(hall.now) == 0.0 or not seen, "it does not sleep"
        hall.loop.turn(False)
        assert worker.session.batches - was <= 4
        seen.append((worker.session.batches, other.session.batches))
        assert len(seen) < 1000
    assert next(n for n, (_, theirs) in enumerate(seen) if theirs > at) < 4
    hall.settle()
    assert worker.session.batches == before + 100


def test_the_buffer_of_a_large_batch_is_given_back(hall: Hall) -> None:
    """The buffer does not count towards `memory_limit`, and there may be many links."""
    linked, worker = hall.worker()
    before = worker.session.batches
    data = encode([linked.link.session, ["later", "x" * 3_000_000]])
    tracemalloc.start()
    try:
        assert linked.client.send(data)
        eventually(lambda: hall.turn() or worker.session.batches > before)  # type: ignore[func-returns-value]
        hall.settle()
        held = tracemalloc.get_traced_memory()[0]
        hall.links.tick()
        assert tracemalloc.get_traced_memory()[0] < held - 2_900_000
    finally:
        tracemalloc.stop()


def test_a_worker_whose_batch_is_being_applied_is_not_read_meanwhile(hall: Hall) -> None:
    """So a worker cannot make the gateway hold more than one share; other workers are read."""
    busy, worker = hall.worker()
    other, its = hall.worker(4)
    assert busy.client.send(
        encode([busy.link.session, *[Query(n, "members", "g") for n in range(1, 1000)]])
    )
    hall.turn()
    assert worker in hall.sessions.backlog.workers
    for linked in (busy, other):
        assert linked.client.send(encode([linked.link.session]))
    mine, theirs = worker.session.batches, its.session.batches
    hall.turn()
    assert worker.session.batches == mine
    assert its.session.batches == theirs + 1
    assert hall.links.pending()
    hall.settle()
    assert worker.session.batches == mine + 1
    assert not hall.links.pending()


def test_a_loop_that_is_behind_finds_acks_that_it_was_not_told_of(hall: Hall) -> None:
    linked, worker = hall.worker()
    in_hand(hall, linked)
    linked.ack(*linked.events)
    hall.links.look_again()
    hall.links.drain()
    assert worker.window.acked_events == 2


# --- a worker that does not read ---


def test_a_worker_that_does_not_read_is_given_nothing_new_until_it_does(hall: Hall) -> None:
    linked, worker = hall.worker()
    total = hall.registry.flow.accounted
    linked.reads = False
    hall.choke(worker)
    assert hall.registry.flow.accounted > total + CHOKED_ABOVE, "it counts as memory"
    con = hall.client()
    hall.turn()
    assert not worker.window.in_flight
    linked.reads = True
    eventually(lambda: hall.turn() or not worker.window.choked)  # type: ignore[func-returns-value]
    hall.settle()
    assert [event.con for event in linked.events] == [con.id, con.id]
    assert not hall.links._behind


def test_batches_for_a_worker_that_does_not_read_arrive_in_order(hall: Hall) -> None:
    linked, worker = hall.worker()
    linked.reads = False
    for n in range(1, 6):
        worker.session.notice(Answer(n, "x" * 200_000))
        hall.registry.dispatcher.with_output.add(worker)
        hall.turn()
    linked.reads = True
    eventually(lambda: hall.turn() or len([r for r in linked.heard if type(r) is Answer]) == 5)  # type: ignore[func-returns-value]
    assert [r.ref for r in linked.heard if type(r) is Answer] == [1, 2, 3, 4, 5]


def test_too_much_unsent_output_ends_the_session(hall: Hall) -> None:
    linked, worker = hall.worker()
    seen = in_hand(hall, linked)
    linked.reads = False
    total = hall.registry.flow.accounted
    unsent = hall.client()
    for _ in range(3):
        assert not gone(worker)
        hall.tell(worker, UNSENT_LIMIT * 6 // 10)
        hall.links.send(hall.now)
    why = "it does not read what is sent to it"
    assert gone(worker)
    assert Kill(3, why) in hall.sessions.to_supervisor
    assert parked(seen) == [2, 2], "what it held is for others"
    assert parked(unsent) == [2, 2], "their batch was begun, and is sent to its end"
    assert not hall.links._behind
    assert hall.registry.flow.accounted < total + 10_000
    linked.reads = True
    eventually(lambda: hall.turn() or linked.client.why)  # type: ignore[func-returns-value]
    assert why in linked.client.why


@pytest.mark.parametrize("is_begun", [False, True], ids=["behind", "begun"])
@pytest.mark.parametrize("end", ["no batch", "no ZMTP", "hangs"])
def test_only_what_will_never_be_sent_is_taken_back(hall: Hall, is_begun: bool, end: str) -> None:
    """A batch that was begun is sent to its end even if the link is cut. A worker that hangs
    keeps its link: when it continues, it reads the batches and cannot know that they are late.
    """
    linked, worker = hall.worker(0)
    linked.reads = False
    if not is_begun:
        hall.tell(worker, 4 * CHOKED_ABOVE)
        hall.links.send(hall.now)
        # The events look as if the worker had been chosen before it was choked.
        worker.window.choked = False
    con = hall.client()
    assert entry_of(con).in_flight == 2
    hall.tell(worker, 4 * CHOKED_ABOVE)
    hall.links.send(hall.now)
    assert hall.links._behind
    if end == "no batch":
        assert linked.client.send(b"\xc1")
    elif end == "no ZMTP":
        with linked.inherited() as sock:
            sock.send(b"\xff\xff")
    else:
        hall.sessions.tick(hall.now + Settings().handler_timeout + 1)
    hall.turn()
    assert gone(worker)
    linked.reads = True
    if end == "hangs" or is_begun:
        assert parked(con) == [2, 2]
        eventually(lambda: hall.turn() or len(linked.events) == 2)  # type: ignore[func-returns-value]
    else:
        assert parked(con) == [1, 1]
        # The last batch tells the reason after "no batch", and the end of the link tells it after
        # "no ZMTP".
        eventually(lambda: hall.turn() or linked.client.why or Refused in map(type, linked.heard))  # type: ignore[func-returns-value]
        assert not linked.events


def test_one_batch_may_be_longer_than_what_may_wait(hall: Hall) -> None:
    linked, worker = hall.worker()
    hall.tell(worker, 3 * UNSENT_LIMIT // 2)
    hall.links.send(hall.now)
    assert hall.links._behind
    eventually(lambda: hall.turn() or any(type(r) is Answer for r in linked.heard))  # type: ignore[func-returns-value]
    assert not gone(worker)


def test_connections_of_workers_that_left_do_not_go_to_stuck_ones(hall: Hall) -> None:
    linked, worker = hall.worker()
    con = in_hand(hall, linked)
    linked.ack(*linked.events)
    hall.settle()
    _, stuck = hall.worker(4)
    stuck.window.choked = True
    hall.sessions.end(worker, hall.now, died=True)
    hall.loop.turn(False)
    assert entry_of(con).holder is None
    assert not hall.sessions.is_busy, "it waits, it does not spin"
    stuck.window.choked = False
    hall.turn()
    assert entry_of(con).holder is stuck


# --- the socket's file ---


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
def test_workers_stay_connected_when_the_socket_moves(hall: Hall, tmp_path: Path) -> None:
    linked, worker = hall.worker()
    (tmp_path / "link.sock").unlink()
    hall.links.relink(str(tmp_path))
    assert (tmp_path / "link.sock").exists()
    con = in_hand(hall, linked)
    assert entry_of(con).holder is worker
    hall.worker(4)
