from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import HAS_UNIX
from wsraw.runtime.link import place


def test_the_run_folder_says_where_the_gateway_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "link").write_text("tcp://127.0.0.1:4711\n")
    assert place.token(tmp_path) == "secret"
    want = f"ipc://{tmp_path}/link.sock" if HAS_UNIX else "tcp://127.0.0.1:4711"
    assert place.endpoint(tmp_path) == want


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        place.token(tmp_path)
    assert Path(caught.value.filename) == tmp_path / "token"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(OSError, match="it is damaged") as caught:
        place.token(tmp_path)
    assert caught.value.filename == str(tmp_path / "token")
