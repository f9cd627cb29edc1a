from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import OFFER, UPGRADE, frame
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.rate_limit import Bucket, RateLimit

HELLO = frame(0x81, b"hello")


def rated(protocol: Any = "any", **fields: Any) -> tuple[Connection, RateLimit]:
    settings = Settings(**fields)
    con = accepted(7, Listen(name="test", protocol=protocol), settings, {}, 0.0)
    con.rate_limit = limit = RateLimit(settings, {}, 0.0)
    con.first_events(0.0)
    return con, limit


def test_messages_above_the_rate_wait() -> None:
    con, limit = rated(message_rate=10, rate_burst=2)
    con.receive_data(UPGRADE % b"" + HELLO * 20, 0.0)
    assert not limit.overdrawn
    con.receive_data(HELLO * 5, 0.0)
    assert list(limit.overdrawn) == [con.id]
    assert (limit.owes, limit.setting) == (pytest.approx(0.5), "message_rate")


def test_messages_behind_the_handshake_count_once() -> None:
    con, limit = rated(message_rate=10, rate_burst=2)
    con.receive_data(UPGRADE % b"" + HELLO * 30, 0.0)
    assert limit.owes == pytest.approx(1.0)


def test_reads_of_a_raw_connection_are_messages() -> None:
    con, limit = rated("raw", message_rate=2)
    for _ in range(2):
        con.receive_data(b"x", 0.0)
    assert not limit.overdrawn
    con.receive_data(b"x", 0.0)
    assert limit.overdrawn


def test_bytes_above_the_rate_wait() -> None:
    con, limit = rated("raw", byte_rate=1000, message_rate=1000)
    con.receive_data(bytes(1000), 0.0)
    assert not limit.overdrawn
    con.receive_data(bytes(2000), 1.0)
    assert (limit.owes, limit.setting) == (pytest.approx(1.0), "byte_rate")


@pytest.mark.parametrize("cuts", [1, 3])
def test_the_request_of_a_handshake_does_not_count(cuts: int) -> None:
    """With `rate_action=close`, a browser with long cookies was closed before it had sent a
    message.
    """
    con, limit = rated(byte_rate=100)
    head = UPGRADE % (b"Cookie: " + b"x" * 1000 + b"\r\n")
    for n in range(cuts):
        con.receive_data(head[len(head) * n // cuts : len(head) * (n + 1) // cuts], 0.0)
    con.receive_data(frame(0x82, bytes(90)), 0.0)
    assert not limit.overdrawn
    con.receive_data(frame(0x82, bytes(90)), 0.0)
    assert limit.overdrawn


@pytest.mark.parametrize("start", [b"", UPGRADE % b""], ids=["raw", "websocket"])
def test_what_comes_with_the_first_read_counts(start: bytes) -> None:
    con, limit = rated(byte_rate=100)
    con.receive_data(start + (frame(0x82, bytes(150)) if start else bytes(150)), 0.0)
    assert limit.owes == pytest.approx(0.5)


def test_pings_count_as_bytes() -> None:
    con, limit = rated(byte_rate=1000)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(frame(0x89, b"") * 200, 1.0)
    assert limit.overdrawn


@pytest.mark.parametrize("head", [0x89, 0x8A, 0x00], ids=["pings", "pongs", "fragments"])
def test_frames_without_a_message_count_as_messages(head: int) -> None:
    con, limit = rated(message_rate=10)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(frame(0x01, b""), 0.0)
    con.receive_data(frame(head, b"") * 30, 1.0)
    assert list(limit.overdrawn) == [con.id]
    assert (limit.owes, limit.setting) == (pytest.approx(2.0), "message_rate")


def test_a_flood_counts_as_it_is_parsed() -> None:
    con, limit = rated(message_rate=100)
    con.receive_data(UPGRADE % b"", 0.0)
    con.receive_data(HELLO * 1000, 1.0)
    while con.intake.has_more:
        con.resume(1.0)
    assert limit.owes == pytest.approx(9.0)


def test_held_messages_count_when_they_are_parsed() -> None:
    con, limit = rated(message_rate=10)
    con.receive_data(UPGRADE % OFFER, 0.0)
    con.pause(0.0)
    con.receive_data(HELLO * 30, 1.0)
    assert not limit.overdrawn
    con.resume(1.0)
    assert limit.owes == pytest.approx(2.0)


def test_a_connection_that_has_ended_is_not_delayed() -> None:
    con, limit = rated(message_rate=1)
    con.receive_data(UPGRADE % b"" + HELLO * 30 + frame(0x88, b""), 0.0)
    assert not limit.overdrawn


# --- the bucket ---


def test_a_bucket_gives_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(10.0, 20.0, 0.0)
    assert [bucket.take(1, 0.0) for _ in range(20)] == [0.0] * 20
    assert bucket.take(1, 0.0) == pytest.approx(0.1)
    assert bucket.take(1, 0.2) == 0.0
    assert bucket.take(5, 0.2) == pytest.approx(0.5)
    # However long the silence was, the bucket holds no more than a burst.
    assert bucket.take(20, 100.0) == 0.0
    assert bucket.take(1, 100.0) > 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100)), max_size=50))
def test_a_sender_that_waits_as_told_never_exceeds_the_rate(steps: list[tuple[float, int]]) -> None:
    bucket, now, taken = Bucket(10.0, 20.0, 0.0), 0.0, 0
    for pause, tokens in steps:
        now += pause
        wait = bucket.take(tokens, now)
        taken += tokens
        now += wait
        assert taken <= 20.0 + 10.0 * now + 1e-6
        assert wait <= tokens / 10.0 + 1e-6
