"""The registry by itself; test_commands.py tests the commands that use it."""

from __future__ import annotations

from tests.corpus import frame
from tests.gateway.harness import Harness, entry_of
from wsraw.gateway.connection.connection import CLOSING, ConnectionState
from wsraw.gateway.delivery.registry import ALIASES_KEPT
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    Mark,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Reached,
    Send,
)


def test_only_ids_that_were_given_out_are_known() -> None:
    harness = Harness()
    registry = harness.registry
    con = harness.raw()
    base = registry.ids.epoch << ID_EPOCH_SHIFT
    assert registry.find(con.id) is entry_of(con)
    assert registry.find(base) == f"connection {base} was never given out"
    assert isinstance(registry.find(con.id + 1), str)
    assert isinstance(registry.find((registry.ids.epoch + 1) << ID_EPOCH_SHIFT | 1), str)
    assert isinstance(registry.find(-1), str)
    assert registry.unknown_ids == 0
    registry.forget(entry_of(con))
    assert registry.find(con.id) is None
    assert registry.unknown_ids == 1


def test_ids_of_earlier_gateways_are_closed() -> None:
    registry = Harness().registry
    registry.ids.epoch = 3
    assert registry.find(2 << ID_EPOCH_SHIFT | 99_999) is None
    assert isinstance(registry.find(99), str), "epochs begin at 1"


def test_a_name_belongs_to_one_pool_and_lasts_as_long_as_the_connection() -> None:
    harness = Harness()
    registry = harness.registry
    entry = entry_of(harness.websocket())
    registry.give_name(entry, "feed")
    assert registry.named(registry.pool(), "feed") is entry
    assert registry.named(registry.pool("other"), "feed") is None
    registry.close(entry, 1000, "", "handler", harness.now)
    assert entry.con.state is ConnectionState.CLOSING
    assert registry.named(registry.pool(), "feed") is None, "on its way out"
    registry.forget(entry)
    assert not registry._names


def test_a_name_that_was_taken_meanwhile_stays_with_its_holder() -> None:
    harness = Harness()
    registry = harness.registry
    one, two = entry_of(harness.raw()), entry_of(harness.raw())
    registry.give_name(one, "feed")
    registry.give_name(two, "feed")
    registry.forget(one)
    assert registry.named(registry.pool(), "feed") is two


def test_aliases_lead_to_the_successor_and_end_with_the_name() -> None:
    harness = Harness()
    registry = harness.registry
    one, two = entry_of(harness.raw()), entry_of(harness.raw())
    registry.give_name(one, "feed")
    registry.alias(5, one)
    assert registry.find(5) is one
    two.name = "feed"
    registry.succeed(one, two)
    assert registry.find(5) is two
    assert registry.named(registry.pool(), "feed") is two
    registry.forget(one)
    assert registry.find(5) is two
    registry.forget(two)
    assert isinstance(registry.find(5), str)


def test_only_so_many_aliases_are_kept() -> None:
    harness = Harness()
    entry = entry_of(harness.raw())
    for asked in range(5, 5 + ALIASES_KEPT + 1):
        harness.registry.alias(asked, entry)
    unknown = [isinstance(harness.registry.find(asked), str) for asked in (5, 6, ALIASES_KEPT + 5)]
    assert unknown == [True, False, False]


def test_a_connection_accepted_during_a_stop_is_not_read() -> None:
    harness = Harness()
    harness.registry.stop()
    assert entry_of(harness.raw()).pauses


def test_a_half_closed_connection_ends_when_its_events_are_handled() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.registry.receive_eof(con, harness.now)
    harness.turn()
    assert [type(event) for event in linked.events] == [OnConnect, OnMessage]
    linked.ack()
    assert con.ending.cause == "eof"


def test_frames_before_a_violation_are_answered_before_the_close() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    harness.turn()
    linked.ack()
    harness.say(con, frame(0x81, b"question") + frame(0x83, b""))
    harness.turn()
    (message,) = linked.events
    assert (con.state, con.output.size) == (CLOSING, 0)
    linked.ack(message, commands=(Send(con.id, b"answer"),))
    harness.turn()
    assert [type(event) for event in linked.events] == [OnError, OnClose]
    assert con.ending.cause == "protocol-error"
    assert harness.write(con) == b"\x82\x06answer\x88\x10\x03\xeainvalid opcode"


def test_a_violation_with_nothing_before_it_ends_the_connection_at_once() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    harness.turn()
    linked.ack()
    harness.say(con, frame(0x83, b""))
    assert con.ending.cause == "protocol-error"
    assert harness.write(con) == b"\x88\x10\x03\xeainvalid opcode"


def test_a_mark_is_answered_when_its_bytes_are_written_or_dropped() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    linked.say(Send(con.id, b"12345"), Mark(con.id, 1), Send(con.id, b"67"), Mark(con.id, 2))
    entry = entry_of(con)

    def reached() -> list[int]:
        harness.registry.wrote(entry)
        harness.turn()
        return [notice.ref for notice in linked.take(Reached)]

    entry.written = 4
    assert reached() == []
    entry.written = 5
    assert reached() == [1]
    harness.registry.forget(entry)
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 2, written=False)]


def test_a_mark_is_answered_when_its_connection_ends_whoever_handles_an_event_of_it() -> None:
    """The on_close waits for the handler that waits for the mark."""
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.say(Send(con.id, bytes(10)), Mark(con.id, 1))
    harness.turn()
    assert linked.take(Reached) == []
    harness.registry.take(con, con.lost("reset", harness.now), harness.now)
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 1, written=False)]
    linked.say(Mark(con.id, 2))
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 2, written=False)]
