from __future__ import annotations

from typing import Any

from tests.gateway.harness import Harness, LinkedWorker
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.status import report
from wsraw.gateway.totals import ConnectionTotals, PoolTotals
from wsraw.link.records import HANDLER_BOUNDS, Close, Join, Open, Publish, Send, Stats


def totals_of(harness: Harness, con: Connection) -> ConnectionTotals:
    return harness.registry.entries[con.id].totals


def pool(harness: Harness, name: str = "default") -> dict[str, Any]:
    data = report(harness.registry, harness.sessions, 0, harness.now)
    return next(each for each in data["pools"] if each["name"] == name)


def opened(linked: LinkedWorker) -> int:
    con = linked.link.new_id()
    linked.say(Open(con, "h:1", "raw", "/", "h", "o", {}))
    return con


def test_connections_are_counted_by_kind_pool_and_listener() -> None:
    harness = Harness()
    linked = harness.worker()
    harness.raw()
    web = harness.websocket()
    harness.raw()
    opened(linked)
    found = {
        (each.kind, each.pool, each.listener, each.opened): (each.open, each.total)
        for each in harness.registry.totals.values()
    }
    assert found == {
        ("raw", "default", "", False): (2, 2),
        ("websocket", "default", "", False): (1, 1),
        ("raw", "default", "", True): (1, 1),
    }
    assert totals_of(harness, web).kind == "websocket"


def test_an_ended_connection_is_counted_once_by_its_cause() -> None:
    harness = Harness()
    con = harness.raw()
    totals = totals_of(harness, con)
    linked = harness.worker()
    linked.work()
    harness.hang_up(con)
    assert (totals.open, sum(totals.closed.values())) == (0, 1), "before its on_close is handled"
    linked.work()
    assert not harness.registry.entries
    assert (totals.open, totals.total, totals.closed) == (0, 1, {con.ending.cause: 1})


def test_a_connection_that_a_handler_closes_has_that_cause() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    totals = totals_of(harness, con)
    linked.work()
    linked.say(Close(con.id))
    linked.work()
    assert (totals.open, totals.closed) == (0, {"handler": 1})


def test_messages_are_counted_in_both_directions_and_other_events_are_not() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw(b"one")
    harness.say(con, b"two")
    totals = totals_of(harness, con)
    linked.work()
    totals.sum_up()
    assert (totals.events, totals.received, totals.sent) == (3, 2, 0), "one is an on_connect"
    linked.say(Send(con.id, b"a"), Send(con.id, b"b"), Send(con.id + 1, b"nowhere"))
    assert totals.sent == 2


def test_a_published_message_counts_for_each_member() -> None:
    harness = Harness()
    linked = harness.worker()
    cons = [harness.raw(), harness.raw(), harness.websocket()]
    linked.work()
    linked.say(*[Join(con.id, "room") for con in cons], Publish("room", b"x"))
    assert totals_of(harness, cons[0]).sent == 2
    assert totals_of(harness, cons[2]).sent == 1


def test_parked_events_and_their_age_are_known_without_a_worker() -> None:
    harness = Harness()
    con = harness.raw()
    harness.now += 3.0
    harness.say(con, b"more")
    harness.now += 2.0
    assert (pool(harness)["parked"], pool(harness)["longest_parked"]) == (3, 5.0)
    linked = harness.worker()
    assert (pool(harness)["parked"], pool(harness)["longest_parked"]) == (1, 2.0), (
        "half of the first window is for one connection"
    )
    assert (pool(harness)["in_flight"], pool(harness)["longest_in_flight"]) == (2, 0.0)
    linked.work()
    assert (pool(harness)["parked"], pool(harness)["longest_parked"]) == (0, 0.0)
    assert pool(harness)["acked"] == 3


def test_a_death_counts_the_events_that_are_given_out_again() -> None:
    harness = Harness()
    linked = harness.worker()
    harness.raw()
    harness.turn()
    harness.now += 1.0
    worker = linked.worker
    linked.ack(linked.events[0])
    harness.sessions.end(worker, harness.now, died=True)
    assert (pool(harness)["redelivered"], pool(harness)["acked"]) == (1, 1)
    assert pool(harness)["longest_parked"] == 1.0, "it came before it was given out"


def test_a_round_trip_is_that_of_the_last_event_that_found_its_worker_idle() -> None:
    harness = Harness()
    linked = harness.worker()
    harness.raw()
    harness.turn()
    harness.now += 0.25
    linked.ack()
    harness.turn()
    [told] = report(harness.registry, harness.sessions, 0, harness.now)["workers"]
    assert told["round_trip"] == 0.25


def test_the_longest_pause_is_that_of_the_first_connection_that_was_paused() -> None:
    harness = Harness(high_water_mark=1000)
    first, second = harness.raw(b""), harness.raw(b"")
    for con in (second, first):
        harness.registry.flow.now = harness.now
        harness.say(con, bytes(2000))
        harness.now += 5.0
    data = report(harness.registry, harness.sessions, 0, harness.now)
    assert (data["paused"], data["paused_longest"]) == (2, 10.0)
    harness.registry.forget(harness.registry.entries[second.id])
    data = report(harness.registry, harness.sessions, 0, harness.now)
    assert (data["paused"], data["paused_longest"]) == (1, 5.0)


def test_the_times_of_handlers_add_up_and_outlive_their_workers() -> None:
    harness = Harness()
    one, other = harness.worker(), harness.worker()
    one.say(Stats("on_message", 10, 0.5, 1, [3, 2]))
    other.say(Stats("on_message", 5, 0.25, 0, [0, 1, 1]), Stats("on_connect", 1, 0.125))
    harness.sessions.link_lost(one.worker, harness.now)
    rest = [0] * (len(HANDLER_BOUNDS) - 3)
    assert pool(harness)["handlers"] == {
        "on_message": {
            "calls": 15, "seconds": 0.75, "exceptions": 1, "slower": [3, 3, 1, *rest],
        },
        "on_connect": {"calls": 1, "seconds": 0.125, "exceptions": 0, "slower": [0, 0, 0, *rest]},
    }  # fmt: skip


def test_the_times_of_handlers_are_those_of_the_pool_of_their_worker() -> None:
    harness = Harness()
    harness.worker(pool="b").say(Stats("on_close", 2, 0.5))
    assert list(pool(harness, "b")["handlers"]) == ["on_close"]
    assert pool(harness)["handlers"] == {}


def test_figures_that_cannot_be_are_refused_and_change_nothing() -> None:
    harness = Harness()
    linked = harness.worker()
    assert "is not a handler" in linked.refused(Stats("on_mesage", 1, 1.0))
    assert "negative" in linked.refused(Stats("on_message", 1, 1.0, 0, [-1]))
    linked.say_raw(["stats", "on_message", "many", 1.0])
    assert pool(harness)["handlers"] == {}
    assert linked.refused(["stats", "on_message", 1, 1]) == ""
    assert pool(harness)["handlers"]["on_message"]["calls"] == 1


def test_the_times_of_handlers_in_another_pool_are_taken_over() -> None:
    one, other = PoolTotals(), PoolTotals()
    one.count(Stats("on_message", 2, 0.5, 1, [1]))
    other.count(Stats("on_message", 3, 0.25, 0, [1, 2]))
    other.count(Stats("on_close", 1, 0.125))
    one.add(other)
    figures = {name: (each.calls, each.slower[:2]) for name, each in one.handlers.items()}
    assert figures == {"on_message": (5, [2, 2]), "on_close": (1, [0, 0])}
    assert one.handlers["on_message"].seconds == 0.75
