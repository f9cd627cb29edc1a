from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def handlers(tmp_path: Path) -> Callable[[str], Path]:
    """Write a handlers file."""

    def write(text: str) -> Path:
        file = tmp_path / "handlers.py"
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return write
