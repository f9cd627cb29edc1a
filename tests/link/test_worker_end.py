from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import wsraw.link.worker_end as worker_end_module
from tests.deadline import UNIT
from tests.link.ends import CON, SESSION, WELCOME, hello, ready_worker, sent, to_worker, worker_end
from wsraw.link import records as rec
from wsraw.link.batches import (
    EVENT_LIMIT,
    LARGEST_BATCH,
    LARGEST_REMOTE_BATCH,
    RECORD_COST,
    ROOM_FOR_ACKS,
)
from wsraw.link.gateway_end import GatewayEnd, refusal, who
from wsraw.link.states import LinkState
from wsraw.link.window import LARGEST_WINDOW
from wsraw.link.worker_end import IDS_LOW, Outbox, WorkerEnd

# --- the life of a session ---

EVENT = rec.OnMessage(1, CON, b"x", "raw")


def asked(end: WorkerEnd) -> object:
    return end.receive(who())


def welcome(end: WorkerEnd) -> object:
    return end.receive(to_worker(WELCOME))


def drain(end: WorkerEnd) -> object:
    return end.receive(to_worker(rec.Drain(1.0), session=end.session or SESSION))


def bye(end: WorkerEnd) -> object:
    return end.bye()


N, R, D, G = LinkState.NEW, LinkState.READY, LinkState.DRAINING, LinkState.GONE

LISTED = {
    (N, welcome): R,
    (R, welcome): R,
    (R, asked): N,
    (R, drain): D,
    (R, bye): G,
    (D, asked): N,
    (D, welcome): R,
    (D, bye): G,
}
"""All moves; in every other pair of state and step the state stays."""

STEPS = (asked, welcome, drain, bye)


def worker_in(state: LinkState) -> WorkerEnd:
    if state is N:
        return worker_end()
    end = ready_worker()
    if state is D:
        drain(end)
    elif state is G:
        bye(end)
    assert end.state is state
    return end


@pytest.mark.parametrize(("state", "step"), LISTED)
def test_every_listed_transition_leads_to_its_state(
    state: LinkState, step: Callable[[WorkerEnd], object]
) -> None:
    end = worker_in(state)
    step(end)
    assert end.state is LISTED[state, step]


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (state, step)
        for state in LinkState
        for step in STEPS
        if (state, step) not in LISTED and (state, step) != (N, bye)
    ],
)
def test_events_outside_the_table_change_no_state(
    state: LinkState, step: Callable[[WorkerEnd], object]
) -> None:
    end = worker_in(state)
    step(end)
    assert end.state is state


def test_a_who_after_bye_is_not_answered() -> None:
    """The gateway forgets a session that has said bye, and must not start another one by its
    `who`.
    """
    end = ready_worker()
    end.bye()
    assert sent(end) == [SESSION, rec.Bye()]
    end.receive(who())
    assert sent(end) is None


def test_a_worker_that_says_bye_unasked_says_no_hello() -> None:
    end = worker_end()
    end.receive(who())
    end.bye()
    assert not any(isinstance(record, rec.Hello) for record in sent(end) or ())
    assert end.state is G


# --- the dialog ---


def test_a_who_is_answered_once_with_hello() -> None:
    end = worker_end(window=50, concurrency=3)
    assert sent(end) is None
    end.receive(who())
    assert sent(end) == [0, rec.Hello(1, "p", "i", "l", "t", 50, 3, [])]
    assert sent(end) is None


def test_the_hello_lists_the_connections_that_are_held() -> None:
    end = ready_worker()
    end.receive(
        to_worker(
            rec.OnConnect(1, CON, {}),
            rec.Attach(CON + 1, None, b"", 0),
            rec.Attach(CON + 2, {}, b"", 0),
            rec.Detach(CON + 1),
        )
    )
    own = end.new_id()
    end.receive(who())
    assert sent(end) == [0, hello(held=sorted([CON, CON + 2, own]))]


def test_a_connection_whose_end_was_handled_is_no_longer_held() -> None:
    """If the gateway died before its detach arrived, the next gateway would send the on_close
    again.
    """
    end = ready_worker()
    other = CON + 1
    end.receive(to_worker(rec.OnConnect(1, CON, {}), rec.OnConnect(2, other, {})))
    [event] = end.receive(to_worker(rec.OnClose(3, CON, 1000, "", "peer")))
    assert end.held == {CON, other}, "not yet handled"
    end.done(end.outbox(event))
    assert end.held == {other}


def test_an_end_that_was_handled_too_late_is_reported_again() -> None:
    end = ready_worker()
    [event] = end.receive(to_worker(rec.OnClose(3, CON, 1000, "", "peer")))
    outbox = end.outbox(event)
    end.receive(who())
    assert not end.done(outbox)
    assert end.held == {CON}


@pytest.mark.parametrize(
    "event", [rec.OnError(1, CON, "refused"), rec.OnClose(1, CON, 1006, "", "connect-failed")]
)
def test_a_connection_known_from_any_event_is_held(event: rec.Event) -> None:
    end = ready_worker()
    end.receive(to_worker(event))
    end.receive(who())
    assert sent(end) == [0, hello(held=[CON])]


def test_a_question_older_than_the_session_is_not_answered() -> None:
    end = ready_worker()
    end.receive(who())
    end.receive(to_worker(rec.Welcome(1, SESSION + 1, 1, 100, 5000, 10), session=SESSION + 1))
    assert end.session == SESSION + 1
    assert end.data_to_send() is None


def test_events_and_notices_are_passed_on_in_order() -> None:
    end = ready_worker()
    records = [
        rec.Attach(CON, {}, b"s", 1),
        EVENT,
        rec.OnClose(2, CON, 1000, "", "peer"),
        rec.Detach(CON),
    ]
    assert end.receive(to_worker(*records)) == records
    assert end.receive(to_worker(EVENT, EVENT)) == [EVENT, EVENT]


def test_welcome_is_passed_on() -> None:
    assert worker_end().receive(to_worker(WELCOME)) == [WELCOME]


@pytest.mark.parametrize("session", [0, SESSION - 1, SESSION + 1])
def test_a_batch_of_another_session_is_dropped(session: int) -> None:
    end = ready_worker()
    assert end.receive(to_worker(EVENT, session=session)) == []
    assert end.receive(to_worker(rec.OnConnect(1, CON, {}), session=session)) == []
    assert end.held == set()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", rec.encode([True]), b"\x91" * 10_000])
def test_a_worker_survives_bytes_that_are_not_a_batch(data: bytes) -> None:
    end = ready_worker()
    assert end.receive(data) == []
    assert end.state is R


def test_an_unknown_notice_is_ignored() -> None:
    end = ready_worker()
    assert end.receive(rec.encode([SESSION, ["a later version's"], EVENT])) == [EVENT]


def test_a_refusal_reaches_a_worker_without_a_session() -> None:
    [refused] = worker_end().receive(refusal("wrong token"))
    assert refused == rec.Refused(0, 0, "wrong token")


# --- outboxes ---


def test_commands_travel_with_their_ack() -> None:
    end = ready_worker()
    outbox = end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"a"))
    assert sent(end) is None, "the handler has not returned"
    assert end.done(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"a"), rec.Ack(1, 1)]
    assert sent(end) is None


def test_acks_in_a_row_are_one_record() -> None:
    end = ready_worker()
    for seq in (4, 5, 6, 9, 8, 10):
        end.done(Outbox(SESSION, rec.OnError(seq, 1, "")))
    assert sent(end) == [SESSION, rec.Ack(4, 6), rec.Ack(9, 9), rec.Ack(8, 8), rec.Ack(10, 10)]


def test_a_record_that_cannot_be_encoded_costs_its_event_all_that_it_commands() -> None:
    end = ready_worker()
    for seq in (4, 5, 6):
        outbox = Outbox(SESSION, rec.OnError(seq, CON, ""))
        outbox.records = [rec.Send(CON, b"%d" % seq), rec.Join(CON, object() if seq == 5 else "g")]  # type: ignore[arg-type]
        end.done(outbox)
    end.command(rec.Leave(CON, "\ud800"))
    end.bye()
    with pytest.warns(RuntimeWarning, match="(join|leave) cannot be encoded"):
        assert sent(end) == [
            SESSION,
            *(rec.Send(CON, b"4"), rec.Join(CON, "g"), rec.Send(CON, b"6"), rec.Join(CON, "g")),
            *(rec.Ack(4, 6), rec.Bye()),
        ]
    assert sent(end) is None


def test_records_are_kept_until_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    end = ready_worker()
    end.command(rec.Send(CON, b"a"))
    end.done(Outbox(SESSION, rec.OnError(4, CON, "")))
    with monkeypatch.context() as patch:

        def fail(batch: object) -> bytes:
            if isinstance(batch, list):
                raise MemoryError
            return b""

        patch.setattr(worker_end_module, "encode", fail)
        with pytest.raises(MemoryError):
            end.data_to_send()
    assert sent(end) == [SESSION, rec.Send(CON, b"a"), rec.Ack(4, 4)]


@pytest.mark.parametrize("asked", [True, False], ids=["who, welcome", "welcome"])
def test_unsent_records_end_with_their_session(asked: bool) -> None:
    end = ready_worker()
    outbox, done = end.outbox(EVENT), end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"late"))
    end.done(done)
    end.command(rec.Send(CON, b"early"))
    if asked:
        end.receive(who())
        assert [type(record) for record in sent(end) or ()] == [int, rec.Hello]
    end.receive(to_worker(rec.Welcome(1, SESSION + 1, 1, 9000, 9999, 10), session=SESSION + 1))
    assert sent(end) is None, "what was not yet sent belonged to the old session"
    assert not end.done(outbox)
    end.flush(outbox)
    assert sent(end) is None


def test_a_flush_sends_earlier_and_only_once() -> None:
    end = ready_worker()
    outbox = end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"a"))
    end.flush(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"a")]
    outbox.records.append(rec.Send(CON, b"b"))
    end.done(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"b"), rec.Ack(1, 1)]


def test_a_command_outside_an_event_needs_a_session() -> None:
    end = ready_worker()
    assert end.command(rec.Join(CON, "g"))
    assert sent(end) == [SESSION, rec.Join(CON, "g")]
    assert not worker_end().command(rec.Join(CON, "g"))
    end.bye()
    assert not end.command(rec.Join(CON, "g"))


def test_bye_is_the_last_record_behind_all_acks() -> None:
    end = ready_worker()
    end.command(rec.Join(CON, "g"))
    end.done(end.outbox(EVENT))
    end.bye()
    assert sent(end) == [SESSION, rec.Join(CON, "g"), rec.Ack(1, 1), rec.Bye()]


def test_a_handler_that_returns_after_bye_changes_nothing() -> None:
    end = ready_worker()
    early, late = end.outbox(EVENT), end.outbox(EVENT)
    early.records.append(rec.Send(CON, b"early"))
    end.bye()
    end.done(early)
    assert (sent(end) or [])[-1] == rec.Bye()
    end.done(late)
    assert sent(end) is None


# --- ids for open ---


def test_ids_come_from_the_range_and_more_are_asked_for_in_time() -> None:
    end = worker_end()
    end.receive(to_worker(rec.Welcome(1, SESSION, 1, 100, 100 + 4095, 10)))
    ids = [end.new_id() for _ in range(4096 - IDS_LOW - 1)]
    assert sent(end) is None
    ids.append(end.new_id())
    assert sent(end) == [SESSION, rec.Query(0, "ids")]
    assert end.receive(to_worker(rec.Answer(0, [9000, 9001]))) == [], "that was no shell's question"
    ids += [end.new_id() for _ in range(IDS_LOW + 2)]
    assert ids == [*range(100, 4196), 9000, 9001]
    with pytest.raises(LookupError):
        end.new_id()


def test_without_a_session_there_are_no_ids() -> None:
    with pytest.raises(LookupError):
        worker_end().new_id()
    end = ready_worker()
    end.receive(who())
    with pytest.raises(LookupError):
        end.new_id()


def test_an_answer_to_a_query_is_passed_on() -> None:
    assert ready_worker().receive(to_worker(rec.Answer(1, [2, 3]))) == [rec.Answer(1, [2, 3])]


@pytest.mark.parametrize("value", [None, 5, [], [1], ["a", "b"], [1, 2, 3], {"a": 1}])
def test_a_worker_survives_a_wrong_answer(value: Any) -> None:
    assert ready_worker().receive(to_worker(rec.Answer(0, value))) == []


# --- batches have a largest size ---


def limited(batch: int, event: int = EVENT_LIMIT) -> WorkerEnd:
    end = ready_worker()
    end.receive(who())
    end.data_to_send()
    welcome = rec.Welcome(1, SESSION, 1, 100, 5000, 10, {"batch": batch, "event": event})
    end.receive(to_worker(welcome))
    return end


def filled(end: WorkerEnd, seq: int, *sizes: int) -> Outbox:
    outbox = end.outbox(rec.OnMessage(seq, CON, b"x", "raw"))
    for size in sizes:
        outbox.cut(size + RECORD_COST, end.room)
        outbox.records.append(rec.Send(CON, bytes(size)))
        outbox.size += size + RECORD_COST
    return outbox


def all_sent(end: WorkerEnd) -> list[list[str]]:
    """The records of each batch, with the last seq of acks and parts."""
    batches = []
    while (batch := sent(end)) is not None:
        names = [(type(r).__name__, getattr(r, "last", getattr(r, "seq", ""))) for r in batch[1:]]
        batches.append([f"{name}{seq}" for name, seq in names])
    return batches


def test_a_worker_learns_how_large_a_batch_may_be() -> None:
    for is_remote, batch in ((False, LARGEST_BATCH), (True, LARGEST_REMOTE_BATCH)):
        end = GatewayEnd(b"id", rec.gateway_decoder(), is_remote)
        end.welcome(hello(), SESSION, 1, range(100, 200))
        worker = worker_end()
        worker.receive(end.data_to_send() or b"")
        assert worker.room == batch - ROOM_FOR_ACKS
        assert worker.event_limit == EVENT_LIMIT


@pytest.mark.parametrize("limits", [{}, {"batch": LARGEST_REMOTE_BATCH}, {"event": -1}])
def test_a_gateway_that_does_not_say_so_takes_no_parts(limits: dict[str, int]) -> None:
    end = ready_worker()
    end.receive(to_worker(rec.Welcome(1, SESSION, 1, 100, 5000, 10, limits)))
    assert end.event_limit == end.room == limits.get("batch", LARGEST_BATCH) - ROOM_FOR_ACKS


def test_events_that_do_not_fit_into_one_batch_go_in_several_each_with_its_commands() -> None:
    end = limited(100_000 + ROOM_FOR_ACKS)
    for seq, size in enumerate((60_000, 60_000, 10, 10, 99_000), 1):
        assert end.done(filled(end, seq, size))
    assert end.command(rec.Send(CON, b"last"), 4 + RECORD_COST)
    assert all_sent(end) == [
        ["Send", "Ack1"],
        ["Send", "Send", "Send", "Ack4"],
        ["Send", "Send", "Ack5"],
    ]


def test_commands_that_do_not_fit_into_one_batch_go_ahead_of_their_ack_in_parts() -> None:
    end = limited(100_000 + ROOM_FOR_ACKS)
    end.done(filled(end, 1, 10))
    end.done(filled(end, 2, 60_000, 60_000, 30_000, 98_000, 10))
    end.done(filled(end, 3, 10))
    end.command(rec.Send(CON, b"last"), 4 + RECORD_COST)
    end.done(filled(end, 4))
    assert all_sent(end) == [
        ["Send", "Ack1"],
        ["Send", "Part2"],
        ["Send", "Send", "Part2"],
        ["Send", "Send", "Send", "Send", "Ack4"],
    ]


@pytest.mark.parametrize("count", range(1, 30))
def test_every_part_fills_a_batch_and_none_more(count: int) -> None:
    """This holds wherever the commands meet the limits of the batches."""
    room = 7 * RECORD_COST
    end = limited(room + ROOM_FOR_ACKS)
    before = filled(end, 1, *([0] * (count % 4)))
    end.done(before)
    end.done(filled(end, 2, *([0] * count)))
    batches = all_sent(end)
    assert all(batch.count("Send") <= 7 for batch in batches)
    assert sum(batch.count("Send") for batch in batches) == count % 4 + count
    parts = [batch for batch in batches if "Part2" in batch]
    assert parts == [["Send"] * 7 + ["Part2"]] * ((count - 1) // 7)
    assert batches[-1][-1] == "Ack2"


def test_an_outbox_is_empty_when_its_commands_have_left() -> None:
    """All plain handlers share one outbox."""
    end = limited(1000 + ROOM_FOR_ACKS)
    outbox = filled(end, 1, 700, 700, 700)
    assert outbox.parts
    end.done(outbox)
    assert outbox.parts is None
    outbox = filled(end, 2, 700, 700)
    outbox.clear()
    assert outbox.pieces() == [([], 0)]


def test_a_flush_of_more_than_a_batch_sends_several_without_a_part() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    outbox = filled(end, 1, 700, 700, 700)
    end.flush(outbox)
    assert all_sent(end) == [["Send"], ["Send"], ["Send"]]
    end.done(outbox)
    assert all_sent(end) == [["Ack1"]]


@pytest.mark.parametrize("left", range(4))
def test_parts_that_have_not_left_end_with_their_session(left: int) -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    outbox = filled(end, 1, 700, 700, 700)
    end.done(outbox)
    for _ in range(left):
        sent(end)
    end.receive(who())
    assert isinstance((sent(end) or [])[1], rec.Hello)
    assert sent(end) is None
    end.receive(to_worker(rec.Welcome(1, SESSION + 1, 1, 9000, 9999, 10), session=SESSION + 1))
    late = filled(end, 1, 700, 700)
    late.session = SESSION
    assert not end.done(late)
    end.flush(late)
    assert late.pieces() == [([], 0)]
    assert sent(end) is None


def test_a_bye_comes_behind_all_parts() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    end.done(filled(end, 1, 700, 700))
    end.bye()
    assert all_sent(end) == [["Send", "Part1"], ["Send", "Ack1", "Bye"]]


def test_the_ack_is_in_the_batch_of_the_last_commands_whoever_seals_that() -> None:
    """The sending thread may seal the batch at any moment."""
    end = limited(1000 + ROOM_FOR_ACKS)

    class Sealing:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            end.seal()

    end.lock = Sealing()
    end.done(filled(end, 1, 700, 700))
    end.done(filled(end, 2, 700))
    assert all_sent(end) == [["Send", "Part1"], ["Send", "Ack1"], ["Send", "Ack2"]]


def test_sealed_batches_end_with_their_session() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    for seq in (1, 2, 3):
        end.done(filled(end, seq, 500))
    end.receive(who())
    assert isinstance((sent(end) or [])[1], rec.Hello)
    assert sent(end) is None


@pytest.mark.parametrize("state", list(LinkState))
def test_nothing_of_a_lost_connection_is_sent_on_the_next_one(state: LinkState) -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    for seq in (1, 2, 3):
        end.done(filled(end, seq, 500))
    end.started()
    if state is N:
        # A `who` is not answered yet.
        end.receive(who())
    elif state is D:
        drain(end)
    elif state is G:
        bye(end)
    end.lost()
    assert sent(end) is None
    assert end.state is (G if state is G else N)
    assert not end.session
    end.receive(who())
    assert [type(record) for record in sent(end) or ()] == ([] if state is G else [int, rec.Hello])


def test_a_handler_that_returns_after_its_connection_was_lost_changes_nothing() -> None:
    end = ready_worker()
    returning, flushing = filled(end, 1, 500), filled(end, 2, 500)
    end.held.add(CON)
    end.lost()
    assert not end.done(returning)
    end.flush(flushing)
    assert not end.command(rec.Send(CON, b"x"))
    assert sent(end) is None
    end.receive(who())
    hello = (sent(end) or [])[1]
    assert isinstance(hello, rec.Hello) and hello.held == [CON], "the next gateway is told of it"


def test_what_a_handler_flushes_waits_for_the_thread_that_sends_what_is_finished() -> None:
    end = ready_worker()
    end.lock = lock = threading.Lock()
    end.done(filled(end, 1, 500))
    running = filled(end, 2, 500)
    flush = threading.Thread(target=end.flush, args=(running,))
    batches: list[bytes] = []
    with lock:
        end.seal()
        flush.start()
        end.send_sealed(lambda data: not batches.append(data))  # type: ignore[func-returns-value]
    flush.join(UNIT)
    (batch,) = batches
    assert [type(r) for r in rec.gateway_decoder().decode(batch)[1]] == [rec.Send, rec.Ack]
    assert [type(r) for r in (sent(end) or [])[1:]] == [rec.Send]
    assert sent(end) is None


def test_sealed_batches_that_cannot_leave_are_kept() -> None:
    end = ready_worker()
    end.done(filled(end, 1, 500))
    end.seal()
    end.send_sealed(lambda data: False)
    end.done(filled(end, 2, 500))
    assert [type(r) for r in (sent(end) or [])[1:]] == [rec.Send, rec.Ack]
    assert [type(r) for r in (sent(end) or [])[1:]] == [rec.Send, rec.Ack]


def test_a_bye_comes_last_of_all_batches() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    for seq in (1, 2):
        end.done(filled(end, seq, 500))
    end.bye()
    first, second = sent(end) or [], sent(end) or []
    assert [type(r) for r in first[1:]] == [rec.Send, rec.Ack]
    assert [type(r) for r in second[1:]] == [rec.Send, rec.Ack, rec.Bye]


def test_the_fullest_batch_fits() -> None:
    """Commands up to the limit, and as many acks as possible."""
    end = limited(LARGEST_REMOTE_BATCH)
    seqs = range(1, 2 * LARGEST_WINDOW, 2)
    for seq in seqs:
        end.done(filled(end, (1 << 53) + seq, 0))
    left = end.room - len(seqs) * RECORD_COST - RECORD_COST
    assert end.command(rec.Send(CON, bytes(left)), left + RECORD_COST)
    batch = end.data_to_send() or b""
    assert end.data_to_send() is None
    assert 0.5 * LARGEST_REMOTE_BATCH < len(batch) <= LARGEST_REMOTE_BATCH
