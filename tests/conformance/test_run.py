"""What the script says of a report; the suite itself is run by tests/e2e/test_conformance.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.run import LENIENT, tell


@pytest.mark.parametrize(
    ("verdict", "case", "good"),
    [
        ("OK", "1.1.1", True),
        ("INFORMATIONAL", "7.1.6", True),
        ("NON-STRICT", "3.2", True),
        ("NON-STRICT", "1.1.1", False),
        ("FAILED", "3.2", False),
        ("UNIMPLEMENTED", "13.1.1", False),
    ],
)
def test_one_bad_case_is_enough(
    verdict: str, case: str, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"1.2.1": {"behavior": "OK", "behaviorClose": "OK"}}
    cases[case] = {"behavior": verdict, "behaviorClose": "OK"}
    assert tell("server", cases, 1.0, Path("report")) is good
    assert f" {case}" in capsys.readouterr().out or verdict == "OK"


def test_a_wrong_close_is_bad() -> None:
    cases = {"1.2.1": {"behavior": "OK", "behaviorClose": "FAILED"}}
    assert not tell("server", cases, 1.0, Path("report"))


def test_no_case_is_no_success() -> None:
    assert not tell("server", {}, 1.0, Path("report"))


def test_the_exceptions_are_few() -> None:
    assert len(LENIENT) == 12
