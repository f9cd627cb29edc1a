from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.deadline import eventually
from wsraw.supervisor import file_watch as module
from wsraw.supervisor.file_watch import FileWatch

links = pytest.mark.skipif(sys.platform == "win32", reason="who may make links there?")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("handlers.py", "helper.py", "package/part.py", ".venv/lib/x.py", "notes.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    return folder


def touch(file: Path, seconds: float) -> None:
    """Move the file's time forward by that many seconds, whatever the file system's clock does."""
    at = file.stat().st_mtime + seconds
    os.utime(file, (at, at))


def watching(*files: Path) -> FileWatch:
    """A watch that has no warnings."""
    told: list[str] = []
    watch = FileWatch(files, told.append)
    assert told == []
    return watch


def test_without_a_change_nothing_is_reported(project: Path) -> None:
    watch = watching(project / "handlers.py")
    assert watch.changed() == []


@pytest.mark.parametrize("name", ["handlers.py", "helper.py", "package/part.py"])
def test_a_written_file_is_a_change(project: Path, name: str) -> None:
    watch = watching(project / "handlers.py")
    touch(project / name, 10)
    assert watch.changed() == [project / name]
    assert watch.changed() == [], "told once"


def test_an_older_file_is_a_change(project: Path) -> None:
    watch = watching(project / "handlers.py")
    touch(project / "helper.py", -1000)
    assert watch.changed() == [project / "helper.py"]


@pytest.mark.parametrize("name", [".venv/lib/x.py", "notes.txt"])
def test_files_that_do_not_belong_to_the_code_are_ignored(project: Path, name: str) -> None:
    watch = watching(project / "handlers.py")
    touch(project / name, 10)
    assert watch.changed() == []


def test_new_and_deleted_files_are_changes(project: Path) -> None:
    watch = watching(project / "handlers.py")
    (project / "new.py").touch()
    (project / "helper.py").unlink()
    assert watch.changed() == [project / "helper.py", project / "new.py"]


def test_a_handlers_file_without_the_suffix_py_is_watched(project: Path) -> None:
    file = project / "handlers"
    file.touch()
    watch = watching(file)
    touch(file, 10)
    assert watch.changed() == [file]


def test_a_file_behind_2000_others_is_watched(project: Path) -> None:
    """The whole project is watched (uvicorn #338)."""
    for n in range(25):
        (project / f"a{n}").mkdir()
        for name in range(100):
            (project / f"a{n}/m{name}.py").touch()
    late = project / "zz/part.py"
    late.parent.mkdir()
    late.touch()
    watch = watching(project / "handlers.py")
    touch(late, 10)
    assert watch.changed() == [late]


def test_a_huge_folder_is_not_walked_to_its_end(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near files are watched, and a warning about the others comes once."""
    for n in range(10):
        (project / f"package/more{n}").mkdir()
        (project / f"package/more{n}/part.py").touch()
    monkeypatch.setattr(module, "MOST_ENTRIES", 16)
    told: list[str] = []
    watch = FileWatch([project / "handlers.py"], told.append)
    touch(project / "package/more5/part.py", 10)
    assert watch.changed() == []
    touch(project / "package/part.py", 10)
    assert watch.changed() == [project / "package/part.py"]
    [line] = told
    assert line.startswith(f"--reload: there are more than 16 files and folders in {project}; ")


@pytest.mark.parametrize(
    ("name", "is_seen"),
    [
        ("tools/other-venv/lib/x.py", False),
        ("node_modules/x.py", False),
        (".git/x.py", False),
        ("__pycache__/x.py", False),
        ("vendor/x.py", True),
        ("env/x.py", True),
        ("folder.py/x.txt", False),
    ],
)
def test_installed_packages_are_not_watched(project: Path, name: str, is_seen: bool) -> None:
    file = project / name
    file.parent.mkdir(parents=True)
    (project / "tools/other-venv").mkdir(parents=True, exist_ok=True)
    (project / "tools/other-venv/pyvenv.cfg").touch()
    watch = watching(project / "handlers.py")
    file.touch()
    assert watch.changed() == ([file] if is_seen else [])


@pytest.mark.skipif(sys.platform == "win32", reason="files have no time of their change there")
def test_a_file_with_the_same_time_and_size_is_a_change_if_it_was_replaced(project: Path) -> None:
    """rsync -t and reproducible builds keep the time (cpython #120932)."""
    file = project / "helper.py"
    before = file.stat()
    watch = watching(project / "handlers.py")
    other = project / "helper.new"
    other.write_text("x = 2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The clock of a file system may stand still for some milliseconds.
    eventually(lambda: os.utime(other, ns=(0, before.st_mtime_ns)) or is_later(other, before))
    other.replace(file)
    assert watch.changed() == [file]


def is_later(file: Path, before: os.stat_result) -> bool:
    return file.stat().st_ctime_ns > before.st_ctime_ns


def release(folder: Path, text: str) -> None:
    for name in ("handlers.py", "lib/part.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def point(link: Path, to: str) -> None:
    link.with_name("new link").symlink_to(to)
    link.with_name("new link").replace(link)


@links
def test_a_symbolic_link_that_moves_is_a_change(tmp_path: Path) -> None:
    """gunicorn #394."""
    for n in "12":
        release(tmp_path / f"releases/{n}", f"x = {n}\n")
    point(tmp_path / "current", "releases/1")
    files = [tmp_path / "current/handlers.py", tmp_path / "current/lib/part.py"]
    watch = watching(files[0])
    assert watch.changed() == []
    point(tmp_path / "current", "releases/2")
    assert watch.changed() == files
    (tmp_path / "releases/2/lib/more.py").touch()
    assert watch.changed() == [tmp_path / "current/lib/more.py"], "looked at where it is now"


@links
def test_the_update_of_a_kubernetes_config_map_is_a_change(tmp_path: Path) -> None:
    """Each file is a link through another link (matrix-media-repo #319, cfg4k #65)."""
    for n in "12":
        release(tmp_path / f"..v{n}", f"x = {n}\n")
    point(tmp_path / "..data", "..v1")
    file = tmp_path / "handlers.py"
    file.symlink_to("..data/handlers.py")
    watch = watching(file)
    point(tmp_path / "..data", "..v2")
    assert watch.changed() == [file, tmp_path / "lib/part.py"]


@links
def test_symbolic_links_within_a_project_are_followed(project: Path, tmp_path: Path) -> None:
    """The links point to folders outside of the project, and in a circle."""
    for n in "12":
        release(tmp_path / f"plugins-{n}", "x = 1\n")
    (project / "circle").symlink_to(project)
    point(project / "plugins", "../plugins-1")
    watch = watching(project / "handlers.py")
    touch(tmp_path / "plugins-1/lib/part.py", 10)
    assert watch.changed() == [project / "plugins/lib/part.py"]
    point(project / "plugins", "../plugins-2")
    assert watch.changed() == [
        project / "plugins/handlers.py",
        project / "plugins/lib/part.py",
    ]
    (project / "package").rename(tmp_path / "away")
    assert watch.changed() == [project / "package/part.py"]


def test_files_of_other_languages_are_watched(tmp_path: Path) -> None:
    """For each file, files with the same suffix in its folder and below are watched; a file
    without a suffix is watched alone.
    """
    for name in ("a.mjs", "lib/b.mjs", "node_modules/c.mjs", "d.py", "tool", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    watch = watching(tmp_path / "a.mjs", tmp_path / "tool")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_text("22")
    root = tmp_path.resolve()
    assert watch.changed() == [root / "a.mjs", root / "lib/b.mjs", root / "tool"]


def test_of_a_file_in_a_package_the_whole_project_is_watched(project: Path) -> None:
    (project / "package" / "__init__.py").touch()
    (project / "beside" / "inner").mkdir(parents=True)
    other = project / "beside" / "inner" / "other.py"
    other.touch()
    watch = watching(project / "package" / "part.py")
    touch(other, 10)
    touch(project / "package" / "part.py", 10)
    assert watch.changed() == [other, project / "package" / "part.py"]
