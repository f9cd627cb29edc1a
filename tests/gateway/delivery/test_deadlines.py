from __future__ import annotations

from typing import Any

from stage import Mate, Stage, entry_of

from wsraw.gateway.connection.connection import CLOSED, CLOSING, OPEN, Connection
from wsraw.link.records import Join, OnError, Publish, Send


def begin(**settings: Any) -> tuple[Stage, Mate, Connection]:
    stage = Stage(ping_interval=0.0, **settings)
    mate = stage.worker()
    con = stage.websocket()
    mate.work()
    return stage, mate, con


def send(mate: Mate, con: Connection, data: bytes = b"x" * 1000) -> None:
    mate.say(Send(con.id, data, "binary"))
    mate.stage.write(con, 0)


# --- slow readers ---


def test_output_without_progress_closes_the_connection_in_time() -> None:
    stage, mate, con = begin(write_timeout=60.0)
    send(mate, con)
    stage.run(59)
    assert con.state is OPEN
    stage.run(3)
    assert con.state is not OPEN
    stage.write(con)
    con.handle_timeout(1000.0)
    closes = [event for event in mate.work() if type(event) is OnError]
    assert [event.message for event in closes] == ["nothing was read from it for 60 s"]
    assert con.ending.cause == "write-timeout"
    assert stage.registry.counters.counts == {"write_timeout": 1}


def test_a_little_output_now_and_then_is_progress() -> None:
    stage, mate, con = begin(write_timeout=60.0)
    send(mate, con)
    for _ in range(5):
        stage.run(50)
        stage.write(con, 1)
    assert con.state is OPEN


def test_the_write_timeout_begins_anew_when_all_output_was_written() -> None:
    stage, mate, con = begin(write_timeout=60.0)
    for _ in range(5):
        send(mate, con)
        stage.run(50)
        stage.write(con)
        stage.run(100)
    assert con.state is OPEN


def test_dropped_output_is_not_progress() -> None:
    stage, mate, con = begin(
        write_timeout=60.0, overflow="drop-oldest", output_limit=400_000, high_water_mark=300_000
    )
    mate.say(Join(con.id, "g"))
    while not stage.registry.outgoing.dropped:
        mate.say(Publish("g", bytes(50_000), "binary"))
        stage.write(con, 0)
    for _ in range(7):
        mate.say(Publish("g", bytes(50_000), "binary"))
        stage.write(con, 0)
        stage.run(10)
    assert con.ending.cause == "write-timeout"


def test_with_write_timeout_0_a_connection_stays() -> None:
    stage, mate, con = begin(write_timeout=0.0)
    send(mate, con)
    stage.run(10_000)
    assert con.state is OPEN


# --- idleness ---


def test_an_idle_connection_is_closed_in_time() -> None:
    stage, mate, con = begin(idle_timeout=60.0)
    stage.run(55)
    assert con.state is OPEN
    stage.run(20)
    assert con.state is CLOSING
    assert b"".join(con.output.chunks)[2:4] == (1001).to_bytes(2)
    assert stage.registry.counters.counts == {"idle_timeout": 1}
    raw = stage.raw()
    mate.work()
    stage.run(80)
    assert (raw.state, raw.ending.code, raw.ending.cause) == (CLOSED, 1001, "idle-timeout")
    assert not raw.output.ends_with_reset


def test_data_in_either_direction_ends_idleness() -> None:
    stage, mate, con = begin(idle_timeout=60.0)
    raw = stage.raw()
    for n in range(10):
        mate.work()
        stage.run(50)
        if n % 2:
            stage.say(raw, b"x")
            mate.say(Send(con.id, b"x", "text"))
        else:
            mate.say(Send(raw.id, b"x", "raw"), Join(con.id, "g"))
            mate.say(Publish("g", b"x", "text"))
        stage.write(raw)
        stage.write(con)
    assert (con.state, raw.state) == (OPEN, OPEN)


def test_a_ping_does_not_end_idleness() -> None:
    stage, _, con = begin(idle_timeout=60.0)
    for _ in range(8):
        stage.run(10)
        stage.say(con, b"\x89\x80\0\0\0\0")
        stage.write(con)
    assert con.state is CLOSING


def test_a_connection_whose_event_is_being_handled_is_not_idle() -> None:
    stage, mate, con = begin(idle_timeout=60.0, handler_timeout=0.0)
    stage.say(con, b"\x81\x80\0\0\0\0")
    stage.turn()
    stage.run(500)
    assert con.state is OPEN
    mate.work()
    stage.run(80)
    assert con.state is CLOSING


def test_by_default_an_idle_connection_stays() -> None:
    stage, _, con = begin()
    stage.run(100_000)
    assert con.state is OPEN
    assert not entry_of(con).gone
