"""Lists of tests that some runs leave out: each entry must exist and have a reason."""

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
            name = name.partition("[")[0]
            text = Path(ROOT, file).read_text("utf-8") if name else ""
            # The test is a function, or the state machine of a model.
            assert not name or f"def {name}(" in text or f"\n{name} = " in text, line


def entries(name: str) -> list[str]:
    """The entries of a list in tests/windows: files, folders and tests."""
    lines = Path(ROOT, "tests", "windows", f"{name}.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("half", ["one", "two"])
def test_what_is_run_under_wine_exists(half: str) -> None:
    for line in entries(half):
        file, _, name = line.partition("::")
        assert Path(ROOT, file).exists(), line
        text = Path(ROOT, file).read_text("utf-8") if name else ""
        assert not name or f"def {name}(" in text, line
        # A long test in this list would not be run anywhere.
        assert not re.search(rf"^@pytest\.mark\.long\n(@.*\n)*def {name}\(", text, re.M), line


def test_each_file_is_run_under_wine_or_left_out_with_a_reason() -> None:
    run = {line.partition("::")[0] for half in ("one", "two") for line in entries(half)}
    left_out = {line for line in entries("left_out") if "::" not in line}
    # pytest would silently not collect such entries.
    assert not run & left_out
    for file in Path(ROOT, "tests").rglob("test_*.py"):
        path = file.relative_to(ROOT)
        places = {place.as_posix() for place in (path, *path.parents)}
        # For these files the lists name the tests that are run.
        if "tests/e2e" not in places:
            assert places & (run | left_out), f"{path}: add it to a list of tests/windows"


def test_what_wsraw_needs_is_installed_under_wine() -> None:
    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text("utf-8"))["project"]
    installed = Path(ROOT, "tests", "windows", "requirements.txt").read_text("utf-8")
    for needed in project["dependencies"]:
        name = re.split("[<>=;]", needed)[0]
        assert re.search(rf"^{name}==", installed, re.MULTILINE), needed
