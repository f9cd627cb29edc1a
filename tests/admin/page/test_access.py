from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wsraw.admin.page.access import own_token


def test_the_token_stays_for_the_life_of_the_run_folder(tmp_path: Path) -> None:
    first = own_token(tmp_path)
    assert len(first) >= 32
    assert own_token(tmp_path) == first
    (tmp_path / "admin-token").unlink()
    assert own_token(tmp_path) != first


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files mean nothing there")
def test_the_token_is_for_this_user_alone(tmp_path: Path) -> None:
    own_token(tmp_path)
    assert (tmp_path / "admin-token").stat().st_mode & 0o777 == 0o600
