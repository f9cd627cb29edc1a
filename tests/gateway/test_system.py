from __future__ import annotations

from pathlib import Path

import pytest

from wsraw.gateway import system


def test_a_quarter_is_a_sensible_figure() -> None:
    assert 1 << 24 < system.quarter() < 1 << 50


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "", "nonsense"])
def test_a_container_without_a_limit_has_the_machine(text: str, tmp_path: Path) -> None:
    (tmp_path / "limit").write_text(text)
    assert system.quarter([tmp_path / "limit", tmp_path / "none"]) == system.quarter([])


def test_a_container_with_one_has_that(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text(f"{64 << 20}\n")
    assert system.quarter([tmp_path / "none", tmp_path / "limit"]) == 16 << 20
