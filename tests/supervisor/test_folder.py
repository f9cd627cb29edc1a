from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsraw.supervisor.folder import EPOCHS, LONGEST_SOCKET_PATH, Folder, FolderError

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX's")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_fresh_folder_is_private_and_goes_away() -> None:
    folder = Folder("")
    assert folder.path.is_dir()
    if sys.platform != "win32":
        assert mode(folder.path) == 0o700
    folder.write_token("abc")
    folder.next_epoch()
    folder.close()
    assert not folder.path.exists()


def test_a_users_folder_stays_with_its_epoch(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    folder = Folder(str(path))
    assert [folder.next_epoch() for _ in range(3)] == [1, 2, 3]
    folder.write_token("abc")
    folder.close()
    assert path.is_dir()
    assert not (path / "token").exists()
    again = Folder(str(path))
    assert again.next_epoch() == 4
    again.close()


def test_epochs_fit_into_a_connection_id(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    (folder.path / "epoch").write_text(str(EPOCHS - 2))
    assert folder.next_epoch() == EPOCHS - 1
    assert folder.next_epoch() == 1
    folder.close()


def test_a_damaged_epoch_is_told(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    (folder.path / "epoch").write_text("many")
    with pytest.raises(FolderError, match="damaged"):
        folder.next_epoch()
    folder.close()


def test_the_token_is_for_us_alone(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    folder.write_token("old")
    folder.write_token("new")
    assert folder.token_file.read_text() == "new\n"
    if sys.platform != "win32":
        assert mode(folder.token_file) == 0o600
    folder.close()


def test_one_run_a_folder(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    folder = Folder(path)
    with pytest.raises(FolderError, match="in use by another run"):
        Folder(path)
    folder.close()
    Folder(path).close()


@posix
def test_a_child_that_inherits_the_lock_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    folder = Folder(path)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[folder.lock],
    ) as child:
        folder.close()
        with pytest.raises(FolderError, match="in use"):
            Folder(path)
        child.communicate()
    Folder(path).close()


@posix
def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    with pytest.raises(FolderError, match="chmod 700"):
        Folder(str(path))


@posix
@pytest.mark.skipif(sys.platform != "win32" and os.geteuid() != 0, reason="only root can give away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    with pytest.raises(FolderError, match="belongs to another user"):
        Folder(str(path))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FolderError, match="choose a folder that you may write to"):
        Folder(str(file / "run"))


@posix
def test_the_path_of_a_socket_has_a_limit(tmp_path: Path) -> None:
    room = LONGEST_SOCKET_PATH - len(os.fsencode(tmp_path)) - len("//control.sock")
    Folder(str(tmp_path / ("x" * room))).close()
    with pytest.raises(FolderError, match="choose a shorter --run-dir"):
        Folder(str(tmp_path / ("x" * (room + 1))))
