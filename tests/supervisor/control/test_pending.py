from __future__ import annotations

import itertools

import pytest

from wsraw.supervisor.control.pending import PendingRequests


class Requests(PendingRequests[str]):
    """Pending requests, the first of which is Ann's reload, and their answers."""

    def __init__(self, *parts: str) -> None:
        self.answers: list[tuple[str, bool, str]] = []
        super().__init__(lambda *answer: self.answers.append(answer))
        self.begin("ann", "reload", parts)

    def new_answers(self) -> list[tuple[str, bool, str]]:
        """The answers since the last call."""
        answers, self.answers[:] = list(self.answers), []
        return answers


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
@pytest.mark.parametrize("bad", ["", "a", "c"])
def test_the_answer_is_sent_once_when_all_parts_are_done(order: tuple[str, ...], bad: str) -> None:
    pending = Requests("a", "b", "c")
    for part in order[:-1]:
        pending.settle("reload", part, part != bad, part)
        assert pending.new_answers() == []
    last = order[-1]
    pending.settle("reload", last, last != bad, last)
    text = "; ".join(sorted("abc", key=lambda part: part != bad))
    assert pending.new_answers() == [("ann", not bad, text)], "what was refused comes first"
    pending.settle("reload", last, True, last)
    assert pending.new_answers() == [], "once"


def test_parts_without_a_text_are_left_out_of_the_answer() -> None:
    pending = Requests("a", "certificates 1")
    pending.settle("reload", "certificates 1", True)
    pending.settle("reload", "a", True, "done")
    assert pending.new_answers() == [("ann", True, "done")]


def test_a_traceback_in_an_answer_stands_in_lines_of_its_own() -> None:
    pending = Requests("a", "b")
    pending.settle("reload", "a", True, "reloaded")
    pending.settle("reload", "b", False, "refused\nTraceback")
    assert pending.new_answers() == [("ann", False, "refused\nTraceback\nreloaded")]


def test_each_request_waits_for_its_own_parts() -> None:
    pending = Requests("a", "b")
    pending.begin("bob", "reload", ["b"])
    pending.begin("cid", "scale", ["b"])
    pending.settle("reload", "b", True, "b")
    assert pending.new_answers() == [("bob", True, "b")]
    pending.begin("dan", "reload", ["b"])
    pending.settle("reload", "a", True, "a")
    assert pending.new_answers() == [("ann", True, "a; b")]
    pending.settle("scale", "b", False, "no")
    assert pending.new_answers() == [("cid", False, "no")]
    pending.settle("reload", "b", True, "again")
    assert pending.new_answers() == [("dan", True, "again")]


def test_the_first_result_of_a_part_counts() -> None:
    """The first requester does not wait for requests that others have sent since."""
    pending = Requests("a", "b")
    pending.settle("reload", "a", False, "refused")
    pending.settle("reload", "a", True, "reloaded")
    pending.settle("reload", "b", True, "b")
    assert pending.new_answers() == [("ann", False, "refused; b")]


def test_the_end_of_the_run_answers_all_pending_requests() -> None:
    pending = Requests("a", "b")
    pending.begin("bob", "scale", ["a"])
    pending.settle("reload", "a", True, "a")
    pending.end("reload", False, "over")
    assert pending.new_answers() == [("ann", False, "over")]
    pending.end("reload", False, "over")
    assert pending.new_answers() == []
    pending.end("scale", False, "over")
    assert pending.new_answers() == [("bob", False, "over")]
