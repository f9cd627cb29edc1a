"""Lists of tests that some runs leave out: each entry is a test that exists, and has a reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.running import ROOT


@pytest.mark.parametrize("runs", ["portable", "windows"])
def test_what_is_left_out_exists_and_has_a_reason(runs: str) -> None:
    has_reason = False
    for line in Path(ROOT, "tests", runs, "left_out.txt").read_text("utf-8").splitlines():
        if line.startswith("# "):
            has_reason = True
        elif not line:
            has_reason = False
        else:
            assert has_reason, line
            file, _, name = line.partition("::")
            assert Path(ROOT, file).exists(), line
            assert not name or f"def {name.partition('[')[0]}(" in Path(ROOT, file).read_text(
                "utf-8"
            )


@pytest.mark.parametrize("half", ["one", "two"])
def test_what_is_run_under_wine_exists(half: str) -> None:
    for line in Path(ROOT, "tests", "windows", f"{half}.txt").read_text("utf-8").splitlines():
        assert Path(ROOT, line).exists(), line


def test_what_wsraw_needs_is_installed_under_wine() -> None:
    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text("utf-8"))["project"]
    installed = Path(ROOT, "tests", "windows", "requirements.txt").read_text("utf-8")
    for needed in project["dependencies"]:
        name = re.split("[<>=;]", needed)[0]
        assert re.search(rf"^{name}==", installed, re.MULTILINE), needed
