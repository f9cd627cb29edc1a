"""The effect of each command, and why it is refused; test_batches.py has the way of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import HANDSHAKE, Harness, entry_of
from wsraw.gateway.delivery.pools.timers import PoolTimers
from wsraw.gateway.sessions.commands import Commands
from wsraw.gateway.splices.splices import Splices
from wsraw.link.records import (
    STATE_LIMIT,
    Accept,
    Answer,
    Close,
    Couple,
    Hung,
    Join,
    Leave,
    Mark,
    Open,
    Opened,
    Publish,
    Query,
    Reached,
    Record,
    Refused,
    Reject,
    Send,
    Splice,
    State,
)


def open_(con: int, **options: Any) -> Open:
    return Open(con, "h:1", "raw", "/", "h", "o", options)


def test_what_is_not_a_command_is_refused() -> None:
    registry = Harness().registry
    commands = Commands(
        registry,
        Splices(registry),
        lambda worker, now: None,
        lambda worker, seq: "not in a canary",
        PoolTimers(),
    )
    worker = Harness().worker().worker
    assert commands.apply(worker, Hung(1, 2), 0.0) == "not supported in this version"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Publish("g", b"x", "raw"), "neither text nor binary"),
        (Publish("g", b"x", "text", {"except": "all"}), "a list of connection ids"),
        (
            Query(1, "everything"),
            "ask for ids, members, count, buffered, turn, user_connections, users",
        ),
        (Send(3, b"x"), "was never given out"),
        (Join(3, "g"), "was never given out"),
        (Couple(3, 4), "was never given out"),
        (Splice(3, 4), "was never given out"),
        (Mark(3, 1), "was never given out"),
    ],
    ids=str,
)
def test_an_impossible_command_is_refused_with_its_reason(record: Record, why: str) -> None:
    assert why in Harness().worker().refused(record)


def test_a_state_is_taken_only_from_the_worker_that_handles_the_connection() -> None:
    harness = Harness()
    linked, other = harness.worker(), harness.worker()
    con = harness.raw()
    harness.turn()
    holder, other = (linked, other) if linked.events else (other, linked)
    assert "only while an event" in other.refused(State(con.id, b"stolen"))
    assert holder.refused(State(con.id, b"x" * (STATE_LIMIT + 1))).startswith("state of")
    assert holder.refused(State(con.id, b"mine")) == ""
    assert (entry_of(con).state, entry_of(con).version) == (b"mine", 1)
    holder.ack()
    assert "only while an event" in holder.refused(State(con.id, b"late"))


def test_an_id_opens_one_connection() -> None:
    harness = Harness()
    linked = harness.worker()
    con = linked.link.new_id()
    assert linked.refused(open_(con)) == ""
    assert "opened before" in linked.refused(open_(con))
    assert "not of this session's range" in linked.refused(open_(con + 1_000_000))
    assert "must be a string" in linked.refused(open_(linked.link.new_id(), name=5))


def test_an_open_name_is_not_opened_again() -> None:
    harness = Harness()
    linked = harness.worker()
    first, second = linked.link.new_id(), linked.link.new_id()
    linked.say(open_(first, name="feed"), open_(second, name="feed"))
    harness.turn()
    [opened] = linked.take(Opened)
    assert (opened.asked, opened.con) == (second, first)
    assert [entry.id for entry in harness.registry.to_dial] == [first]


def test_a_connection_belongs_to_its_opener_or_to_the_event_that_opened_it() -> None:
    """A connection that is opened outside any event and without a name ends with its worker."""
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    ids = [linked.link.new_id() for _ in range(3)]
    linked.say(open_(ids[0]), open_(ids[1], name="feed"), open_(ids[2], during=con.id))
    entries = harness.registry.entries
    assert [entries[n].owner is linked.worker for n in ids] == [True, False, False]
    assert entries[ids[2]].couples == {entry_of(con)}
    assert not entries[ids[0]].couples


def test_queries_for_members_and_ids_are_answered() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.say(Join(con.id, "g"), Query(1, "members", "g"), Query(2, "members", "none"))
    linked.say(Leave(con.id, "g"), Query(3, "members", "g"), Query(4, "ids"))
    harness.turn()
    answers = {answer.ref: answer.value for answer in linked.take(Answer)}
    assert [answers[n] for n in (1, 2, 3)] == [[con.id], [], []]
    first, last = answers[4]
    assert linked.refused(open_(last)) == ""
    assert linked.refused(open_(first)) == ""


def test_commands_for_a_closed_connection_are_ignored() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.hang_up(con)
    linked.work()
    for record in (Send(con.id, b"x"), Close(con.id, 1000, ""), Join(con.id, "g")):
        assert linked.refused(record) == ""
    assert harness.registry.unknown_ids == 3
    assert linked.refused(Mark(con.id, 9)) == ""
    harness.turn()
    assert [reached.ref for reached in linked.take(Reached)] == [9]


@pytest.mark.parametrize(
    "record",
    [
        Query(7, "everything"),
        Query(7, "buffered", "", 3),
        Mark(3, 7),
        Join(3, "g", None, 7),
        Join(3, "g", "", 7),
    ],
    ids=str,
)
def test_whoever_asks_is_told_that_no_answer_comes(record: Record) -> None:
    linked = Harness().worker()
    linked.say_raw(record)
    linked.harness.turn()
    assert [(refused.ref, bool(refused.why)) for refused in linked.take(Refused)] == [(7, True)]


def test_a_client_that_is_rejected_too_late_is_closed() -> None:
    """The worker handles no more events of the client."""
    harness = Harness(verdict="handlers")
    linked = harness.worker()
    con = harness.raw(HANDSHAKE)
    harness.turn()
    linked.ack(commands=(Accept(con.id),))
    harness.write(con)
    assert "has been decided on" in linked.refused(Reject(con.id, 401, "who"))
    assert harness.write(con) == b"\x88\x05\x03\xf0who"
