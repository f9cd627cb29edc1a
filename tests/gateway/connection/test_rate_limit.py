from __future__ import annotations

from typing import Any

import pytest
from corpus import OFFER, UPGRADE, frame

from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.rate_limit import RatedConnection

HELLO = frame(0x81, b"hello")


def rated(protocol: Any = "any", **settings: Any) -> tuple[RatedConnection, dict[Any, None]]:
    con = RatedConnection.accepted(
        7, Listen(name="test", protocol=protocol), Settings(**settings), {}, 0.0
    )
    con.opened_events(0.0)
    overdrawn: dict[RatedConnection, None] = {}
    con.rate(overdrawn, 0.0)
    return con, overdrawn


def test_messages_above_the_rate_wait() -> None:
    con, overdrawn = rated(message_rate=10, rate_burst=2)
    con.receive_data(UPGRADE % b"" + HELLO * 20, 0.0)
    assert not overdrawn
    con.receive_data(HELLO * 5, 0.0)
    assert list(overdrawn) == [con]
    assert (con.owes, con.too_many) == (pytest.approx(0.5), "message_rate")


def test_messages_behind_the_handshake_count_once() -> None:
    con, _ = rated(message_rate=10, rate_burst=2)
    con.receive_data(UPGRADE % b"" + HELLO * 30, 0.0)
    assert con.owes == pytest.approx(1.0)


def test_reads_of_a_raw_connection_are_messages() -> None:
    con, overdrawn = rated("raw", message_rate=2)
    for _ in range(2):
        con.receive_data(b"x", 0.0)
    assert not overdrawn
    con.receive_data(b"x", 0.0)
    assert overdrawn


def test_bytes_above_the_rate_wait() -> None:
    con, overdrawn = rated("raw", byte_rate=1000, message_rate=1000)
    con.receive_data(bytes(1000), 0.0)
    assert not overdrawn
    con.receive_data(bytes(2000), 1.0)
    assert (con.owes, con.too_many) == (pytest.approx(1.0), "byte_rate")


def test_pings_count_as_bytes() -> None:
    con, overdrawn = rated(byte_rate=1000)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(frame(0x89, b"") * 200, 1.0)
    assert overdrawn


@pytest.mark.parametrize("head", [0x89, 0x8A, 0x00], ids=["pings", "pongs", "fragments"])
def test_frames_without_a_message_count_as_messages(head: int) -> None:
    con, overdrawn = rated(message_rate=10)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(frame(0x01, b""), 0.0)
    con.receive_data(frame(head, b"") * 30, 1.0)
    assert list(overdrawn) == [con]
    assert (con.owes, con.too_many) == (pytest.approx(2.0), "message_rate")


def test_a_flood_counts_as_it_is_parsed() -> None:
    con, _ = rated(message_rate=100)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(HELLO * 1000, 1.0)
    while con.has_more:
        con.resume(1.0)
    assert con.owes == pytest.approx(9.0)


def test_held_messages_count_when_they_are_parsed() -> None:
    con, overdrawn = rated(message_rate=10)
    con.receive_data(UPGRADE % OFFER, 0.0)
    con.pause(0.0)
    con.receive_data(HELLO * 30, 1.0)
    assert not overdrawn
    con.resume(1.0)
    assert con.owes == pytest.approx(2.0)


def test_a_connection_that_has_ended_is_not_delayed() -> None:
    con, overdrawn = rated(message_rate=1)
    con.receive_data(UPGRADE % b"" + HELLO * 30 + frame(0x88, b""), 0.0)
    assert not overdrawn
