from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsraw.supervisor import watch as module
from wsraw.supervisor.watch import Watch


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("handlers.py", "helper.py", "package/part.py", ".venv/lib/x.py", "notes.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    return folder


def touch(file: Path, seconds: float) -> None:
    """As if it had been written so much later, whatever the clock of the file system does."""
    at = file.stat().st_mtime + seconds
    os.utime(file, (at, at))


def test_nothing_changed(project: Path) -> None:
    watch = Watch([project / "handlers.py"])
    assert watch.changed() == []


@pytest.mark.parametrize("name", ["handlers.py", "helper.py", "package/part.py"])
def test_a_file_that_is_written(project: Path, name: str) -> None:
    watch = Watch([project / "handlers.py"])
    touch(project / name, 10)
    assert watch.changed() == [project / name]
    assert watch.changed() == [], "told once"


def test_an_older_file_is_another_one(project: Path) -> None:
    watch = Watch([project / "handlers.py"])
    touch(project / "helper.py", -1000)
    assert watch.changed() == [project / "helper.py"]


@pytest.mark.parametrize("name", [".venv/lib/x.py", "notes.txt"])
def test_what_is_no_part_of_it(project: Path, name: str) -> None:
    watch = Watch([project / "handlers.py"])
    touch(project / name, 10)
    assert watch.changed() == []


def test_files_that_come_and_go(project: Path) -> None:
    watch = Watch([project / "handlers.py"])
    (project / "new.py").touch()
    (project / "helper.py").unlink()
    assert watch.changed() == [project / "helper.py", project / "new.py"]


def test_the_handlers_file_need_not_end_in_py(project: Path) -> None:
    file = project / "handlers"
    file.touch()
    watch = Watch([file])
    touch(file, 10)
    assert watch.changed() == [file]


def test_a_huge_folder_is_not_walked_to_its_end(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 2)
    watch = Watch([project / "handlers.py"])
    touch(project / "package/part.py", 10)
    assert watch.changed() == []
    touch(project / "handlers.py", 10)
    assert watch.changed() == [project / "handlers.py"]


def test_files_of_other_languages(tmp_path: Path) -> None:
    """Of each, those of its own suffix in its folder or below; what has none stands alone."""
    for name in ("a.mjs", "lib/b.mjs", "node_modules/c.mjs", "d.py", "tool", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    watch = Watch([tmp_path / "a.mjs", tmp_path / "tool"])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_text("22")
    root = tmp_path.resolve()
    assert watch.changed() == [root / "a.mjs", root / "lib/b.mjs", root / "tool"]
