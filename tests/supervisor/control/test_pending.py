from __future__ import annotations

import itertools

import pytest

from wsraw.supervisor.control.pending import Answer, PendingRequests


def begun(*parts: str) -> PendingRequests[str]:
    errands: PendingRequests[str] = PendingRequests()
    errands.begin("ann", "reload", parts)
    return errands


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
@pytest.mark.parametrize("bad", ["", "a", "c"])
def test_the_answer_is_sent_once_when_all_parts_are_done(order: tuple[str, ...], bad: str) -> None:
    errands = begun("a", "b", "c")
    for part in order[:-1]:
        assert errands.settle("reload", part, part != bad, part) == []
    last = order[-1]
    assert errands.settle("reload", last, last != bad, last) == [Answer("ann", not bad, "a; b; c")]
    assert errands.settle("reload", last, True, last) == [], "once"


def test_parts_without_a_text_are_left_out_of_the_answer() -> None:
    errands = begun("a", "certificates 1")
    errands.settle("reload", "certificates 1", True)
    assert errands.settle("reload", "a", True, "done") == [Answer("ann", True, "done")]


def test_each_request_waits_for_its_own_parts() -> None:
    errands = begun("a", "b")
    errands.begin("bob", "reload", ["b"])
    errands.begin("cid", "scale", ["b"])
    assert errands.settle("reload", "b", True, "b") == [Answer("bob", True, "b")]
    errands.begin("dan", "reload", ["b"])
    assert errands.settle("reload", "a", True, "a") == [Answer("ann", True, "a; b")]
    assert errands.settle("scale", "b", False, "no") == [Answer("cid", False, "no")]
    assert errands.settle("reload", "b", True, "again") == [Answer("dan", True, "again")]


def test_the_first_result_of_a_part_counts() -> None:
    """Who came first does not wait for what others have asked for since."""
    errands = begun("a", "b")
    errands.settle("reload", "a", False, "refused")
    errands.settle("reload", "a", True, "reloaded")
    assert errands.settle("reload", "b", True, "b") == [Answer("ann", False, "refused; b")]


def test_the_end_of_the_run_answers_all_pending_requests() -> None:
    errands = begun("a", "b")
    errands.begin("bob", "scale", ["a"])
    errands.settle("reload", "a", True, "a")
    assert errands.end("reload", False, "over") == [Answer("ann", False, "over")]
    assert errands.end("reload", False, "over") == []
    assert errands.end("scale", False, "over") == [Answer("bob", False, "over")]
