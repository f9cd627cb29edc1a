from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wsraw.admin.page.access import OwnToken


def kept(folder: Path) -> str:
    """The token that a new process finds or makes."""
    token = OwnToken(folder)
    token.keep()
    return token.text


def test_the_token_stays_for_the_life_of_the_run_folder(tmp_path: Path) -> None:
    first = kept(tmp_path)
    assert len(first) >= 32
    assert kept(tmp_path) == first
    (tmp_path / "admin-token").unlink()
    assert kept(tmp_path) != first


def test_a_file_that_was_removed_comes_back_with_the_same_token(tmp_path: Path) -> None:
    token = OwnToken(tmp_path)
    token.keep()
    first = token.text
    (tmp_path / "admin-token").unlink()
    token.keep()
    assert token.text == first == kept(tmp_path)


def test_a_token_that_opens_nothing_any_more_is_removed(tmp_path: Path) -> None:
    first = kept(tmp_path)
    OwnToken.remove(tmp_path)
    OwnToken.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert kept(tmp_path) != first


def test_a_token_that_cannot_be_written_is_reported_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then there is no token: a token that no user can read would be useless."""
    token = OwnToken(tmp_path / "run")
    token.keep()
    token.keep()
    assert token.text == ""
    assert len(caplog.records) == 1
    (tmp_path / "run").mkdir()
    token.keep()
    assert token.text == kept(tmp_path / "run")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files mean nothing there")
def test_the_token_is_for_this_user_alone(tmp_path: Path) -> None:
    kept(tmp_path)
    assert (tmp_path / "admin-token").stat().st_mode & 0o777 == 0o600
