"""The table by itself; what commands make of it is in test_commands.py and test_router.py."""

from __future__ import annotations

from stage import Stage, route_of

from wsraw import messages as m
from wsraw.gateway.connection import ConnectionState
from wsraw.gateway.table import ALIASES_KEPT


def test_ids_that_were_given_out_are_known_and_others_are_not() -> None:
    stage = Stage()
    table = stage.router
    con = stage.raw()
    base = table.epoch << m.ID_EPOCH_SHIFT
    assert table.find(con.id) is route_of(con)
    assert table.find(base) == f"connection {base} was never given out"
    assert isinstance(table.find(con.id + 1), str)
    assert isinstance(table.find((table.epoch + 1) << m.ID_EPOCH_SHIFT | 1), str)
    assert isinstance(table.find(-1), str)
    assert table.unknown_ids == 0
    table.forget(route_of(con))
    assert table.find(con.id) is None
    assert table.unknown_ids == 1


def test_ids_of_earlier_gateways_are_closed() -> None:
    table = Stage().router
    table.epoch = 3
    assert table.find(2 << m.ID_EPOCH_SHIFT | 99_999) is None
    assert isinstance(table.find(99), str), "epochs begin at 1"


def test_a_name_is_its_pools_alone_and_lasts_as_long_as_the_connection() -> None:
    stage = Stage()
    table = stage.router
    route = route_of(stage.websocket())
    table.give_name(route, "feed")
    assert table.standing(table.pool(), "feed") is route
    assert table.standing(table.pool("other"), "feed") is None
    table.close(route, 1000, "", "handler", stage.now)
    assert route.con.state is ConnectionState.CLOSING
    assert table.standing(table.pool(), "feed") is None, "on its way out"
    table.forget(route)
    assert not table._names


def test_who_has_got_the_name_meanwhile_keeps_it() -> None:
    stage = Stage()
    table = stage.router
    one, two = route_of(stage.raw()), route_of(stage.raw())
    table.give_name(one, "feed")
    table.give_name(two, "feed")
    table.forget(one)
    assert table.standing(table.pool(), "feed") is two


def test_aliases_lead_to_the_successor_and_end_with_the_name() -> None:
    stage = Stage()
    table = stage.router
    one, two = route_of(stage.raw()), route_of(stage.raw())
    table.give_name(one, "feed")
    table.alias(5, one)
    assert table.find(5) is one
    two.name = "feed"
    table.succeed(one, two)
    assert table.find(5) is two
    assert table.standing(table.pool(), "feed") is two
    table.forget(one)
    assert table.find(5) is two
    table.forget(two)
    assert isinstance(table.find(5), str)


def test_only_so_many_aliases_are_kept() -> None:
    stage = Stage()
    route = route_of(stage.raw())
    for asked in range(5, 5 + ALIASES_KEPT + 1):
        stage.router.alias(asked, route)
    unknown = [isinstance(stage.router.find(asked), str) for asked in (5, 6, ALIASES_KEPT + 5)]
    assert unknown == [True, False, False]


def test_who_comes_during_a_stop_is_not_read_from() -> None:
    stage = Stage()
    before = route_of(stage.raw())
    stage.router.stopping = True
    assert route_of(stage.raw()).pauses
    assert not before.pauses


def test_a_half_closed_connection_ends_when_its_events_are_handled() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.router.receive_eof(con, stage.now)
    stage.turn()
    assert [type(event) for event in mate.events] == [m.OnConnect, m.OnMessage]
    mate.ack()
    assert con.close_cause == "eof"


def test_a_mark_is_answered_when_its_bytes_are_written_or_never_will_be() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    mate.work()
    mate.say(m.Send(con.id, b"12345"), m.Mark(con.id, 1), m.Send(con.id, b"67"), m.Mark(con.id, 2))
    route = route_of(con)

    def reached() -> list[int]:
        stage.router.wrote(route)
        stage.turn()
        return [notice.ref for notice in mate.take(m.Reached)]

    route.written = 4
    assert reached() == []
    route.written = 5
    assert reached() == [1]
    stage.router.forget(route)
    stage.turn()
    assert [notice.ref for notice in mate.take(m.Reached)] == [2]
