from __future__ import annotations

from collections.abc import Iterator

import pytest
from corpus import frame
from stage import HANDSHAKE, Mate, Stage, entry_of

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.counters import LEFT
from wsraw.gateway.delivery.dispatcher import LEFT_BEHIND, MOST_LEFTOVERS, SERVED, SHUNNED_FOR
from wsraw.link.records import Attach, Close, Detach, Drain, OnClose, OnConnect, OnMessage, Welcome
from wsraw.link.states import LinkState
from wsraw.link.window import FIRST_WINDOW, LARGEST_WINDOW, LATE_AFTER

GOODBYE = frame(0x88, (1000).to_bytes(2))


def counter() -> Iterator[bytes]:
    n = 0
    while True:
        n += 1
        yield b"%d" % n


def data_of(mate: Mate, con: Connection | None = None) -> list[bytes]:
    """The messages that it has heard and not yet acked."""
    return [
        event.data
        for event in mate.events
        if type(event) is OnMessage and (con is None or event.con == con.id)
    ]


def established(stage: Stage, count: int = 1) -> list[Connection]:
    """Connections whose on_connect is handled; a worker must be there."""
    cons = [stage.raw(b"", protocol="raw") for _ in range(count)]
    busy = True
    while busy:
        stage.turn()
        busy = False
        for mate in stage.mates:
            if mate.events:
                busy = True
                mate.ack()
    assert not stage.registry.flow.total
    return cons


def set_window(mate: Mate, window: int) -> None:
    """As if it had been measured; it stays, as nothing is measured while `now` stands still."""
    mate.worker.window.limit = mate.worker.window.largest = window


# --- one connection, one worker, in order ---


def test_events_that_no_worker_can_take_are_parked_in_order() -> None:
    stage = Stage()
    con = stage.websocket()
    stage.say(con, frame(0x82, b"1"))
    stage.say(con, frame(0x82, b"2") + GOODBYE)
    mate = stage.worker()
    assert [type(event) for event in mate.work()] == [
        OnConnect, OnMessage, OnMessage, OnClose,
    ]  # fmt: skip
    assert not stage.registry.entries


# --- clients that no worker has heard of ---


@pytest.mark.parametrize("verdict", ["gateway", "handlers"])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("way", ["reset", "reset with messages", "goodbye", "EOF", "ended by us"])
def test_a_connection_that_ends_before_a_worker_knows_it_is_forgotten(
    way: str, waits: bool, verdict: str
) -> None:
    """A client that connects and resets left its place to handlers that had yet to hear of it."""
    stage = Stage(verdict=verdict)
    if waits:
        set_window(stage.worker(), 1)
        stage.raw(b"1")
    before = dict(stage.registry.entries)
    con = stage.raw(HANDSHAKE)
    stage.write(con)
    if way == "reset with messages":
        stage.say(con, frame(0x82, b"1") + frame(0x82, b"2"))
    if way.startswith("reset"):
        stage.hang_up(con)
    elif way == "ended by us":
        stage.registry.abort(entry_of(con), 1008, "overflow", "it reads nothing", 0.0)
        stage.hang_up(con)
    elif way == "goodbye" and verdict == "gateway":
        stage.say(con, GOODBYE)
    else:
        stage.registry.receive_eof(con, 0.0)
    assert stage.registry.entries == before
    assert stage.registry.flow.total == sum(entry.held for entry in before.values())
    mate = stage.worker()
    assert con.id not in {event.con for event in mate.work()}


def test_events_of_open_connections_go_before_those_of_ended_ones() -> None:
    stage = Stage()
    left, there = stage.websocket(), stage.websocket()
    stage.say(left, frame(0x82, b"1") + GOODBYE)
    stage.say(there, frame(0x82, b"2"))
    late = stage.websocket()
    mate = stage.worker()
    assert list(dict.fromkeys(event.con for event in mate.work())) == [there.id, late.id, left.id]
    assert stage.registry.dispatcher.left_behind == 0


def test_events_of_ended_connections_are_bounded() -> None:
    stage = Stage(memory_limit=160_000)
    for _ in range(30):
        stage.say(stage.websocket(), frame(0x82, bytes(1000)) + GOODBYE)
    kept = len(stage.registry.entries)
    assert kept < 10
    assert stage.registry.dispatcher.left_behind <= 160_000 * LEFT_BEHIND
    assert stage.registry.counters.counts == {LEFT: 30 - kept}
    assert len([e for e in stage.worker().work() if type(e) is OnMessage]) == kept
    assert (stage.registry.dispatcher.left_behind, stage.registry.entries) == (0, {})


def test_new_and_known_connections_are_served_in_turn() -> None:
    """Neither a storm of clients nor a flood of messages keeps the other out."""
    stage = Stage()
    mate = stage.worker()
    cons = established(stage, 20)
    set_window(mate, 0)
    new = [stage.raw(b"", protocol="raw") for _ in range(20)]
    for con in cons:
        stage.say(con, b"1")
    set_window(mate, 10)
    stage.turn()
    assert [type(event) for event in mate.events] == 5 * [OnMessage, OnConnect]
    assert {event.con for event in mate.events} < {con.id for con in (*cons, *new)}


def test_a_storm_of_clients_leaves_nothing_in_the_queues() -> None:
    """Nobody has room for any of them, and each is gone before the next one comes."""
    stage = Stage()
    set_window(stage.worker(), 1)
    stage.raw(b"1")
    [pool] = stage.registry.pools.values()
    for _ in range(1000):
        stage.hang_up(stage.raw(b"", protocol="raw"))
        assert len(pool.unheard) <= 2 * MOST_LEFTOVERS
    assert len(stage.registry.entries) == 1


def test_while_events_are_in_flight_the_next_ones_go_to_the_same_worker() -> None:
    stage = Stage()
    mates = [stage.worker() for _ in range(3)]
    [con] = established(stage)
    for mate in mates:
        set_window(mate, 4)
    for data in (b"1", b"2", b"3", b"4", b"5"):
        stage.say(con, data)
    stage.turn()
    [holder] = [mate for mate in mates if mate.events]
    assert data_of(holder) == [b"1", b"2"], "half of a window of four"
    holder.ack(holder.events[0])
    stage.turn()
    assert data_of(holder) == [b"2", b"3"]
    seen = [event.data for event in holder.work()]
    assert seen == [b"2", b"3", b"4", b"5"]
    assert all(not mate.events for mate in mates)


def test_a_later_event_never_overtakes_one_that_waits() -> None:
    stage = Stage()
    mate = stage.worker()
    [con] = established(stage)
    set_window(mate, 4)
    for data in (b"1", b"2", b"3"):
        stage.say(con, data)
    stage.turn()
    mate.ack()
    stage.say(con, b"4")
    assert [event.data for event in mate.work()] == [b"3", b"4"]


@pytest.mark.parametrize(("window", "share"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (100, 50)])
def test_one_connection_takes_at_most_half_a_window(window: int, share: int) -> None:
    stage = Stage()
    mate = stage.worker()
    first, second = established(stage, 2)
    set_window(mate, window)
    for _ in range(200):
        stage.say(first, b"x")
    stage.turn()
    assert len(mate.events) == share
    stage.say(second, b"y")
    stage.turn()
    assert len(data_of(mate, second)) == (window > share)


def test_parked_connections_are_served_in_turn() -> None:
    stage = Stage()
    mate = stage.worker()
    cons = established(stage, 5)
    set_window(mate, 1)
    for n in range(4):
        for con in cons:
            stage.say(con, b"%d" % n)
    served = [(event.con, event.data) for event in mate.work()]
    assert served == [(con.id, b"%d" % n) for n in range(4) for con in cons]


def test_many_connections_of_one_worker_are_served_in_turn() -> None:
    """With two in flight each, those that wait for this worker and those for any are mixed."""
    stage = Stage()
    mate = stage.worker()
    cons = established(stage, 30)
    set_window(mate, 8)
    said = {con.id: [] for con in cons}  # type: dict[int, list[bytes]]
    numbers = counter()
    for _ in range(10):
        for con in cons:
            said[con.id].append(next(numbers))
            stage.say(con, said[con.id][-1])
    heard: dict[int, list[bytes]] = {con.id: [] for con in cons}
    for event in mate.work():
        heard[event.con].append(event.data)
        lengths = [len(data) for data in heard.values()]
        assert max(lengths) - min(lengths) <= 4, "nobody is far behind"
    assert heard == said


def test_the_window_also_bounds_bytes() -> None:
    stage = Stage(high_water_mark=1 << 30)
    mate = stage.worker()
    cons = established(stage, 3)
    for con in cons:
        stage.say(con, bytes(600_000))
    stage.turn()
    assert len(mate.events) == 1
    assert len(mate.work()) == 3


# --- any: the last worker, else the least outstanding ---


def test_an_idle_connection_stays_with_its_worker() -> None:
    stage = Stage()
    mates = [stage.worker() for _ in range(3)]
    [con] = established(stage)
    for n in range(6):
        stage.say(con, b"%d" % n)
        stage.turn()
        holders = [mate for mate in mates if mate.events]
        assert len(holders) == 1
        assert entry_of(con).holder is holders[0].worker
        assert not holders[0].take(Attach)
        holders[0].ack()


def test_a_connection_moves_from_a_full_worker_to_the_one_with_the_least_outstanding() -> None:
    stage = Stage()
    mate = stage.worker()
    a, b, c = established(stage, 3)
    busy, idle = stage.worker(), stage.worker()
    idle.worker.window.limit = busy.worker.window.limit = mate.worker.window.limit = 2
    for con in (a, b):
        stage.say(con, b"x")
    stage.registry.dispatcher.hold(entry_of(c), mate.worker)
    other = established_at(stage, busy)
    stage.say(other, b"x")
    stage.say(c, b"moves")
    stage.turn()
    assert data_of(idle) == [b"moves"]
    [attach] = idle.take(Attach)
    assert (attach.con, attach.inf) == (c.id, {"Protocol": "raw"})
    assert mate.take(Detach) == [Detach(c.id)]
    assert entry_of(c).holder is idle.worker
    assert entry_of(c) in idle.worker.connections
    assert entry_of(c) not in mate.worker.connections


def established_at(stage: Stage, mate: Mate) -> Connection:
    """A connection whose on_connect that worker has handled."""
    con = stage.raw(b"", protocol="raw")
    entry = entry_of(con)
    stage.turn()
    for other in stage.mates:
        for event in list(other.events):
            if event.con == con.id:
                other.ack(event)
    stage.registry.dispatcher.detach(entry)
    stage.registry.dispatcher.hold(entry, mate.worker)
    stage.turn()
    for other in stage.mates:
        other.take(Detach)
    return con


def test_an_attach_is_sent_before_the_event() -> None:
    stage = Stage()
    first, second = stage.worker(), stage.worker()
    con = established_at(stage, first)
    first.link.bye()
    first.flush()
    stage.say(con, b"x")
    stage.turn()
    assert [type(record) for record in second.heard if type(record) is not Welcome] == [
        Attach, OnMessage,
    ]  # fmt: skip


def test_a_connection_leaves_a_stuck_worker_while_another_is_free() -> None:
    stage = Stage()
    stuck, free = stage.worker(), stage.worker()
    one, two = established_at(stage, stuck), established_at(stage, stuck)
    stage.say(one, b"takes long")
    stage.turn()
    stage.say(two, b"early")
    stage.now = 1.0
    third = established_at(stage, free)
    stage.registry.dispatcher.detach(entry_of(third))
    stage.registry.dispatcher.hold(entry_of(third), stuck.worker)
    stage.say(third, b"late")
    stage.turn()
    assert data_of(stuck) == [b"takes long", b"early"]
    assert data_of(free) == [b"late"]


def test_a_stuck_worker_is_better_than_none() -> None:
    stage = Stage()
    stuck, full = stage.worker(), stage.worker()
    cons = [established_at(stage, stuck) for _ in range(2)]
    full_con = established_at(stage, full)
    set_window(full, 1)
    stage.say(full_con, b"x")
    stage.say(cons[0], b"x")
    stage.now = 1.0
    stage.say(cons[1], b"y")
    stage.turn()
    assert data_of(stuck) == [b"x", b"y"]


def test_an_idle_worker_is_better_than_one_that_is_late() -> None:
    """Nobody knows yet whether it is stuck; to wait there may cost much, to move costs little."""
    stage = Stage()
    late, idle = stage.worker(), stage.worker()
    one, two, three = (established_at(stage, late) for _ in range(3))
    stage.say(one, b"takes a little")
    stage.say(two, b"at once")
    stage.turn()
    stage.now += LATE_AFTER * 1.1
    stage.say(three, b"then")
    stage.turn()
    assert data_of(late) == [b"takes a little", b"at once"]
    assert data_of(idle) == [b"then"]


def test_a_connection_that_slows_its_worker_gets_one_for_itself_if_there_is_room() -> None:
    stage = Stage()
    one, other = stage.worker(), stage.worker()
    slow, innocent = established_at(stage, one), established_at(stage, one)
    stage.say(slow, b"takes long")
    stage.say(innocent, b"behind it")
    stage.turn()
    stage.now += 0.5
    stage.registry.flow.now = stage.now
    one.ack(one.events[0])
    one.ack(one.events[0])
    stage.turn()
    stage.say(slow, b"again")
    stage.say(innocent, b"elsewhere")
    stage.turn()
    assert (data_of(one), data_of(other)) == ([b"again"], [b"elsewhere"])
    one.ack(*one.events)
    other.ack(*other.events)
    stage.now += SHUNNED_FOR
    stage.say(established_at(stage, one), b"after a while")
    stage.turn()
    assert data_of(one) == [b"after a while"]


def test_a_worker_that_is_only_full_is_waited_for_rather_than_one_that_is_stuck() -> None:
    stage = Stage()
    stuck, full = stage.worker(), stage.worker()
    cons = [established_at(stage, stuck) for _ in range(2)]
    full_con = established_at(stage, full)
    set_window(full, 1)
    stage.say(cons[0], b"x")
    stage.now = 1.0
    stage.say(full_con, b"just begun")
    stage.say(cons[1], b"y")
    stage.turn()
    assert (data_of(stuck), data_of(full)) == ([b"x"], [b"just begun"])
    full.ack(*full.events)
    set_window(full, 1)
    stage.turn()
    assert (data_of(stuck), data_of(full)) == ([b"x"], [b"y"])


def test_a_single_worker_gets_every_event_even_if_it_is_stuck() -> None:
    stage = Stage()
    mate = stage.worker()
    one, two = established(stage, 2)
    stage.say(one, b"x")
    stage.now = 5.0
    stage.say(two, b"y")
    stage.turn()
    assert data_of(mate) == [b"x", b"y"]


def test_a_connection_without_events_in_flight_may_go_to_any_worker() -> None:
    """A connection waits for a worker only while that one holds an event of it.

    Here its last one is acked while its next one waits behind others for the same worker, which
    then takes its time; the other worker is idle.
    """
    stage = Stage()
    slow = stage.worker()
    w, x, v = established(stage, 3)
    set_window(slow, 4)
    for con, count in ((x, 1), (w, 1), (v, 2)):
        for n in range(count):
            stage.say(con, b"%d" % n)
    # The window is full: these wait for this worker, w before x.
    stage.say(w, b"w waits")
    stage.say(x, b"x waits")
    idle = stage.worker()
    stage.turn()
    slow.ack(next(event for event in slow.events if event.con == x.id))
    stage.turn()
    assert data_of(slow, w) == [b"0", b"w waits"]
    stage.now = 10.0
    stage.turn()
    assert data_of(idle) == [b"x waits"]


def test_a_new_worker_takes_load_at_once() -> None:
    stage = Stage()
    old = stage.worker()
    set_window(old, 2)
    cons = established(stage, 6)
    for con in cons:
        stage.say(con, b"x")
    stage.turn()
    assert len(old.events) == 2
    new = stage.worker()
    stage.turn()
    assert len(new.events) == FIRST_WINDOW


# --- sticky ---


def test_a_sticky_connection_waits_for_its_worker() -> None:
    stage = Stage(dispatch="sticky")
    mine, idle = stage.worker(), stage.worker()
    con, other = established_at(stage, mine), established_at(stage, mine)
    set_window(mine, 1)
    stage.say(con, b"takes long")
    stage.say(other, b"waits")
    stage.now = 100.0
    stage.turn()
    assert data_of(mine) == [b"takes long"]
    assert idle.events == []
    assert [event.data for event in mine.work()] == [b"takes long", b"waits"]


@pytest.mark.parametrize("way", ["drain", "bye", "death"])
def test_a_sticky_connection_moves_when_its_worker_leaves(way: str) -> None:
    stage = Stage(dispatch="sticky")
    mine, other = stage.worker(), stage.worker()
    con, waiting = established_at(stage, mine), established_at(stage, mine)
    set_window(mine, 1)
    stage.say(con, b"1")
    stage.say(waiting, b"2")
    stage.turn()
    if way == "drain":
        stage.sessions.drain(mine.worker, 5.0)
        stage.turn()
        assert data_of(other) == [b"2"]
        mine.ack()
    elif way == "bye":
        mine.ack()
        mine.link.bye()
        mine.flush()
    else:
        stage.sessions.end(mine.worker, stage.now, died=True)
    stage.say(con, b"3")
    assert other.work()
    assert {entry_of(con).holder, entry_of(waiting).holder} == {other.worker}


def test_sticky_dispatch_gives_a_new_connection_to_the_worker_with_the_fewest() -> None:
    stage = Stage(dispatch="sticky")
    stage.worker()
    established(stage, 10)
    late = stage.worker()
    for _ in range(10):
        established(stage)
    assert len(late.worker.connections) == 10


def test_any_dispatch_gives_a_new_connection_to_the_worker_with_the_least_outstanding() -> None:
    stage = Stage()
    old = stage.worker()
    [con] = established(stage)
    late = stage.worker()
    stage.say(con, b"x")
    stage.raw(b"", protocol="raw")
    stage.turn()
    assert (len(old.events), len(late.events)) == (1, 1)


# --- drain ---


def test_a_draining_worker_keeps_what_it_has_and_its_connections_move_after_that() -> None:
    stage = Stage()
    old = stage.worker()
    con, idle = established(stage, 2)
    stage.say(con, b"1")
    stage.turn()
    new = stage.worker()
    stage.sessions.drain(old.worker, 5.0)
    stage.say(con, b"2")
    stage.say(idle, b"3")
    stage.turn()
    assert data_of(old) == [b"1"]
    assert data_of(new) == [b"3"], "that one had nothing in flight"
    assert old.take(Drain) == [Drain(5.0)]
    old.ack()
    stage.turn()
    assert data_of(new) == [b"3", b"2"]


def test_connections_that_waited_for_a_draining_worker_find_another() -> None:
    stage = Stage()
    old = stage.worker()
    con, other = established(stage, 2)
    set_window(old, 2)
    for data in (b"1", b"2"):
        stage.say(con, data)
    stage.say(other, b"x")
    stage.say(other, b"y")
    stage.turn()
    new = stage.worker()
    stage.sessions.drain(old.worker, 5.0)
    stage.turn()
    assert data_of(new) == []
    old.ack()
    assert sorted(event.data for event in new.work()) == [b"2", b"y"]


def test_draining_twice_is_draining_once() -> None:
    stage = Stage()
    mate = stage.worker()
    for _ in range(2):
        stage.sessions.drain(mate.worker, 5.0)
    stage.turn()
    assert len(mate.take(Drain)) == 1


# --- a worker is gone ---


def test_events_of_a_dead_worker_come_back_in_order_before_waiting_ones() -> None:
    stage = Stage()
    dead = stage.worker()
    a, b = established(stage, 2)
    set_window(dead, 4)
    for n in range(4):
        stage.say(a, b"a%d" % n)
        stage.say(b, b"b%d" % n)
    stage.turn()
    assert sorted(data_of(dead)) == [b"a0", b"a1", b"b0", b"b1"]
    stage.sessions.end(dead.worker, stage.now, died=True)
    heir = stage.worker()
    events = heir.work()
    for con, name in ((a, "a"), (b, "b")):
        mine = [event for event in events if event.con == con.id]
        assert [event.data for event in mine] == [f"{name}{n}".encode() for n in range(4)]
        assert [event.delivery for event in mine] == [2, 2, 1, 1]
    assert not stage.registry.flow.total


def test_after_a_clean_leave_events_are_not_marked_as_redelivered() -> None:
    stage = Stage()
    left = stage.worker()
    [con] = established(stage)
    stage.say(con, b"1")
    stage.turn()
    left.link.bye()
    left.flush()
    heir = stage.worker()
    assert [(event.data, event.delivery) for event in heir.work()] == [(b"1", 1)]


def test_the_delivery_count_grows_with_each_death() -> None:
    stage = Stage()
    con = stage.raw(b"1")
    for delivery in (1, 2):
        mate = stage.worker()
        stage.turn()
        assert [event.delivery for event in mate.events] == [delivery, delivery]
        stage.sessions.end(mate.worker, stage.now, died=True, lost=True)
    assert entry_of(con).holder is None


def test_a_repeated_on_connect_needs_no_attach() -> None:
    stage = Stage()
    dead = stage.worker()
    stage.raw(b"1")
    stage.turn()
    stage.sessions.end(dead.worker, stage.now, died=True)
    heir = stage.worker()
    stage.turn()
    assert heir.take(Attach) == []
    assert [type(event) for event in heir.events] == [OnConnect], "one suspect at a time"
    heir.ack()
    stage.turn()
    assert [type(event) for event in heir.events] == [OnMessage]


def test_an_acked_on_connect_is_not_repeated() -> None:
    stage = Stage()
    dead = stage.worker()
    con = stage.raw(b"1")
    stage.turn()
    dead.ack(dead.events[0])
    stage.sessions.end(dead.worker, stage.now, died=True)
    heir = stage.worker()
    stage.turn()
    assert [attach.con for attach in heir.take(Attach)] == [con.id]
    assert [type(event) for event in heir.events] == [OnMessage]


def test_messages_to_a_closed_connection_do_not_come_back() -> None:
    stage = Stage()
    dead = stage.worker()
    [con] = established(stage)
    for data in (b"1", b"2", b"3"):
        stage.say(con, data)
    stage.turn()
    dead.ack(dead.events[0], commands=(Close(con.id),))
    stage.turn()
    stage.sessions.end(dead.worker, stage.now, died=True)
    heir = stage.worker()
    assert [type(event) for event in heir.work()] == [OnClose]
    assert not stage.registry.entries
    assert not stage.registry.flow.total


def test_on_close_waits_for_no_dead_worker() -> None:
    """Closed by its handler while the worker drains; the worker then dies without another ack."""
    stage = Stage()
    dead, heir = stage.worker(), stage.worker()
    con = established_at(stage, dead)
    for data in (b"1", b"2"):
        stage.say(con, data)
    stage.turn()
    stage.sessions.drain(dead.worker, 5.0)
    dead.ack(dead.events[0], commands=(Close(con.id),))
    stage.turn()
    assert heir.events == []
    stage.sessions.end(dead.worker, stage.now, died=True)
    assert [type(event) for event in heir.work()] == [OnClose]
    assert not stage.registry.entries


def test_a_new_session_gets_no_detach_for_what_the_old_one_held() -> None:
    stage = Stage()
    old = stage.worker()
    [con] = established(stage)
    old.link.bye()
    old.flush()
    heir = stage.worker()
    stage.say(con, b"x")
    stage.turn()
    assert old.take(Detach) == heir.take(Detach) == []


def test_the_holder_is_told_when_a_connection_has_ended() -> None:
    stage = Stage()
    mate = stage.worker()
    [con] = established(stage)
    stage.hang_up(con)
    mate.work()
    assert mate.take(Detach) == [Detach(con.id)]


# --- a worker that acks out of order ---


def test_an_on_close_acked_before_earlier_events_breaks_nothing() -> None:
    """Only a worker that breaks rule 4 does so."""
    for dies in (False, True):
        stage = Stage()
        mate = stage.worker()
        [con] = established(stage)
        mate.worker.window.limit = mate.worker.window.largest = 10
        stage.say(con, b"1")
        stage.hang_up(con)
        stage.turn()
        message, _, close = mate.events
        mate.ack(close)
        assert not stage.registry.entries
        if dies:
            stage.sessions.end(mate.worker, stage.now, died=True)
            assert stage.worker().work() == [], "nothing comes after on_close"
        else:
            mate.ack(message)
        assert stage.registry.flow.total == 0


# --- the window and time together ---


def test_the_window_grows_with_a_fast_worker_and_order_holds() -> None:
    stage = Stage(high_water_mark=1 << 20)
    mate = stage.worker()
    [con] = established(stage)
    total = 2000
    for n in range(total):
        stage.say(con, b"%d" % n)
    heard: list[bytes] = []
    while len(heard) < total:
        stage.turn()
        assert 2 * len(mate.events) <= mate.worker.window.limit + 1
        heard += data_of(mate)
        stage.now += 0.0001
        mate.ack()
    assert heard == [b"%d" % n for n in range(total)]
    assert 50 < mate.worker.window.limit <= LARGEST_WINDOW
    assert mate.worker.session.state is LinkState.READY


# --- who comes first, and where to ---


def test_waiting_connections_go_before_new_ones() -> None:
    stage = Stage()
    mate = stage.worker()
    first, waiting, late = established(stage, 3)
    set_window(mate, 1)
    stage.say(first, b"first")
    stage.say(waiting, b"waiting")
    stage.turn()
    mate.ack()
    # There is room now, and nobody has been served yet.
    stage.say(late, b"late")
    assert [event.data for event in mate.work()] == [b"waiting", b"late"]


def test_a_new_connection_avoids_a_stuck_worker_even_if_the_others_have_more_to_do() -> None:
    stage = Stage()
    stuck, busy = stage.worker(), stage.worker()
    stage.say(established_at(stage, stuck), b"takes long")
    cons = [established_at(stage, busy) for _ in range(2)]
    stage.turn()
    stage.now = 10.0
    for con in cons:
        stage.say(con, b"just begun")
    new = stage.raw(b"", protocol="raw")
    stage.turn()
    assert entry_of(new).holder is busy.worker
    assert (len(stuck.events), len(busy.events)) == (1, 3)


def test_sticky_dispatch_counts_connections_before_outstanding_events() -> None:
    stage = Stage(dispatch="sticky")
    many, few = stage.worker(), stage.worker()
    for _ in range(3):
        established_at(stage, many)
    stage.say(established_at(stage, few), b"x")
    new = stage.raw(b"", protocol="raw")
    assert entry_of(new).holder is few.worker


# --- a turn's share ---


@pytest.mark.parametrize("workers", [1, 3])
def test_waiting_events_are_given_out_over_several_turns(workers: int) -> None:
    """However much room there is: all of it at once would be a long turn."""
    stage = Stage()
    mates = [stage.worker() for _ in range(workers)]
    cons = established(stage, 10)
    for mate in mates:
        set_window(mate, 0)
    for n in range(200):
        for con in cons:
            stage.say(con, b"%d" % n)
    for mate in mates:
        set_window(mate, LARGEST_WINDOW)
    sessions = stage.sessions
    before = turns = 0
    while before < 2000:
        stage.turn()
        turns += 1
        after = sum(len(data_of(mate)) for mate in mates)
        assert 0 < after - before <= 3 * SERVED + 2 * workers
        assert (after == 2000) or sessions.is_busy, "nobody must wait for something to happen"
        before = after
    assert turns > 2000 // (3 * SERVED + 2 * workers)
    stage.turn()
    assert not sessions.is_busy
    for con in cons:
        [mate] = [mate for mate in mates if data_of(mate, con)]
        assert data_of(mate, con) == [b"%d" % n for n in range(200)]
