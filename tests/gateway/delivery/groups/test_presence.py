"""on_join and on_leave: handlers of a connection are told of its groups."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.delivery.entry import EVENT_COST
from wsraw.gateway.delivery.groups.groups import MOST_PARKED
from wsraw.link.records import (
    Close,
    Join,
    Leave,
    OnClose,
    OnJoin,
    OnLeave,
    Publish,
)

BOTH = ("on_join", "on_leave")


def begin(*events: str, **settings: Any) -> tuple[Harness, LinkedWorker]:
    harness = Harness(**{"presence": ("room.*",), **settings})
    return harness, harness.worker(events=events)


def told(seen: list[Any]) -> list[Any]:
    """The events of presence, without their numbers."""
    named = {OnJoin: "join", OnLeave: "leave", OnClose: "close"}
    return [
        f"{named[type(event)]} {getattr(event, 'group', '')}".strip()
        for event in seen
        if type(event) in named
    ]


def test_a_join_and_a_leave_by_command_are_told_once() -> None:
    harness, linked = begin(*BOTH)
    con = harness.raw()
    linked.work()
    linked.say(Join(con.id, "room.1"), Join(con.id, "room.1"), Join(con.id, "hall"))
    linked.say(Leave(con.id, "room.1"), Leave(con.id, "room.1"), Leave(con.id, "hall"))
    linked.say(Join(con.id, "room.2"))
    assert told(linked.work()) == ["join room.1", "leave room.1", "join room.2"]


def test_a_connection_that_ends_leaves_just_before_its_on_close() -> None:
    harness, linked = begin(*BOTH)
    con, other = harness.raw(), harness.raw()
    linked.work()
    for each in (con, other):
        linked.say(Join(each.id, "room.2"), Join(each.id, "room.1"), Join(each.id, "hall"))
    linked.work()
    harness.hang_up(con)
    seen = linked.work()
    assert told(seen) == ["leave room.1", "leave room.2", "close"]
    assert {event.con for event in seen} == {con.id}
    linked.say(Publish("room.1", b"x"))
    assert harness.write(other) == b"x"
    assert not entry_of(other).gone


def test_a_member_that_is_leaving_gets_nothing_more_of_the_group() -> None:
    harness, linked = begin(*BOTH)
    con = harness.raw()
    linked.work()
    linked.say(Join(con.id, "room.1"))
    linked.work()
    linked.say(Close(con.id))
    harness.hang_up(con)
    harness.turn()
    assert not harness.registry.groups.members("room.1")
    assert told(linked.work())[-2:] == ["leave room.1", "close"]


def test_only_what_was_asked_for_is_told() -> None:
    for events, expected in (
        ((), ["close"]),
        (("on_join",), ["join room.1", "close"]),
        (("on_leave",), ["leave room.1", "close"]),
        (("on_join", "weather"), ["join room.1", "close"]),
    ):
        harness, linked = begin(*events)
        con = harness.raw()
        linked.work()
        linked.say(Join(con.id, "room.1"))
        seen = linked.work()
        harness.hang_up(con)
        assert told(seen + linked.work()) == expected
        assert harness.registry.flow.total == 0
        assert not harness.registry.entries


def test_without_the_setting_nothing_is_told() -> None:
    harness, linked = begin(*BOTH, presence=())
    con = harness.raw()
    linked.work()
    linked.say(Join(con.id, "room.1"))
    harness.hang_up(con)
    assert told(linked.work()) == ["close"]


def test_an_event_that_waits_is_dropped_for_a_worker_that_has_not_asked() -> None:
    """During a reload, for example, old workers do not have the handler yet."""
    harness, asks = begin(*BOTH)
    con = harness.raw()
    asks.work()
    harness.sessions.drain(asks.worker, 5.0)
    asks.say(Join(con.id, "room.1"))
    harness.turn()
    assert not asks.events
    plain = harness.worker()
    harness.say(con, b"more")
    seen = plain.work()
    assert told(seen) == []
    assert [event.data for event in seen] == [b"more"]
    assert harness.registry.flow.total == 0


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_half_closed_client_ends_when_what_it_waits_for_is_dropped(is_parked: bool) -> None:
    """Otherwise the connection would wait for its peer to close, which waits for us."""
    harness, asks = begin(*BOTH)
    plain = harness.worker()
    con = harness.raw()
    asks.work()
    plain.work()
    if is_parked:
        for linked in (asks, plain):
            harness.sessions.drain(linked.worker, 5.0)
    else:
        harness.sessions.drain(asks.worker, 5.0)
    asks.say(Join(con.id, "room.1"))
    harness.registry.receive_eof(con, harness.now)
    late = harness.worker() if is_parked else plain
    assert told(late.work()) == ["close"]
    assert con.state is CLOSED
    assert harness.registry.flow.total == 0


def test_an_event_is_delivered_again_if_its_worker_dies() -> None:
    harness, one = begin(*BOTH)
    con = harness.raw()
    one.work()
    one.say(Join(con.id, "room.1"))
    harness.turn()
    assert told(one.events) == ["join room.1"]
    two = harness.worker(events=BOTH)
    harness.sessions.end(one.worker, harness.now, died=True)
    harness.turn()
    (event,) = [each for each in two.events if type(each) is OnJoin]
    assert (event.group, event.delivery) == ("room.1", 2)


def test_events_that_a_handler_makes_have_a_bound() -> None:
    harness, linked = begin(*BOTH)
    con = harness.raw()
    linked.work()
    refused = ""
    for _ in range(MOST_PARKED):
        refused = linked.refused(Join(con.id, "room.1")) or linked.refused(Leave(con.id, "room.1"))
        if refused:
            break
    assert f"{MOST_PARKED} events of connection {con.id} wait already" in refused
    entry = entry_of(con)
    assert entry.event_bytes == EVENT_COST * (len(entry.parked) + entry.in_flight)
    linked.work()
    assert harness.registry.flow.total == 0
