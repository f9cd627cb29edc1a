from __future__ import annotations

from typing import Any

import pytest

from tests.corpus import frame
from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import CLOSED, CLOSING, OPEN, Connection
from wsraw.link.records import Couple, Join, OnError, Publish, Send


def begin(**settings: Any) -> tuple[Harness, LinkedWorker, Connection]:
    harness = Harness(ping_interval=0.0, **settings)
    linked = harness.worker()
    con = harness.websocket()
    linked.work()
    return harness, linked, con


def send(linked: LinkedWorker, con: Connection, data: bytes = b"x" * 1000) -> None:
    linked.say(Send(con.id, data, "binary"))
    linked.harness.write(con, 0)


# --- slow readers ---


def test_output_without_progress_closes_the_connection_in_time() -> None:
    harness, linked, con = begin(write_timeout=60.0)
    send(linked, con)
    harness.run(59)
    assert con.state is OPEN
    harness.run(3)
    assert con.state is not OPEN
    harness.write(con)
    con.handle_timeout(1000.0)
    closes = [event for event in linked.work() if type(event) is OnError]
    assert [event.message for event in closes] == ["the peer has read nothing for 60 s"]
    assert con.ending.cause == "write-timeout"
    assert harness.registry.counters.counts == {"write_timeout": 1}


def test_a_little_output_now_and_then_is_progress() -> None:
    harness, linked, con = begin(write_timeout=60.0)
    send(linked, con)
    for _ in range(5):
        harness.run(50)
        harness.write(con, 1)
    assert con.state is OPEN


def test_output_that_comes_on_in_the_kernel_is_progress() -> None:
    """The kernel takes no more bytes before a third of its buffer is free."""
    harness, linked, con = begin(write_timeout=60.0)
    left = 2_000_000
    harness.deadlines.undelivered = lambda con: left
    send(linked, con, bytes(1000))
    for _ in range(20):
        harness.run(10)
        left -= 20_000
    assert con.state is OPEN
    # Up to half of the timeout may pass before the last progress is noticed.
    harness.run(92)
    assert con.ending.cause == "write-timeout"


def test_output_that_stays_in_the_kernel_is_no_progress() -> None:
    harness, linked, con = begin(write_timeout=60.0)
    harness.deadlines.undelivered = lambda con: 2_000_000
    send(linked, con, bytes(1000))
    harness.run(59)
    assert con.state is OPEN
    harness.run(3)
    assert con.ending.cause == "write-timeout"


def test_nothing_is_kept_of_output_that_the_kernel_has_taken_in_the_end() -> None:
    harness, linked, con = begin(write_timeout=60.0)
    harness.deadlines.undelivered = lambda con: 2_000_000
    send(linked, con, bytes(1000))
    harness.run(40)
    assert harness.deadlines._delivered
    harness.write(con)
    harness.run(1)
    assert not harness.deadlines._delivered


def test_the_write_timeout_begins_anew_when_all_output_was_written() -> None:
    harness, linked, con = begin(write_timeout=60.0)
    for _ in range(5):
        send(linked, con)
        harness.run(50)
        harness.write(con)
        harness.run(100)
    assert con.state is OPEN


def test_dropped_output_is_not_progress() -> None:
    harness, linked, con = begin(
        write_timeout=60.0, overflow="drop-oldest", output_limit=400_000, high_water_mark=300_000
    )
    linked.say(Join(con.id, "g"))
    while not harness.registry.outgoing.dropped:
        linked.say(Publish("g", bytes(50_000), "binary"))
        harness.write(con, 0)
    for _ in range(7):
        linked.say(Publish("g", bytes(50_000), "binary"))
        harness.write(con, 0)
        harness.run(10)
    assert con.ending.cause == "write-timeout"


def test_with_write_timeout_0_a_connection_stays() -> None:
    harness, linked, con = begin(write_timeout=0.0)
    send(linked, con)
    harness.run(10_000)
    assert con.state is OPEN


# --- pauses ---


@pytest.mark.parametrize("paused", ["reader", "partner"])
def test_a_pause_for_output_does_not_count_while_its_client_reads(paused: str) -> None:
    """So a download may take any time."""
    harness, linked, con = begin(pause_timeout=20.0)
    other = harness.raw()
    linked.work()
    linked.say(Couple(con.id, other.id), Send(con.id, bytes(3 << 20), "binary"))
    harness.write(con, 0)
    entry = entry_of(con if paused == "reader" else other)
    for _ in range(20):
        harness.run(10)
        harness.write(con, 1000)
        assert entry.pauses
    harness.run(10)
    assert (con.state, other.state) == (OPEN, OPEN)


@pytest.mark.parametrize("paused", ["reader", "partner"])
def test_a_pause_for_output_that_is_not_read_closes_the_connection(paused: str) -> None:
    harness, linked, con = begin(pause_timeout=20.0, write_timeout=0.0)
    other = harness.raw()
    linked.work()
    linked.say(Couple(con.id, other.id), Send(con.id, bytes(3 << 20), "binary"))
    harness.write(con, 1000)
    harness.run(25)
    assert (con if paused == "reader" else other).ending.cause == "stalled"


def test_a_pause_counts_while_handlers_are_too_slow_also_if_the_client_reads() -> None:
    harness, linked, con = begin(pause_timeout=20.0, handler_timeout=0.0)
    linked.say(Send(con.id, bytes(3 << 20), "binary"))
    harness.say(con, frame(0x82, bytes(100_000)))
    harness.turn()
    for _ in range(3):
        harness.write(con, 1000)
        harness.run(10)
    assert con.ending.cause == "stalled"


# --- idleness ---


def test_an_idle_connection_is_closed_in_time() -> None:
    harness, linked, con = begin(idle_timeout=60.0)
    harness.run(55)
    assert con.state is OPEN
    harness.run(20)
    assert con.state is CLOSING
    assert b"".join(con.output.chunks)[2:4] == (1001).to_bytes(2)
    assert harness.registry.counters.counts == {"idle_timeout": 1}
    raw = harness.raw()
    linked.work()
    harness.run(80)
    assert (raw.state, raw.ending.code, raw.ending.cause) == (CLOSED, 1001, "idle-timeout")
    assert not raw.output.ends_with_reset


def test_data_in_either_direction_ends_idleness() -> None:
    harness, linked, con = begin(idle_timeout=60.0)
    raw = harness.raw()
    for n in range(10):
        linked.work()
        harness.run(50)
        if n % 2:
            harness.say(raw, b"x")
            linked.say(Send(con.id, b"x", "text"))
        else:
            linked.say(Send(raw.id, b"x", "raw"), Join(con.id, "g"))
            linked.say(Publish("g", b"x", "text"))
        harness.write(raw)
        harness.write(con)
    assert (con.state, raw.state) == (OPEN, OPEN)


def test_a_ping_does_not_end_idleness() -> None:
    harness, _, con = begin(idle_timeout=60.0)
    for _ in range(8):
        harness.run(10)
        harness.say(con, b"\x89\x80\0\0\0\0")
        harness.write(con)
    assert con.state is CLOSING


def test_a_connection_whose_event_is_being_handled_is_not_idle() -> None:
    harness, linked, con = begin(idle_timeout=60.0, handler_timeout=0.0)
    harness.say(con, b"\x81\x80\0\0\0\0")
    harness.turn()
    harness.run(500)
    assert con.state is OPEN
    linked.work()
    harness.run(80)
    assert con.state is CLOSING


def test_by_default_an_idle_connection_stays() -> None:
    harness, _, con = begin()
    harness.run(100_000)
    assert con.state is OPEN
    assert not entry_of(con).gone
