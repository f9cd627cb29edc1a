from __future__ import annotations

from wsraw.supervisor.decisions.refusals import LONGEST, Refusals


def test_a_refusal_stays_until_that_part_is_reloaded() -> None:
    refusals = Refusals()
    refusals.settled("chat", True, "reloaded", 1.0)
    assert refusals.in_words() == ""
    refusals.settled("chat", False, "refused\n  NameError\nTraceback", 2.0)
    refusals.settled("certificates", False, "expired", 3.0)
    assert refusals.in_words() == "last reload: refused: NameError; expired"
    refusals.settled("certificates", True, "", 4.0)
    assert refusals.as_list(5.0) == [{"why": "refused: NameError", "ago": 3.0}]
    refusals.settled("chat", True, "reloaded", 6.0)
    assert refusals.as_list(7.0) == []


def test_a_long_reason_is_cut() -> None:
    refusals = Refusals()
    refusals.settled("chat", False, "x" * 10 * LONGEST, 0.0)
    assert len(refusals.as_list(0.0)[0]["why"]) == LONGEST  # type: ignore[arg-type]
