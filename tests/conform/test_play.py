"""Each rule against a worker that breaks it, and all of them against one that breaks none."""

from __future__ import annotations

from itertools import count

import pytest
from conform.faulty import FAULTS
from conform.theatre import Theatre

from wsraw.tools.conform.play import FAIL, PASS, RULES, SKIP, Play, choose
from wsraw.tools.conform.rules import Rule

PATIENCE = 5.0


def play(fault: str = "", *names: str, generic: bool = False) -> Play:
    numbers = count()
    rules: list[Rule] = choose(names, generic=generic)
    made = Play(rules, "p", lambda: f"secret{next(numbers)}", PATIENCE)
    return Theatre(made, fault).run()


def test_a_good_worker_keeps_all_rules() -> None:
    done = play()
    assert [result.line() for result in done.results if result.verdict != PASS] == []
    assert [result.rule for result in done.results] == list(RULES)
    assert not done.failed


# The standing rules need something to see.
STAGES = {
    "session": "text",
    "ack-once": "text",
    "ack-order": "order",
    "ids": "text",
    "state-taken": "text",
    "bye-last": "drain",
    "batch": "text",
    "records": "text",
    "hello-held": "attach",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_worker_breaks_its_rule(fault: str) -> None:
    name, words = FAULTS[fault]
    stage = STAGES.get(name, "hello")
    if fault in ("another instance", "one instance"):
        stage = "shut-out,hello-again,idle-drain"
    if fault == "own ids":
        stage = "open"
    done = play(fault, name, *stage.split(","))
    (result,) = [each for each in done.results if each.rule.name == name]
    assert result.verdict == FAIL, result.line()
    assert words in f"{result.why} {result.record}"
    assert name in result.line()


def test_every_rule_is_broken_by_a_faulty_worker() -> None:
    assert {rule for rule, _ in FAULTS.values()} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    "fault", [fault for fault, (name, _) in FAULTS.items() if name in {"text", "upper", "state"}]
)
def test_generic_rules_accept_any_answer(fault: str) -> None:
    done = play(fault, generic=True)
    assert {result.rule.name for result in done.results if result.verdict == FAIL} == set()
    assert not any(result.rule.common for result in done.results)


def test_two_rules_wait_for_a_worker_that_never_connects_and_the_others_are_skipped() -> None:
    theatre = Theatre(Play(choose((), generic=False), "p", str, PATIENCE), "deaf")
    results = theatre.run().results
    assert [result.verdict for result in results[:3]] == [FAIL, FAIL, SKIP]
    assert all(result.verdict != PASS or result.rule.check is None for result in results)
    assert theatre.started == 2


def test_after_a_breach_the_next_rule_has_a_new_process() -> None:
    numbers = count()
    rules = choose(("text", "binary"), generic=False)
    theatre = Theatre(Play(rules, "p", lambda: str(next(numbers)), PATIENCE), "latin-1")
    assert [result.verdict for result in theatre.run().results] == [FAIL, PASS]
    assert theatre.started == 2


def test_a_rule_about_the_whole_session_can_be_checked_alone() -> None:
    assert [result.verdict for result in play("", "hello-fields").results] == [PASS]
    assert [result.verdict for result in play("", "bye-last").results] == [SKIP]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule 'teext'; there are"):
        choose(("teext",), generic=False)


def test_a_result_has_verdict_rule_and_record_for_programs() -> None:
    (result,) = play("latin-1", "text").results
    assert result.data()["verdict"] == "fail"
    assert result.data()["rule"] == "text"
    assert result.data()["record"].startswith("[send, ")
