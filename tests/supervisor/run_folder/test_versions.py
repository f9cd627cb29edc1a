from __future__ import annotations

from pathlib import Path

from wsraw.config.programs import KEPT, LOADED, PRINTS, STATIC, Program
from wsraw.supervisor.decisions.versions import Version
from wsraw.supervisor.run_folder.versions import FOLDER, VersionFolders

CHAT = Program("chat.py", file="chat.py", label="chat.py")
NEWS = Program("news.py", file="news.py", label="news.py")
PHP = Program("php chat.php", words=("php", "chat.php"), label="php chat.php")


def folder_of(folders: VersionFolders, number: int, program: Program = CHAT) -> Path:
    return Path(folders.variable(Version(number), program))


def load(folders: VersionFolders, number: int, program: Program = CHAT) -> Path:
    """Load a file as a worker of that version does."""
    folder = folder_of(folders, number, program)
    folder.mkdir(parents=True)
    (folder / LOADED).touch()
    return folder


def test_each_file_has_a_folder_in_each_version(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    places = {folder_of(folders, n, program) for n in (1, 2) for program in (CHAT, NEWS)}
    assert len(places) == 4
    assert all(tmp_path in place.parents for place in places)
    kept = folders.variable(Version(1, is_kept=True), CHAT)
    assert kept == f"{KEPT}{folder_of(folders, 1)}"


def test_a_long_name_is_no_problem(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    load(folders, 1, Program("x", file="/srv/" + "ä" * 1000 + "/chat.py"))


def test_what_is_not_a_python_file_keeps_nothing(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    for program in (PHP, PRINTS, STATIC):
        assert folders.variable(Version(1), program) == ""


def test_only_what_a_worker_has_loaded_can_be_loaded_again(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    assert folders.problem(1, CHAT) == "version 1 of chat.py was not kept; see the log for why"
    load(folders, 1)
    assert folders.problem(1, CHAT) == ""
    assert "was not kept" in folders.problem(2, CHAT)
    assert "put the old version back, and reload" in folders.problem(1, PHP)
    assert folders.problem(1, STATIC) == folders.problem(1, PRINTS) == ""


def test_versions_that_no_rollback_needs_are_removed(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    first, second = load(folders, 1), load(folders, 2)
    folders.keep({2, 3})
    assert (first.exists(), second.exists()) == (False, True)
    (tmp_path / FOLDER / "note").write_text("by hand")
    VersionFolders(tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == [tmp_path / FOLDER / "note"], "a new run"


def test_one_version_of_one_program_is_forgotten(tmp_path: Path) -> None:
    folders = VersionFolders(tmp_path)
    gone = load(folders, 1)
    others = [load(folders, 2), load(folders, 1, NEWS)]
    for _ in range(2):
        folders.forget(1, CHAT)
    assert not gone.exists()
    assert all(other.exists() for other in others)
