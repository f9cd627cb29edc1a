from __future__ import annotations

import itertools

import pytest

from wsraw.supervisor.control.pending import Answer, PendingRequests


def begun(*parts: str) -> PendingRequests[str]:
    pending: PendingRequests[str] = PendingRequests()
    pending.begin("ann", "reload", parts)
    return pending


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
@pytest.mark.parametrize("bad", ["", "a", "c"])
def test_the_answer_is_sent_once_when_all_parts_are_done(order: tuple[str, ...], bad: str) -> None:
    pending = begun("a", "b", "c")
    for part in order[:-1]:
        assert pending.settle("reload", part, part != bad, part) == []
    last = order[-1]
    assert pending.settle("reload", last, last != bad, last) == [Answer("ann", not bad, "a; b; c")]
    assert pending.settle("reload", last, True, last) == [], "once"


def test_parts_without_a_text_are_left_out_of_the_answer() -> None:
    pending = begun("a", "certificates 1")
    pending.settle("reload", "certificates 1", True)
    assert pending.settle("reload", "a", True, "done") == [Answer("ann", True, "done")]


def test_each_request_waits_for_its_own_parts() -> None:
    pending = begun("a", "b")
    pending.begin("bob", "reload", ["b"])
    pending.begin("cid", "scale", ["b"])
    assert pending.settle("reload", "b", True, "b") == [Answer("bob", True, "b")]
    pending.begin("dan", "reload", ["b"])
    assert pending.settle("reload", "a", True, "a") == [Answer("ann", True, "a; b")]
    assert pending.settle("scale", "b", False, "no") == [Answer("cid", False, "no")]
    assert pending.settle("reload", "b", True, "again") == [Answer("dan", True, "again")]


def test_the_first_result_of_a_part_counts() -> None:
    """Who came first does not wait for what others have asked for since."""
    pending = begun("a", "b")
    pending.settle("reload", "a", False, "refused")
    pending.settle("reload", "a", True, "reloaded")
    assert pending.settle("reload", "b", True, "b") == [Answer("ann", False, "refused; b")]


def test_the_end_of_the_run_answers_all_pending_requests() -> None:
    pending = begun("a", "b")
    pending.begin("bob", "scale", ["a"])
    pending.settle("reload", "a", True, "a")
    assert pending.end("reload", False, "over") == [Answer("ann", False, "over")]
    assert pending.end("reload", False, "over") == []
    assert pending.end("scale", False, "over") == [Answer("bob", False, "over")]
