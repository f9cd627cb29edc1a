"""The played gateway checks all data of a worker, and no data breaks it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.link.anything import commands, values
from wsraw.link import records as rec
from wsraw.testing import App
from wsraw.tools.conform import rendering
from wsraw.tools.conform.played_gateway import ABOUT, PlayedGateway

IDENTITY = b"\0worker"


class Outside:
    """Keeps the batches that the gateway sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def start(self, pool: str, token: str, instance: str) -> None:
        pass

    def kill(self) -> None:
        pass

    def send(self, identity: bytes, data: bytes) -> None:
        self.sent.append(data)

    def down(self) -> None:
        pass

    def up(self) -> None:
        pass

    def now(self) -> float:
        return 0.0

    def receive(self, gateway: PlayedGateway, seconds: float) -> None:
        pass


def begun(window: int = 10) -> tuple[PlayedGateway, list[bytes]]:
    """A gateway with a session and two events in flight, and the batches that it sends from now
    on.
    """
    outside = Outside()
    gateway = PlayedGateway(outside, "p", lambda: "x", 5.0)
    gateway.start()
    gateway.receive(IDENTITY, [b""])
    gateway.ask()
    gateway.receive(IDENTITY, [rec.encode([0, rec.Hello(1, "p", "i", "test", "x", window, 1)])])
    gateway.welcome()
    gateway.message(gateway.connect(), b"hello")
    gateway.flush()
    assert not gateway.rules.breaches
    outside.sent.clear()
    return gateway, outside.sent


def breaches(gateway: PlayedGateway, *commands: Any, number: int | None = None) -> dict[str, str]:
    """All broken rules after the worker has sent these commands."""
    head = gateway.session.number if number is None else number
    gateway.receive(IDENTITY, [rec.encode([head, *commands])])
    return {rule: breach.why for rule, breach in gateway.rules.breaches.items()}


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_of_a_worker_are_received_without_an_exception(frames: list[bytes]) -> None:
    begun()[0].receive(IDENTITY, frames)


@given(st.lists(commands | values, max_size=5), st.booleans())
def test_any_records_of_a_worker_are_received_without_an_exception(
    batch: list[Any], of_the_session: bool
) -> None:
    gateway, _ = begun()
    breaches(gateway, *batch, number=gateway.session.number if of_the_session else 0)


@given(commands, st.data())
def test_any_damage_to_a_record_is_received_without_an_exception(
    record: list[Any], data: st.DataObject
) -> None:
    gateway, _ = begun()
    good = bytearray(rec.encode([gateway.session.number, record]))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    gateway.receive(IDENTITY, [bytes(good)])


@given(values)
def test_any_value_is_shown_within_the_longest_line(value: Any) -> None:
    assert len(rendering.record(value)) <= rendering.LONGEST
    assert len(rendering.batch(rec.encode(value))) <= rendering.LONGEST


def test_records_are_shown_as_text() -> None:
    con = 1 << rec.ID_EPOCH_SHIFT | 1
    data = rec.encode([7, rec.Send(con, "grün\0".encode(), "text"), rec.Ack(3, 3)])
    assert rendering.batch(data) == f'[7, [send, {con}, "grün\\x00", "text", true], [ack, 3, 3]]'
    assert rendering.record(rec.State(5, b"x" * 100)) == f'[state, 5, "{"x" * 40}…" (100)]'
    assert rendering.record(["attach", 5, None, b"", 0, {"a": [1.5]}]).endswith(
        'nil, "", 0, {"a": [1.5]}]'
    )
    assert rendering.batch(b"\xc1\x00") == "2 bytes: c1 00"


def test_on_connect_has_the_same_fields_as_from_a_gateway() -> None:
    """Otherwise a worker that passes could miss a field in a real run."""
    seen: list[Any] = []
    with App(SimpleNamespace(on_connect=lambda inf, con: seen.append(con.about))) as app:
        app.websocket()
        app.raw("x")
    assert [set(about) for about in seen] == [set(ABOUT)] * 2


def test_no_more_events_are_sent_than_the_window_allows() -> None:
    gateway, sent = begun(window=2)
    con = gateway.new_con()
    for _ in range(3):
        gateway.message(con, b"more")
    gateway.flush()
    assert not sent, "two are in flight"
    assert breaches(gateway, rec.Ack(1, 1)) == {}
    assert len(sent) == 1
    assert breaches(gateway, rec.Ack(2, 3)) == {}
    assert len(gateway.session.in_flight) == 2
    assert breaches(gateway, rec.Ack(4, 5)) == {}
    assert gateway.session.unfinished() is None


def test_the_empty_message_may_come_again_before_and_in_a_session() -> None:
    gateway, sent = begun()
    gateway.receive(IDENTITY, [b""])
    assert breaches(gateway, rec.Ack(1, 2)) == {}
    gateway.stop()
    gateway.start()
    for _ in range(3):
        gateway.receive(b"\0other", [b""])
    assert not gateway.rules.breaches
    assert sent == []


def test_queries_and_marks_of_a_worker_are_answered() -> None:
    gateway, sent = begun()
    first = next(iter(gateway.session.in_flight.values()))[2]
    assert (
        breaches(gateway, rec.Query(0, "ids"), rec.Query(1, "members", "g"), rec.Mark(first, 2))
        == {}
    )
    answers = [rec.decode_value(data)[1] for data in sent]
    (_, _, (low, high)), members, reached = answers
    assert (members, reached) == (["answer", 1, []], ["reached", first, 2])
    for con in (low, high):
        assert breaches(gateway, rec.Open(con, "h:1")) == {}
    assert "good for one open" in breaches(gateway, rec.Open(low, "h:1"))["ids"]


def test_a_batch_of_the_previous_session_is_dropped() -> None:
    gateway, _ = begun()
    old = gateway.session.number
    gateway.ask()
    assert breaches(gateway, rec.Ack(1, 2), number=old) == {}
    assert "no session" in breaches(gateway, rec.Ack(1, 2), number=old + 100)["session"]
