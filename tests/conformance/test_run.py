"""The report of the script; tests/e2e/test_conformance.py runs the suite itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conformance import run
from tests.conformance.run import ALL, tell


def one_more(role: str, case: str, verdict: str, close: str = "OK") -> bool:
    """The output for a run with that case and a good one."""
    cases = {"1.2.1": {"behavior": "OK", "behaviorClose": "OK"}}
    cases[case] = {"behavior": verdict, "behaviorClose": close}
    return tell(role, cases, 1.0, Path("report"))


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(
    ("verdict", "case", "good"),
    [
        ("OK", "1.1.1", True),
        ("INFORMATIONAL", "7.1.6", True),
        ("NON-STRICT", "3.2", False),
        ("FAILED", "3.2", False),
        ("UNIMPLEMENTED", "13.1.1", False),
    ],
)
def test_one_bad_case_fails_the_run(
    role: str, verdict: str, case: str, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_more(role, case, verdict) is good
    assert f" {case}" in capsys.readouterr().out or verdict == "OK"


def test_a_case_with_a_wrong_close_fails_the_run() -> None:
    assert not one_more("server", "1.1.1", "OK", "FAILED")


def test_a_run_without_cases_fails() -> None:
    assert not tell("server", {}, 1.0, Path("report"))


def test_a_full_run_that_leaves_cases_out_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"now": 0}

    def play(report: Path, *_: object) -> None:
        report.mkdir()
        case = {"behavior": "OK", "behaviorClose": "OK"}
        cases = {f"1.{n}": case for n in range(size["now"])}
        (report / "index.json").write_text(json.dumps({"wsraw": cases}), "utf-8")

    monkeypatch.setattr(run, "play_server", play)
    arguments = ["run.py", "--role=server", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", arguments)
    for size["now"], code in ((ALL, 0), (ALL - 1, 2)):
        assert run.main() == code
    assert f"only {ALL - 1} of {ALL} cases" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*arguments, "--quick"])
    assert run.main() == 0


def test_the_page_about_conformance_has_the_counts_of_the_last_run() -> None:
    text = (run.ROOT / "docs" / "conformance.md").read_text("utf-8")
    for role in ("server", "client"):
        row = re.search(rf"^\| wsraw \| {role} \| (.*) \|$", text, re.M)
        assert row is not None
        total, passed, not_strict, informational, *bad = map(int, row[1].split(" | "))
        assert total == passed + informational == ALL
        assert [not_strict, *bad] == [0, 0, 0]
