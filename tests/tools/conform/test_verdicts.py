"""Each rule with a worker that breaks it, and all rules with a worker that breaks none."""

from __future__ import annotations

import pytest

from tests.tools.conform.faulty import FAULTS, GOOD
from tests.tools.conform.memory_driver import MemoryDriver
from wsraw.tools.conform.verdicts import FAIL, PASS, RULES, SKIP, Result, choose


def results(fault: str = "", *names: str, generic: bool = False) -> list[Result]:
    return MemoryDriver(choose(names, generic=generic), fault).run()


@pytest.mark.parametrize("way", GOOD)
def test_a_good_worker_keeps_all_rules(way: str) -> None:
    done = results(way)
    assert [result.line() for result in done if result.verdict != PASS] == []
    assert [result.rule for result in done] == list(RULES)


# The continuous rules need a check that makes the worker send something.
CHECKS = {
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
    checks = CHECKS.get(name, "hello")
    if fault in ("another instance", "one instance"):
        checks = "shut-out,hello-again,idle-drain"
    if fault == "own ids":
        checks = "open"
    done = results(fault, name, *checks.split(","))
    (result,) = [each for each in done if each.rule.name == name]
    assert result.verdict == FAIL, result.line()
    assert words in f"{result.why} {result.record}"
    assert name in result.line()


def test_every_rule_is_broken_by_a_faulty_worker() -> None:
    assert {rule for rule, _ in FAULTS.values()} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    "fault", [fault for fault, (name, _) in FAULTS.items() if name in {"text", "upper", "state"}]
)
def test_generic_rules_accept_any_answer(fault: str) -> None:
    done = results(fault, generic=True)
    assert {result.rule.name for result in done if result.verdict == FAIL} == set()
    assert not any(result.rule.common for result in done)


def test_two_rules_wait_for_a_worker_that_never_connects_and_the_others_are_skipped() -> None:
    driver = MemoryDriver(choose((), generic=False), "deaf")
    done = driver.run()
    assert [result.verdict for result in done[:3]] == [FAIL, FAIL, SKIP]
    assert all(result.verdict != PASS or result.rule.check is None for result in done)
    assert driver.started == 2


def test_after_a_breach_the_next_rule_has_a_new_process() -> None:
    driver = MemoryDriver(choose(("text", "binary"), generic=False), "latin-1")
    assert [result.verdict for result in driver.run()] == [FAIL, PASS]
    assert driver.started == 2


def test_a_rule_about_the_whole_session_can_be_checked_alone() -> None:
    assert [result.verdict for result in results("", "hello-fields")] == [PASS]
    assert [result.verdict for result in results("", "bye-last")] == [SKIP]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule 'teext'; there are"):
        choose(("teext",), generic=False)


def test_a_result_has_verdict_rule_and_record_for_programs() -> None:
    (result,) = results("latin-1", "text")
    assert result.data()["verdict"] == "fail"
    assert result.data()["rule"] == "text"
    assert result.data()["record"].startswith("[send, ")
