from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.corpus import frame
from tests.gateway.harness import HANDSHAKE, Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.counters import LEFT
from wsraw.gateway.delivery.dispatcher import LEFT_BEHIND, SERVED, SHUNNED_FOR
from wsraw.link.records import (
    Attach,
    Close,
    Detach,
    Drain,
    OnClose,
    OnConnect,
    OnMessage,
    Send,
    Welcome,
)
from wsraw.link.states import LinkState
from wsraw.link.window import FIRST_WINDOW, LARGEST_WINDOW, LATE_AFTER

GOODBYE = frame(0x88, (1000).to_bytes(2))


def counter() -> Iterator[bytes]:
    n = 0
    while True:
        n += 1
        yield b"%d" % n


def data_of(linked: LinkedWorker, con: Connection | None = None) -> list[bytes]:
    """The messages that the worker has received and not acked."""
    return [
        event.data
        for event in linked.events
        if type(event) is OnMessage and (con is None or event.con == con.id)
    ]


def established(harness: Harness, count: int = 1) -> list[Connection]:
    """Connections whose on_connect is handled; a worker must be ready."""
    cons = [harness.raw(b"", protocol="raw") for _ in range(count)]
    busy = True
    while busy:
        harness.turn()
        busy = False
        for linked in harness.linked_workers:
            if linked.events:
                busy = True
                linked.ack()
    assert not harness.registry.flow.total
    return cons


def set_window(linked: LinkedWorker, window: int) -> None:
    """Set the window as if it had been measured. It stays, as nothing is measured while `now`
    does not advance.
    """
    linked.worker.window.limit = linked.worker.window.largest = window


# --- one connection, one worker, in order ---


def test_events_that_no_worker_can_take_are_parked_in_order() -> None:
    harness = Harness()
    con = harness.websocket()
    harness.say(con, frame(0x82, b"1"))
    harness.say(con, frame(0x82, b"2") + GOODBYE)
    linked = harness.worker()
    assert [type(event) for event in linked.work()] == [
        OnConnect, OnMessage, OnMessage, OnClose,
    ]  # fmt: skip
    assert not harness.registry.entries


# --- clients that no worker has heard of ---


@pytest.mark.parametrize("verdict", ["gateway", "handlers"])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("way", ["reset", "reset with messages", "goodbye", "EOF", "ended by us"])
def test_a_connection_that_ends_before_a_worker_knows_it_is_forgotten(
    way: str, waits: bool, verdict: str
) -> None:
    """A client that connects and resets must not leave an entry behind, and its event must not
    reach a worker.
    """
    harness = Harness(verdict=verdict)
    if waits:
        set_window(harness.worker(), 1)
        harness.raw(b"1")
    before = dict(harness.registry.entries)
    con = harness.raw(HANDSHAKE)
    harness.write(con)
    if way == "reset with messages":
        harness.say(con, frame(0x82, b"1") + frame(0x82, b"2"))
    if way.startswith("reset"):
        harness.hang_up(con)
    elif way == "ended by us":
        harness.registry.abort(entry_of(con), 1008, "overflow", "it reads nothing", 0.0)
        harness.hang_up(con)
    elif way == "goodbye" and verdict == "gateway":
        harness.say(con, GOODBYE)
    else:
        harness.registry.receive_eof(con, 0.0)
    assert harness.registry.entries == before
    assert harness.registry.flow.total == sum(entry.event_bytes for entry in before.values())
    linked = harness.worker()
    assert con.id not in {event.con for event in linked.work()}


def test_events_of_open_connections_go_before_those_of_ended_ones() -> None:
    harness = Harness()
    left, there = harness.websocket(), harness.websocket()
    harness.say(left, frame(0x82, b"1") + GOODBYE)
    harness.say(there, frame(0x82, b"2"))
    late = harness.websocket()
    linked = harness.worker()
    assert list(dict.fromkeys(event.con for event in linked.work())) == [there.id, late.id, left.id]
    assert harness.registry.dispatcher.left_behind == 0


def test_events_of_ended_connections_are_bounded() -> None:
    harness = Harness(memory_limit=160_000)
    for _ in range(30):
        harness.say(harness.websocket(), frame(0x82, bytes(1000)) + GOODBYE)
    kept = len(harness.registry.entries)
    assert kept < 10
    assert harness.registry.dispatcher.left_behind <= 160_000 * LEFT_BEHIND
    assert harness.registry.counters.counts == {LEFT: 30 - kept}
    assert len([e for e in harness.worker().work() if type(e) is OnMessage]) == kept
    assert (harness.registry.dispatcher.left_behind, harness.registry.entries) == (0, {})


def test_new_and_known_connections_are_served_in_turn() -> None:
    """Neither a storm of new clients nor a flood of messages delays the other."""
    harness = Harness()
    linked = harness.worker()
    cons = established(harness, 20)
    set_window(linked, 0)
    new = [harness.raw(b"", protocol="raw") for _ in range(20)]
    for con in cons:
        harness.say(con, b"1")
    set_window(linked, 10)
    harness.turn()
    assert [type(event) for event in linked.events] == 5 * [OnMessage, OnConnect]
    assert {event.con for event in linked.events} < {con.id for con in (*cons, *new)}


def test_a_storm_of_clients_leaves_nothing_in_the_queues() -> None:
    """No worker has room for the clients, and each is gone before the next one connects."""
    harness = Harness()
    set_window(harness.worker(), 1)
    harness.raw(b"1")
    [pool] = harness.registry.pools.values()
    for _ in range(1000):
        harness.hang_up(harness.raw(b"", protocol="raw"))
        assert not pool.unheard
    assert len(harness.registry.entries) == 1


def test_while_events_are_in_flight_the_next_ones_go_to_the_same_worker() -> None:
    harness = Harness()
    linked_workers = [harness.worker() for _ in range(3)]
    [con] = established(harness)
    for linked in linked_workers:
        set_window(linked, 4)
    for data in (b"1", b"2", b"3", b"4", b"5"):
        harness.say(con, data)
    harness.turn()
    [holder] = [linked for linked in linked_workers if linked.events]
    assert data_of(holder) == [b"1", b"2"], "half of a window of four"
    holder.ack(holder.events[0])
    harness.turn()
    assert data_of(holder) == [b"2", b"3"]
    seen = [event.data for event in holder.work()]
    assert seen == [b"2", b"3", b"4", b"5"]
    assert all(not linked.events for linked in linked_workers)


def test_a_later_event_never_overtakes_one_that_waits() -> None:
    harness = Harness()
    linked = harness.worker()
    [con] = established(harness)
    set_window(linked, 4)
    for data in (b"1", b"2", b"3"):
        harness.say(con, data)
    harness.turn()
    linked.ack()
    harness.say(con, b"4")
    assert [event.data for event in linked.work()] == [b"3", b"4"]


@pytest.mark.parametrize(("window", "share"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (100, 50)])
def test_one_connection_takes_at_most_half_a_window(window: int, share: int) -> None:
    harness = Harness()
    linked = harness.worker()
    first, second = established(harness, 2)
    set_window(linked, window)
    for _ in range(200):
        harness.say(first, b"x")
    harness.turn()
    assert len(linked.events) == share
    harness.say(second, b"y")
    harness.turn()
    assert len(data_of(linked, second)) == (window > share)


def test_parked_connections_are_served_in_turn() -> None:
    harness = Harness()
    linked = harness.worker()
    cons = established(harness, 5)
    set_window(linked, 1)
    for n in range(4):
        for con in cons:
            harness.say(con, b"%d" % n)
    served = [(event.con, event.data) for event in linked.work()]
    assert served == [(con.id, b"%d" % n) for n in range(4) for con in cons]


def test_many_connections_of_one_worker_are_served_in_turn() -> None:
    """Connections with an event in flight wait for this worker, and those without for any worker.
    Both are served in turn.
    """
    harness = Harness()
    linked = harness.worker()
    cons = established(harness, 30)
    set_window(linked, 8)
    said = {con.id: [] for con in cons}  # type: dict[int, list[bytes]]
    numbers = counter()
    for _ in range(10):
        for con in cons:
            said[con.id].append(next(numbers))
            harness.say(con, said[con.id][-1])
    heard: dict[int, list[bytes]] = {con.id: [] for con in cons}
    for event in linked.work():
        heard[event.con].append(event.data)
        lengths = [len(data) for data in heard.values()]
        assert max(lengths) - min(lengths) <= 4, "nobody is far behind"
    assert heard == said


def test_the_window_also_bounds_bytes() -> None:
    harness = Harness(high_water_mark=1 << 30)
    linked = harness.worker()
    cons = established(harness, 3)
    for con in cons:
        harness.say(con, bytes(600_000))
    harness.turn()
    assert len(linked.events) == 1
    assert len(linked.work()) == 3


# --- any: the last worker, else the least outstanding ---


def test_an_idle_connection_stays_with_its_worker() -> None:
    harness = Harness()
    linked_workers = [harness.worker() for _ in range(3)]
    [con] = established(harness)
    for n in range(6):
        harness.say(con, b"%d" % n)
        harness.turn()
        holders = [linked for linked in linked_workers if linked.events]
        assert len(holders) == 1
        assert entry_of(con).holder is holders[0].worker
        assert not holders[0].take(Attach)
        holders[0].ack()


def test_a_connection_moves_from_a_full_worker_to_the_one_with_the_least_outstanding() -> None:
    harness = Harness()
    linked = harness.worker()
    a, b, c = established(harness, 3)
    busy, idle = harness.worker(), harness.worker()
    idle.worker.window.limit = busy.worker.window.limit = linked.worker.window.limit = 2
    for con in (a, b):
        harness.say(con, b"x")
    harness.registry.dispatcher.hold(entry_of(c), linked.worker)
    other = established_at(harness, busy)
    harness.say(other, b"x")
    harness.say(c, b"moves")
    harness.turn()
    assert data_of(idle) == [b"moves"]
    [attach] = idle.take(Attach)
    assert (attach.con, attach.inf) == (c.id, {"Protocol": "raw"})
    assert linked.take(Detach) == [Detach(c.id)]
    assert entry_of(c).holder is idle.worker
    assert entry_of(c) in idle.worker.connections
    assert entry_of(c) not in linked.worker.connections


def established_at(harness: Harness, linked: LinkedWorker) -> Connection:
    """A connection whose on_connect that worker has handled."""
    con = harness.raw(b"", protocol="raw")
    entry = entry_of(con)
    harness.turn()
    for other in harness.linked_workers:
        for event in list(other.events):
            if event.con == con.id:
                other.ack(event)
    harness.registry.dispatcher.detach(entry)
    harness.registry.dispatcher.hold(entry, linked.worker)
    harness.turn()
    for other in harness.linked_workers:
        other.take(Detach)
    return con


def test_an_attach_is_sent_before_the_event() -> None:
    harness = Harness()
    first, second = harness.worker(), harness.worker()
    con = established_at(harness, first)
    first.link.bye()
    first.flush()
    harness.say(con, b"x")
    harness.turn()
    assert [type(record) for record in second.heard if type(record) is not Welcome] == [
        Attach, OnMessage,
    ]  # fmt: skip


def test_a_connection_leaves_a_stuck_worker_while_another_is_free() -> None:
    harness = Harness()
    stuck, free = harness.worker(), harness.worker()
    one, two = established_at(harness, stuck), established_at(harness, stuck)
    harness.say(one, b"takes long")
    harness.turn()
    harness.say(two, b"early")
    harness.now = 1.0
    third = established_at(harness, free)
    harness.registry.dispatcher.detach(entry_of(third))
    harness.registry.dispatcher.hold(entry_of(third), stuck.worker)
    harness.say(third, b"late")
    harness.turn()
    assert data_of(stuck) == [b"takes long", b"early"]
    assert data_of(free) == [b"late"]


def test_a_stuck_worker_is_better_than_none() -> None:
    harness = Harness()
    stuck, full = harness.worker(), harness.worker()
    cons = [established_at(harness, stuck) for _ in range(2)]
    full_con = established_at(harness, full)
    set_window(full, 1)
    harness.say(full_con, b"x")
    harness.say(cons[0], b"x")
    harness.now = 1.0
    harness.say(cons[1], b"y")
    harness.turn()
    assert data_of(stuck) == [b"x", b"y"]


def test_an_idle_worker_is_better_than_one_that_is_late() -> None:
    """The late worker may be stuck: waiting for it may be expensive, and moving is cheap."""
    harness = Harness()
    late, idle = harness.worker(), harness.worker()
    one, two, three = (established_at(harness, late) for _ in range(3))
    harness.say(one, b"takes a little")
    harness.say(two, b"at once")
    harness.turn()
    harness.now += LATE_AFTER * 1.1
    harness.say(three, b"then")
    harness.turn()
    assert data_of(late) == [b"takes a little", b"at once"]
    assert data_of(idle) == [b"then"]


def test_a_connection_that_slows_its_worker_gets_one_for_itself_if_there_is_room() -> None:
    harness = Harness()
    one, other = harness.worker(), harness.worker()
    slow, innocent = established_at(harness, one), established_at(harness, one)
    harness.say(slow, b"takes long")
    harness.say(innocent, b"behind it")
    harness.turn()
    harness.now += 0.5
    harness.registry.flow.now = harness.now
    one.ack(one.events[0])
    one.ack(one.events[0])
    harness.turn()
    harness.say(slow, b"again")
    harness.say(innocent, b"elsewhere")
    harness.turn()
    assert (data_of(one), data_of(other)) == ([b"again"], [b"elsewhere"])
    one.ack(*one.events)
    other.ack(*other.events)
    harness.now += SHUNNED_FOR
    harness.say(established_at(harness, one), b"after a while")
    harness.turn()
    assert data_of(one) == [b"after a while"]


def test_a_worker_that_is_only_full_is_waited_for_rather_than_one_that_is_stuck() -> None:
    harness = Harness()
    stuck, full = harness.worker(), harness.worker()
    cons = [established_at(harness, stuck) for _ in range(2)]
    full_con = established_at(harness, full)
    set_window(full, 1)
    harness.say(cons[0], b"x")
    harness.now = 1.0
    harness.say(full_con, b"just begun")
    harness.say(cons[1], b"y")
    harness.turn()
    assert (data_of(stuck), data_of(full)) == ([b"x"], [b"just begun"])
    full.ack(*full.events)
    set_window(full, 1)
    harness.turn()
    assert (data_of(stuck), data_of(full)) == ([b"x"], [b"y"])


def test_a_single_worker_gets_every_event_even_if_it_is_stuck() -> None:
    harness = Harness()
    linked = harness.worker()
    one, two = established(harness, 2)
    harness.say(one, b"x")
    harness.now = 5.0
    harness.say(two, b"y")
    harness.turn()
    assert data_of(linked) == [b"x", b"y"]


def test_a_connection_without_events_in_flight_may_go_to_any_worker() -> None:
    """A connection waits for a worker only while the worker holds one of its events.

    Here its last event is acked while its next event waits behind others for the same worker, which
    then becomes slow; the other worker is idle.
    """
    harness = Harness()
    slow = harness.worker()
    w, x, v = established(harness, 3)
    set_window(slow, 4)
    for con, count in ((x, 1), (w, 1), (v, 2)):
        for n in range(count):
            harness.say(con, b"%d" % n)
    # The window is full: these events wait for this worker, that of w before that of x.
    harness.say(w, b"w waits")
    harness.say(x, b"x waits")
    idle = harness.worker()
    harness.turn()
    slow.ack(next(event for event in slow.events if event.con == x.id))
    harness.turn()
    assert data_of(slow, w) == [b"0", b"w waits"]
    harness.now = 10.0
    harness.turn()
    assert data_of(idle) == [b"x waits"]


def test_a_new_worker_takes_load_at_once() -> None:
    harness = Harness()
    old = harness.worker()
    set_window(old, 2)
    cons = established(harness, 6)
    for con in cons:
        harness.say(con, b"x")
    harness.turn()
    assert len(old.events) == 2
    new = harness.worker()
    harness.turn()
    assert len(new.events) == FIRST_WINDOW


# --- sticky ---


def test_a_sticky_connection_waits_for_its_worker() -> None:
    harness = Harness(dispatch="sticky")
    mine, idle = harness.worker(), harness.worker()
    con, other = established_at(harness, mine), established_at(harness, mine)
    set_window(mine, 1)
    harness.say(con, b"takes long")
    harness.say(other, b"waits")
    harness.now = 100.0
    harness.turn()
    assert data_of(mine) == [b"takes long"]
    assert idle.events == []
    assert [event.data for event in mine.work()] == [b"takes long", b"waits"]


@pytest.mark.parametrize("way", ["drain", "bye", "death"])
def test_a_sticky_connection_moves_when_its_worker_leaves(way: str) -> None:
    harness = Harness(dispatch="sticky")
    mine, other = harness.worker(), harness.worker()
    con, waiting = established_at(harness, mine), established_at(harness, mine)
    set_window(mine, 1)
    harness.say(con, b"1")
    harness.say(waiting, b"2")
    harness.turn()
    if way == "drain":
        harness.sessions.drain(mine.worker, 5.0)
        harness.turn()
        assert data_of(other) == [b"2"]
        mine.ack()
    elif way == "bye":
        mine.ack()
        mine.link.bye()
        mine.flush()
    else:
        harness.sessions.end(mine.worker, harness.now, died=True)
    harness.say(con, b"3")
    assert other.work()
    assert {entry_of(con).holder, entry_of(waiting).holder} == {other.worker}


def test_sticky_dispatch_gives_a_new_connection_to_the_worker_with_the_fewest() -> None:
    harness = Harness(dispatch="sticky")
    harness.worker()
    established(harness, 10)
    late = harness.worker()
    for _ in range(10):
        established(harness)
    assert len(late.worker.connections) == 10


def test_any_dispatch_gives_a_new_connection_to_the_worker_with_the_least_outstanding() -> None:
    harness = Harness()
    old = harness.worker()
    [con] = established(harness)
    late = harness.worker()
    harness.say(con, b"x")
    harness.raw(b"", protocol="raw")
    harness.turn()
    assert (len(old.events), len(late.events)) == (1, 1)


# --- messages in fragments ---


def amid_a_message(harness: Harness, linked: LinkedWorker) -> Connection:
    """A connection in the middle of two messages: the worker has sent the first fragment of one,
    in answer to the first fragment of the other.
    """
    con = harness.websocket()
    harness.turn()
    for other in harness.linked_workers:
        other.ack()
    harness.registry.dispatcher.detach(entry_of(con))
    harness.registry.dispatcher.hold(entry_of(con), linked.worker)
    harness.say(con, frame(0x01, b"one"))
    harness.turn()
    answer(linked, con, b"one", False)
    harness.write(con)
    return con


def answer(linked: LinkedWorker, con: Connection, data: bytes, final: bool) -> None:
    assert data_of(linked, con) == [data]
    linked.ack(commands=(Send(con.id, data, "text", final),))


@pytest.mark.parametrize("others", [1, 2], ids=["it has room", "it is full"])
def test_a_message_in_fragments_is_finished_by_the_worker_that_has_begun_it(others: int) -> None:
    """A message of another worker would wait for the rest of the first message, which never
    comes.
    """
    harness = Harness()
    late, idle = harness.worker(), harness.worker()
    busy = established_at(harness, late)
    con = amid_a_message(harness, late)
    set_window(late, 2)
    for data in (b"takes long", b"longer")[:others]:
        harness.say(busy, data)
    harness.turn()
    harness.now += LATE_AFTER * 1.1
    harness.say(con, frame(0x80, b"two"))
    harness.turn()
    assert data_of(idle) == []
    late.ack(*[event for event in late.events if event.con == busy.id])
    harness.turn()
    answer(late, con, b"two", True)
    assert harness.write(con).endswith(b"two")


def test_a_worker_that_is_to_leave_finishes_its_messages_first() -> None:
    harness = Harness()
    old = harness.worker()
    con, idle = amid_a_message(harness, old), established_at(harness, old)
    new = harness.worker()
    harness.sessions.drain(old.worker, 8.0)
    harness.say(con, frame(0x80, b"two"))
    harness.say(idle, b"else")
    harness.turn()
    assert data_of(new) == [b"else"], "all others move"
    assert old.take(Drain) == []
    answer(old, con, b"two", True)
    harness.run(1.0)
    assert [round(each.deadline) for each in old.take(Drain)] == [7]
    harness.say(con, frame(0x81, b"three"))
    harness.turn()
    assert data_of(new) == [b"else", b"three"]
    assert harness.write(con).endswith(b"two")


def test_a_message_that_its_client_does_not_go_on_with_holds_no_worker_up() -> None:
    harness = Harness()
    old = harness.worker()
    con = amid_a_message(harness, old)
    harness.worker()
    harness.sessions.drain(old.worker, 8.0)
    harness.run(4.0)
    assert old.take(Drain) == []
    harness.run(2.0)
    [told] = old.take(Drain)
    assert 2.0 <= told.deadline < 4.0
    old.link.bye()
    old.flush()
    assert con.ending.cause == "worker-died"


def test_a_worker_that_dies_before_it_is_told_to_leave_is_forgotten() -> None:
    harness = Harness()
    old = harness.worker()
    amid_a_message(harness, old)
    harness.sessions.drain(old.worker, 8.0)
    harness.sessions.end(old.worker, harness.now, died=True)
    harness.run(10.0)
    assert old.take(Drain) == []
    assert not harness.registry.dispatcher.leaving


# --- drain ---


def test_a_draining_worker_keeps_what_it_has_and_its_connections_move_after_that() -> None:
    harness = Harness()
    old = harness.worker()
    con, idle = established(harness, 2)
    harness.say(con, b"1")
    harness.turn()
    new = harness.worker()
    harness.sessions.drain(old.worker, 5.0)
    harness.say(con, b"2")
    harness.say(idle, b"3")
    harness.turn()
    assert data_of(old) == [b"1"]
    assert data_of(new) == [b"3"], "that one had nothing in flight"
    assert old.take(Drain) == [Drain(5.0)]
    old.ack()
    harness.turn()
    assert data_of(new) == [b"3", b"2"]


def test_connections_that_waited_for_a_draining_worker_find_another() -> None:
    harness = Harness()
    old = harness.worker()
    con, other = established(harness, 2)
    set_window(old, 2)
    for data in (b"1", b"2"):
        harness.say(con, data)
    harness.say(other, b"x")
    harness.say(other, b"y")
    harness.turn()
    new = harness.worker()
    harness.sessions.drain(old.worker, 5.0)
    harness.turn()
    assert data_of(new) == []
    old.ack()
    assert sorted(event.data for event in new.work()) == [b"2", b"y"]


def test_draining_twice_is_draining_once() -> None:
    harness = Harness()
    linked = harness.worker()
    for _ in range(2):
        harness.sessions.drain(linked.worker, 5.0)
    harness.turn()
    assert len(linked.take(Drain)) == 1


# --- a worker is gone ---


def test_events_of_a_dead_worker_come_back_in_order_before_waiting_ones() -> None:
    harness = Harness()
    dead = harness.worker()
    a, b = established(harness, 2)
    set_window(dead, 4)
    for n in range(4):
        harness.say(a, b"a%d" % n)
        harness.say(b, b"b%d" % n)
    harness.turn()
    assert sorted(data_of(dead)) == [b"a0", b"a1", b"b0", b"b1"]
    harness.sessions.end(dead.worker, harness.now, died=True)
    heir = harness.worker()
    events = heir.work()
    for con, name in ((a, "a"), (b, "b")):
        mine = [event for event in events if event.con == con.id]
        assert [event.data for event in mine] == [f"{name}{n}".encode() for n in range(4)]
        assert [event.delivery for event in mine] == [2, 2, 1, 1]
    assert not harness.registry.flow.total


def test_after_a_clean_leave_events_are_not_marked_as_redelivered() -> None:
    harness = Harness()
    left = harness.worker()
    [con] = established(harness)
    harness.say(con, b"1")
    harness.turn()
    left.link.bye()
    left.flush()
    heir = harness.worker()
    assert [(event.data, event.delivery) for event in heir.work()] == [(b"1", 1)]


def test_the_delivery_count_grows_with_each_death() -> None:
    harness = Harness()
    con = harness.raw(b"1")
    for delivery in (1, 2):
        linked = harness.worker()
        harness.turn()
        assert [event.delivery for event in linked.events] == [delivery, delivery]
        harness.sessions.end(linked.worker, harness.now, died=True, lost=True)
    assert entry_of(con).holder is None


def test_a_repeated_on_connect_needs_no_attach() -> None:
    harness = Harness()
    dead = harness.worker()
    harness.raw(b"1")
    harness.turn()
    harness.sessions.end(dead.worker, harness.now, died=True)
    heir = harness.worker()
    harness.turn()
    assert heir.take(Attach) == []
    assert [type(event) for event in heir.events] == [OnConnect], "one suspect at a time"
    heir.ack()
    harness.turn()
    assert [type(event) for event in heir.events] == [OnMessage]


def test_an_acked_on_connect_is_not_repeated() -> None:
    harness = Harness()
    dead = harness.worker()
    con = harness.raw(b"1")
    harness.turn()
    dead.ack(dead.events[0])
    harness.sessions.end(dead.worker, harness.now, died=True)
    heir = harness.worker()
    harness.turn()
    assert [attach.con for attach in heir.take(Attach)] == [con.id]
    assert [type(event) for event in heir.events] == [OnMessage]


def test_messages_to_a_closed_connection_do_not_come_back() -> None:
    harness = Harness()
    dead = harness.worker()
    [con] = established(harness)
    for data in (b"1", b"2", b"3"):
        harness.say(con, data)
    harness.turn()
    dead.ack(dead.events[0], commands=(Close(con.id),))
    harness.turn()
    harness.sessions.end(dead.worker, harness.now, died=True)
    heir = harness.worker()
    assert [type(event) for event in heir.work()] == [OnClose]
    assert not harness.registry.entries
    assert not harness.registry.flow.total


def test_on_close_waits_for_no_dead_worker() -> None:
    """The connection was closed by its handler while the worker drained; the worker then dies
    without another ack.
    """
    harness = Harness()
    dead, heir = harness.worker(), harness.worker()
    con = established_at(harness, dead)
    for data in (b"1", b"2"):
        harness.say(con, data)
    harness.turn()
    harness.sessions.drain(dead.worker, 5.0)
    dead.ack(dead.events[0], commands=(Close(con.id),))
    harness.turn()
    assert heir.events == []
    harness.sessions.end(dead.worker, harness.now, died=True)
    assert [type(event) for event in heir.work()] == [OnClose]
    assert not harness.registry.entries


def test_a_new_session_gets_no_detach_for_what_the_old_one_held() -> None:
    harness = Harness()
    old = harness.worker()
    [con] = established(harness)
    old.link.bye()
    old.flush()
    heir = harness.worker()
    harness.say(con, b"x")
    harness.turn()
    assert old.take(Detach) == heir.take(Detach) == []


def test_the_holder_is_told_when_a_connection_has_ended() -> None:
    harness = Harness()
    linked = harness.worker()
    [con] = established(harness)
    harness.hang_up(con)
    linked.work()
    assert linked.take(Detach) == [Detach(con.id)]


# --- a worker that acks out of order ---


def test_an_on_close_acked_before_earlier_events_breaks_nothing() -> None:
    """Only a worker that breaks rule 4 does so."""
    for dies in (False, True):
        harness = Harness()
        linked = harness.worker()
        [con] = established(harness)
        linked.worker.window.limit = linked.worker.window.largest = 10
        harness.say(con, b"1")
        harness.hang_up(con)
        harness.turn()
        message, _, close = linked.events
        linked.ack(close)
        assert not harness.registry.entries
        if dies:
            harness.sessions.end(linked.worker, harness.now, died=True)
            assert harness.worker().work() == [], "nothing comes after on_close"
        else:
            linked.ack(message)
        assert harness.registry.flow.total == 0


# --- the window and time together ---


def test_the_window_grows_with_a_fast_worker_and_order_holds() -> None:
    harness = Harness(high_water_mark=1 << 20)
    linked = harness.worker()
    [con] = established(harness)
    total = 2000
    for n in range(total):
        harness.say(con, b"%d" % n)
    heard: list[bytes] = []
    while len(heard) < total:
        harness.turn()
        assert 2 * len(linked.events) <= linked.worker.window.limit + 1
        heard += data_of(linked)
        harness.now += 0.0001
        linked.ack()
    assert heard == [b"%d" % n for n in range(total)]
    assert 50 < linked.worker.window.limit <= LARGEST_WINDOW
    assert linked.worker.session.state is LinkState.READY


# --- which connection comes first, and to which worker ---


def test_waiting_connections_go_before_new_ones() -> None:
    harness = Harness()
    linked = harness.worker()
    first, waiting, late = established(harness, 3)
    set_window(linked, 1)
    harness.say(first, b"first")
    harness.say(waiting, b"waiting")
    harness.turn()
    linked.ack()
    # There is room now, and nothing has been handed out yet.
    harness.say(late, b"late")
    assert [event.data for event in linked.work()] == [b"waiting", b"late"]


def test_a_new_connection_avoids_a_stuck_worker_even_if_the_others_have_more_to_do() -> None:
    harness = Harness()
    stuck, busy = harness.worker(), harness.worker()
    harness.say(established_at(harness, stuck), b"takes long")
    cons = [established_at(harness, busy) for _ in range(2)]
    harness.turn()
    harness.now = 10.0
    for con in cons:
        harness.say(con, b"just begun")
    new = harness.raw(b"", protocol="raw")
    harness.turn()
    assert entry_of(new).holder is busy.worker
    assert (len(stuck.events), len(busy.events)) == (1, 3)


def test_sticky_dispatch_counts_connections_before_outstanding_events() -> None:
    harness = Harness(dispatch="sticky")
    many, few = harness.worker(), harness.worker()
    for _ in range(3):
        established_at(harness, many)
    harness.say(established_at(harness, few), b"x")
    new = harness.raw(b"", protocol="raw")
    assert entry_of(new).holder is few.worker


# --- a turn's share ---


@pytest.mark.parametrize("workers", [1, 3])
def test_waiting_events_are_given_out_over_several_turns(workers: int) -> None:
    """Handing out all waiting events at once would make a long turn, however much room there is."""
    harness = Harness()
    linked_workers = [harness.worker() for _ in range(workers)]
    cons = established(harness, 10)
    for linked in linked_workers:
        set_window(linked, 0)
    for n in range(200):
        for con in cons:
            harness.say(con, b"%d" % n)
    for linked in linked_workers:
        set_window(linked, LARGEST_WINDOW)
    sessions = harness.sessions
    before = turns = 0
    while before < 2000:
        harness.turn()
        turns += 1
        after = sum(len(data_of(linked)) for linked in linked_workers)
        assert 0 < after - before <= 3 * SERVED + 2 * workers
        assert (after == 2000) or sessions.is_busy, "nobody must wait for something to happen"
        before = after
    assert turns > 2000 // (3 * SERVED + 2 * workers)
    harness.turn()
    assert not sessions.is_busy
    for con in cons:
        [linked] = [linked for linked in linked_workers if data_of(linked, con)]
        assert data_of(linked, con) == [b"%d" % n for n in range(200)]
