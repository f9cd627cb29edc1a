"""What strangers on the link can do to the gateway, and the limits on it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.gateway.harness import Harness, hello, is_over
from wsraw.gateway.delivery.groups.groups import MOST_GROUPS
from wsraw.gateway.delivery.worker import MOST_RANGES
from wsraw.gateway.sessions.commands import MOST_MARKS
from wsraw.gateway.sessions.sessions import (
    LONGEST_HELLO,
    MOST_BY_HAND,
    MOST_PENDING,
    SEVERAL_FRAMES,
)
from wsraw.link.batches import NO_BATCH
from wsraw.link.gateway_end import LONGEST_WHY, MOST_OWED
from wsraw.link.records import (
    GROUP_LIMIT,
    MOST_RECORDS,
    MOST_WRONG,
    Answer,
    Join,
    Mark,
    Query,
    Refused,
    Send,
    Who,
    encode,
    worker_decoder,
)
from wsraw.link.states import LinkState


def replies(harness: Harness) -> list[Any]:
    decoder = worker_decoder()
    records = [decoder.decode(data)[1][0] for _, data in harness.sessions.replies]
    harness.sessions.replies = []
    return records


# --- strangers before their hello ---


def test_unknown_identities_are_bounded() -> None:
    harness = Harness()
    honest = harness.worker()
    for n in range(3 * MOST_PENDING):
        harness.receive(b"\0other%d" % n, b"")
    assert len(harness.sessions.workers) == MOST_PENDING + 1
    assert honest.worker.session.state is LinkState.READY


def test_a_forgotten_identity_is_let_in_by_its_hello() -> None:
    harness = Harness()
    harness.receive(b"\0slow", b"")
    for n in range(MOST_PENDING):
        harness.receive(b"\0%d" % n, b"")
    assert b"\0slow" not in harness.sessions.workers
    harness.receive(b"\0slow", encode([0, hello()]))
    assert harness.sessions.workers[b"\0slow"].session.state is LinkState.READY


def test_a_worker_that_sends_hello_unasked_is_not_asked_again() -> None:
    """A second `who` would end, at the worker, the session that has just begun."""
    harness = Harness()
    harness.receive(b"\0x", encode([0, hello()]))
    harness.receive(b"\0x", encode([1, Query(1, "members", "g")]))
    assert replies(harness) == []


def test_a_long_batch_before_the_hello_is_not_decoded() -> None:
    harness = Harness()
    harness.receive(
        b"\0x", encode([0, hello(held=list(range(1 << 36, (1 << 36) + LONGEST_HELLO // 9)))])
    )
    [told] = replies(harness)
    assert type(told) is Refused
    assert "before a hello" in told.why
    harness.receive(
        b"\0y", encode([0, hello(held=list(range(1 << 36, (1 << 36) + LONGEST_HELLO // 10)))])
    )
    assert harness.sessions.workers[b"\0y"].session.state is LinkState.READY, (
        "the twin: a long one is fine"
    )


@pytest.mark.parametrize("size", [0, LONGEST_HELLO + 1, 4 * LONGEST_HELLO])
def test_a_late_batch_of_another_session_is_dropped_undecoded(size: int) -> None:
    """The batch waited for a link and is sent first on the new one, before its worker has read
    `who`. It is not decoded, as decoding would find that it is not a batch.
    """
    harness = Harness()
    late = b"\x92\xcf\0\x10\0\0\0\0\0\x07" + b"\xc1" * size
    harness.receive(b"\0x", late)
    assert [type(told) for told in replies(harness)] == [Who]
    harness.receive(b"\0x", late)
    assert replies(harness) == [], "it is asked once"
    harness.receive(b"\0x", encode([0, hello()]))
    assert harness.sessions.workers[b"\0x"].session.state is LinkState.READY


@pytest.mark.parametrize("front", [b"\x92\x00", b"\xc1", b"\x91\xa1", b""], ids=bytes.hex)
def test_a_long_batch_that_is_not_of_another_session_bans_its_sender(front: bytes) -> None:
    harness = Harness()
    harness.receive(b"\0x", front + bytes(LONGEST_HELLO + 1))
    [told] = replies(harness)
    assert "before a hello" in told.why
    harness.receive(b"\0x", encode([0, hello()]))
    assert replies(harness) == [] and b"\0x" not in harness.sessions.workers


def test_a_banned_identity_is_not_heard_again() -> None:
    harness = Harness()
    harness.receive(b"\0x", b"garbage")
    assert len(replies(harness)) == 1
    harness.receive(b"\0x", encode([0, hello()]))
    assert replies(harness) == []
    assert b"\0x" not in harness.sessions.workers


def test_a_worker_that_sends_several_frames_is_told_so() -> None:
    """A REQ socket sends an empty frame first, and so do workers that imitate one."""
    harness = Harness()
    harness.receive(b"\0x", NO_BATCH)
    [told] = replies(harness)
    assert told.why == "sent something that is not a batch: " + SEVERAL_FRAMES


@pytest.mark.parametrize("field", ["pool", "instance", "language"])
@pytest.mark.parametrize("value", ["x" * 129, "line\nerror: forged", "\x1b[2J"])
def test_the_name_of_a_worker_is_made_printable_for_the_log(field: str, value: str) -> None:
    harness = Harness()
    harness.receive(b"\0x", encode([0, hello(**{field: value})]))
    [told] = replies(harness)
    assert "one line" in told.why


def test_unwatched_workers_are_bounded() -> None:
    assert MOST_BY_HAND == 1000
    harness = Harness()
    for n in range(MOST_BY_HAND):
        harness.receive(b"\0%d" % n, encode([0, hello(instance=f"i{n}")]))
    assert replies(harness) == []
    harness.receive(b"\0more", encode([0, hello(instance="more")]))
    assert "are connected already" in replies(harness)[0].why
    harness.sessions.tokens.add("seven", 7)
    harness.receive(b"\0ours", encode([0, hello(instance="ours", token="seven")]))
    assert harness.sessions.workers[b"\0ours"].session.state is LinkState.READY


def test_an_empty_instance_ends_no_other_session() -> None:
    harness = Harness()
    harness.receive(b"\0waits", b"")
    harness.receive(b"\0x", encode([0, hello(instance="")]))
    assert b"\0waits" in harness.sessions.workers


def test_a_late_hello_is_not_reported_as_a_wrong_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    harness.sessions.tokens.remove(3)
    with caplog.at_level(logging.INFO, "wsraw.gateway"):
        harness.receive(b"\0x", encode([0, hello(token="third")]))
        assert caplog.records == []
        harness.receive(b"\0y", encode([0, hello(token="thirst")]))
    assert "its token is wrong" in caplog.text
    assert not harness.sessions.workers


# --- workers that were accepted ---


def test_answers_to_queries_are_bounded() -> None:
    harness = Harness()
    linked = harness.worker()
    cons = [harness.raw() for _ in range(50)]
    linked.work()
    linked.say(*(Join(con.id, "room") for con in cons))
    linked.say_raw(*(Query(n, "members", "room") for n in range(1, 1000)))
    harness.turn()
    given = sum(len(answer.value) for answer in linked.take(Answer))
    assert MOST_OWED <= given < MOST_OWED + 50
    assert linked.take(Refused) == [], "nor are the refusals without number"
    assert not linked.refused(Query(1, "members", "room")), "a turn later it may ask again"


def test_refusals_are_bounded() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(*(Send(77, b"") for _ in range(2 * MOST_OWED)))
    harness.turn()
    assert len(linked.take(Refused)) == MOST_OWED
    assert len(linked.refused(Query(1, "x" * 100_000))) <= LONGEST_WHY


def test_ranges_of_ids_are_bounded() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(*(Query(n, "ids") for n in range(1, 100)))
    harness.turn()
    assert len(linked.worker.ids) == MOST_RANGES
    assert "not used up" in linked.refused(Query(1, "ids"))


def test_groups_and_marks_are_bounded() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    linked.say(*(Join(con.id, f"g{n}") for n in range(MOST_GROUPS)))
    assert "groups already" in linked.refused(Join(con.id, "one more"))
    assert not linked.refused(Join(con.id, "g0"))
    assert "at most" in linked.refused(Join(con.id, "x" * (GROUP_LIMIT + 1)))
    linked.say(Send(con.id, b"x"), *(Mark(con.id, n) for n in range(MOST_MARKS)))
    assert "marks wait" in linked.refused(Mark(con.id, 1))


def test_a_batch_with_too_many_records_ends_the_session() -> None:
    harness = Harness()
    linked = harness.worker()
    count = MOST_RECORDS + 2
    data = b"\xdd" + count.to_bytes(4, "big") + encode(linked.link.session) + b"\xc0" * (count - 1)
    harness.receive(linked.identity, data)
    assert is_over(linked)


def test_a_batch_with_the_most_records_is_applied() -> None:
    """The counterpart."""
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(*[["leave", 1 << 36 | 1, "x"]] * MOST_RECORDS)
    assert not is_over(linked)


def test_a_thousand_wrong_records_are_skipped_and_more_end_the_session() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(*[["send", "wrong"]] * MOST_WRONG)
    assert not is_over(linked)
    linked.say_raw(*[["send", "wrong"]] * (MOST_WRONG + 1))
    assert is_over(linked)


def test_a_hello_that_holds_unknown_ids_leaves_no_entries() -> None:
    harness = Harness()
    harness.receive(b"\0x", encode([0, hello(held=[-5, 1 << 62, (1 << 36) + 7])]))
    assert not harness.registry.entries
