"""What a command does, and why it is refused; the way of a batch is in test_router.py."""

from __future__ import annotations

from typing import Any

import pytest
from stage import Stage, route_of

from wsraw import messages as m


def open_(con: int, **options: Any) -> m.Open:
    return m.Open(con, "h:1", "raw", "/", "h", "o", options)


def test_what_is_not_built_is_refused() -> None:
    assert Stage().worker().refused(m.Splice(1, 2)) == (
        "splice of connection 1: not built in this version"
    )


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (m.Publish("g", b"x", "raw"), "neither text nor binary"),
        (m.Publish("g", b"x", "text", {"except": "all"}), "a list of connection ids"),
        (m.Query(1, "everything"), "ask for ids or members"),
        (m.Send(3, b"x"), "was never given out"),
        (m.Join(3, "g"), "was never given out"),
        (m.Couple(3, 4), "was never given out"),
        (m.Mark(3, 1), "was never given out"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said(record: m.Record, why: str) -> None:
    assert why in Stage().worker().refused(record)


def test_a_state_is_taken_from_who_handles_an_event_and_no_one_else() -> None:
    stage = Stage()
    mate, other = stage.worker(), stage.worker()
    con = stage.raw()
    stage.turn()
    holder, stranger = (mate, other) if mate.events else (other, mate)
    assert "only while an event" in stranger.refused(m.State(con.id, b"stolen"))
    assert holder.refused(m.State(con.id, b"x" * (m.STATE_LIMIT + 1))).startswith("state of")
    assert holder.refused(m.State(con.id, b"mine")) == ""
    assert (route_of(con).state, route_of(con).version) == (b"mine", 1)
    holder.ack()
    assert "only while an event" in holder.refused(m.State(con.id, b"late"))


def test_an_id_opens_one_connection() -> None:
    stage = Stage()
    mate = stage.worker()
    con = mate.link.new_id()
    assert mate.refused(open_(con)) == ""
    assert "opened before" in mate.refused(open_(con))
    assert "not of this session's range" in mate.refused(open_(con + 1_000_000))
    assert "must be a string" in mate.refused(open_(mate.link.new_id(), name=5))


def test_a_name_that_stands_is_not_opened_again() -> None:
    stage = Stage()
    mate = stage.worker()
    first, second = mate.link.new_id(), mate.link.new_id()
    mate.say(open_(first, name="feed"), open_(second, name="feed"))
    stage.turn()
    [opened] = mate.take(m.Opened)
    assert (opened.asked, opened.con) == (second, first)
    assert [route.id for route in stage.router.to_dial] == [first]


def test_whose_a_connection_is() -> None:
    """Outside any event and without a name it ends with its worker."""
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    ids = [mate.link.new_id() for _ in range(3)]
    mate.say(open_(ids[0]), open_(ids[1], name="feed"), open_(ids[2], during=con.id))
    routes = stage.router.routes
    assert [routes[n].owner is mate.end for n in ids] == [True, False, False]
    assert routes[ids[2]].couples == {route_of(con)}
    assert not routes[ids[0]].couples


def test_members_and_ids_are_told() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    mate.say(m.Join(con.id, "g"), m.Query(1, "members", "g"), m.Query(2, "members", "none"))
    mate.say(m.Leave(con.id, "g"), m.Query(3, "members", "g"), m.Query(4, "ids"))
    stage.turn()
    answers = {answer.ref: answer.value for answer in mate.take(m.Answer)}
    assert [answers[n] for n in (1, 2, 3)] == [[con.id], [], []]
    first, last = answers[4]
    assert mate.refused(open_(last)) == ""
    assert mate.refused(open_(first)) == ""


def test_what_is_closed_already_is_no_mistake() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.hang_up(con)
    mate.work()
    for record in (m.Send(con.id, b"x"), m.Close(con.id, 1000, ""), m.Join(con.id, "g")):
        assert mate.refused(record) == ""
    assert stage.router.unknown_ids == 3
    assert mate.refused(m.Mark(con.id, 9)) == ""
    stage.turn()
    assert [reached.ref for reached in mate.take(m.Reached)] == [9]
