"""The gateway as it is played: what a worker sends is judged, and never breaks it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wsraw.link import records as rec
from wsraw.testing import App
from wsraw.tools.conform import show
from wsraw.tools.conform.stage import ABOUT, Send, Stage

IDENTITY = b"\0worker"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
tags = st.sampled_from([struct.__struct_config__.tag for struct in rec.Command.__args__])
records = st.builds(lambda tag, fields: [tag, *fields], tags, st.lists(values, max_size=7))


def begun(window: int = 10) -> Stage:
    """A stage with a session, and two events in flight."""
    stage = Stage("p", lambda: "x", 5.0)
    stage.start()
    stage.receive(IDENTITY, [b""])
    stage.ask()
    stage.receive(IDENTITY, [rec.encode([0, rec.Hello(1, "p", "i", "test", "x", window, 1)])])
    stage.welcome()
    stage.message(stage.connect(), b"hello")
    stage.flush()
    assert not stage.watch.breaches
    return stage


def said(stage: Stage, *commands: Any, number: int | None = None) -> dict[str, str]:
    """What is wrong once that was said, by rule."""
    head = stage.session.number if number is None else number
    stage.receive(IDENTITY, [rec.encode([head, *commands])])
    return {rule: breach.why for rule, breach in stage.watch.breaches.items()}


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_of_a_worker_are_received_without_an_exception(frames: list[bytes]) -> None:
    begun().receive(IDENTITY, frames)


@given(st.lists(records | values, max_size=5), st.booleans())
def test_any_records_of_a_worker_are_received_without_an_exception(
    batch: list[Any], of_the_session: bool
) -> None:
    stage = begun()
    said(stage, *batch, number=stage.session.number if of_the_session else 0)


@given(records, st.data())
def test_any_damage_to_a_record_is_received_without_an_exception(
    record: list[Any], data: st.DataObject
) -> None:
    stage = begun()
    good = bytearray(rec.encode([stage.session.number, record]))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    stage.receive(IDENTITY, [bytes(good)])


@given(values)
def test_any_value_is_shown_within_the_longest_line(value: Any) -> None:
    assert len(show.record(value)) <= show.LONGEST
    assert len(show.batch(rec.encode(value))) <= show.LONGEST


def test_records_are_shown_as_text() -> None:
    con = 1 << rec.ID_EPOCH_SHIFT | 1
    data = rec.encode([7, rec.Send(con, "grün\0".encode(), "text"), rec.Ack(3, 3)])
    assert show.batch(data) == f'[7, [send, {con}, "grün\\x00", "text", true], [ack, 3, 3]]'
    assert show.record(rec.State(5, b"x" * 100)) == f'[state, 5, "{"x" * 40}…" (100)]'
    assert show.record(["attach", 5, None, b"", 0, {"a": [1.5]}]).endswith(
        'nil, "", 0, {"a": [1.5]}]'
    )
    assert show.batch(b"\xc1\x00") == "2 bytes: c1 00"


def test_on_connect_has_the_same_fields_as_from_a_gateway() -> None:
    """Else a worker that is called good misses something in a run."""
    seen: list[Any] = []
    with App(SimpleNamespace(on_connect=lambda inf, con: seen.append(con.about))) as app:
        app.websocket()
        app.raw("x")
    assert [set(about) for about in seen] == [set(ABOUT)] * 2


def test_no_more_events_are_sent_than_the_window_allows() -> None:
    stage = begun(window=2)
    con = stage.new_con()
    for _ in range(3):
        stage.message(con, b"more")
    stage.actions.clear()
    stage.flush()
    assert not stage.actions, "two are in flight"
    assert said(stage, rec.Ack(1, 1)) == {}
    assert len(stage.actions) == 1
    assert said(stage, rec.Ack(2, 3)) == {}
    assert len(stage.session.in_flight) == 2
    assert said(stage, rec.Ack(4, 5)) == {}
    assert stage.session.unfinished() is None


def test_queries_and_marks_of_a_worker_are_answered() -> None:
    stage = begun()
    stage.actions.clear()
    first = next(iter(stage.session.in_flight.values()))[2]
    assert said(stage, rec.Query(0, "ids"), rec.Query(1, "members", "g"), rec.Mark(first, 2)) == {}
    answers = [rec.decode_value(each.data)[1] for each in stage.actions if isinstance(each, Send)]
    (_, _, (low, high)), members, reached = answers
    assert (members, reached) == (["answer", 1, []], ["reached", first, 2])
    for con in (low, high):
        assert said(stage, rec.Open(con, "h:1")) == {}
    assert "good for one open" in said(stage, rec.Open(low, "h:1"))["ids"]


def test_a_batch_of_the_previous_session_is_dropped() -> None:
    stage = begun()
    old = stage.session.number
    stage.ask()
    assert said(stage, rec.Ack(1, 2), number=old) == {}
    assert "none" in said(stage, rec.Ack(1, 2), number=old + 100)["session"]
