"""Sources are kept as they were loaded, and loaded again whatever is on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsraw.config.programs import LOADED
from wsraw.workers.loading import handlers, source
from wsraw.workers.loading import versions as module
from wsraw.workers.loading.versions import INDEX, KeptVersion, SourceKeeper, read_index

HANDLERS = """
from package.part import VALUE
from pathlib import Path

def on_message(msg, con):
    import late
    raise ValueError(f"{VALUE} {late.VALUE} {Path(__file__).name}")  # the first
"""


@pytest.fixture(autouse=True)
def as_before(clean_modules: None) -> Iterator[None]:
    usual, finders = source.SourceFileLoader.get_code, list(sys.meta_path)
    yield
    source.SourceFileLoader.get_code = usual  # type: ignore[method-assign]
    sys.meta_path[:] = finders
    source._keeper = source._version = None


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, "kept_handlers.py", HANDLERS)
    write(folder, "package/__init__.py", "")
    write(folder, "package/part.py", "VALUE = 1")
    write(folder, "late.py", "VALUE = 1")
    return folder


def forget() -> None:
    for name in ("kept_handlers", "package", "package.part", "late"):
        sys.modules.pop(name, None)


def said(project: Path) -> str:
    """The result of the handler; its file, and the line in the traceback."""
    loaded = handlers.load(str(project / "kept_handlers.py"))
    assert loaded.on_message is not None
    with pytest.raises(ValueError) as caught:
        loaded.on_message(b"", None)
    return str(caught.value)


def kept(project: Path, folder: Path, *, late: bool = True) -> None:
    keeper = SourceKeeper(str(folder))
    source.install(keeper)
    if late:
        assert said(project) == "1 1 kept_handlers.py"
    else:
        handlers.load(str(project / "kept_handlers.py"))
    keeper.loaded()
    assert not keeper.why
    forget()
    sys.path.remove(str(project))
    source.install()


def test_a_version_is_loaded_although_its_files_are_gone(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    kept(project, folder)
    assert (folder / LOADED).exists()
    shutil.rmtree(project)
    source.install(version=KeptVersion(str(folder)))
    assert said(project) == "1 1 kept_handlers.py"


def test_a_version_is_loaded_although_its_files_have_changed(project: Path, tmp_path: Path) -> None:
    kept(project, tmp_path / "1")
    write(project, "kept_handlers.py", "raise SystemExit")
    write(project, "package/part.py", "VALUE = 2")
    write(project, "late.py", "VALUE = 2")
    source.install(version=KeptVersion(str(tmp_path / "1")))
    assert said(project) == "1 1 kept_handlers.py"


def test_a_module_that_was_never_loaded_is_loaded_from_disk(project: Path, tmp_path: Path) -> None:
    kept(project, tmp_path / "1", late=False)
    write(project, "late.py", "VALUE = 2")
    source.install(version=KeptVersion(str(tmp_path / "1")))
    assert said(project) == "1 2 kept_handlers.py"


def test_tracebacks_show_what_runs(project: Path, tmp_path: Path) -> None:
    kept(project, tmp_path / "1")
    write(project, "kept_handlers.py", "\n" * 20)
    source.install(version=KeptVersion(str(tmp_path / "1")))
    loaded = handlers.load(str(project / "kept_handlers.py"))
    assert loaded.on_message is not None
    try:
        loaded.on_message(b"", None)
    except ValueError as error:
        assert "# the first" in handlers._traceback(error, project)


def test_the_first_worker_decides_what_a_version_is(project: Path, tmp_path: Path) -> None:
    kept(project, tmp_path / "1")
    write(project, "package/part.py", "VALUE = 2")
    keeper = SourceKeeper(str(tmp_path / "1"))
    source.install(keeper)
    assert said(project) == "2 1 kept_handlers.py"
    forget()
    source.install(version=KeptVersion(str(tmp_path / "1")))
    assert said(project) == "1 1 kept_handlers.py"


def test_a_large_project_is_not_kept(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 100)
    keeper = SourceKeeper(str(tmp_path / "1"))
    source.install(keeper)
    said(project)
    keeper.loaded()
    assert "the project has more than" in keeper.why
    assert not (tmp_path / "1" / LOADED).exists()


def test_a_full_disk_costs_the_way_back_alone(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    keeper = SourceKeeper(str(folder))
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    source.install(keeper)
    assert said(project) == "1 1 kept_handlers.py"
    keeper.loaded()
    assert keeper.why
    assert SourceKeeper(str(folder)).why


def test_what_a_process_with_the_same_id_has_kept_stays(tmp_path: Path) -> None:
    """Process ids are used again within the life of a version."""
    for text in ("VALUE = 'a long one'", "VALUE = 2"):
        path = str(tmp_path / f"{len(text)}.py")
        SourceKeeper(str(tmp_path / "1")).keep("m", path, text.encode(), is_package=False)
    version = KeptVersion(str(tmp_path / "1"))
    assert {version.source(each.path) for each in read_index(str(tmp_path / "1"))} == {
        b"VALUE = 'a long one'",
        b"VALUE = 2",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit for files")
def test_a_line_of_the_index_that_is_cut_short_is_not_called_kept(tmp_path: Path) -> None:
    """A disk that fills takes a part of the line, and may have space again later."""
    import resource

    folder = tmp_path / "1"
    keeper = SourceKeeper(str(folder))
    keeper.keep("one", str(tmp_path / "one.py"), b"", is_package=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / INDEX).stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        keeper.keep("two", str(tmp_path / "two.py"), b"", is_package=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    keeper.loaded()
    assert keeper.why
    assert not (folder / LOADED).exists()


def test_damaged_lines_of_the_index_are_left_out(tmp_path: Path) -> None:
    good = {"name": "m", "path": "/m.py", "is_package": False, "file": "1-1"}
    lines = [json.dumps(good), '{"name": "half', "[]", "7", json.dumps({"other": 1})]
    (tmp_path / INDEX).write_text("\n".join(lines))
    assert [each.name for each in read_index(str(tmp_path))] == ["m"]


@pytest.mark.skipif(os.name == "nt", reason="modes mean nothing there")
def test_what_is_kept_is_for_this_user_alone(project: Path, tmp_path: Path) -> None:
    kept(project, tmp_path / "1")
    assert (tmp_path / "1").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "1").iterdir())


NAMESPACES = """
from spaces.inner.part import VALUE
import spaces.other
def on_message(msg, con):
    raise ValueError(f"{VALUE} {spaces.other.VALUE}")
"""


@pytest.mark.parametrize("then", ["gone", "changed", "a package"])
def test_packages_without_a_file_of_their_own_come_back(tmp_path: Path, then: str) -> None:
    project, folder = tmp_path / "project", tmp_path / "1"
    write(project, "kept_handlers.py", NAMESPACES)
    write(project, "spaces/inner/part.py", "VALUE = 1")
    write(project, "spaces/other.py", "VALUE = 1")
    keeper = SourceKeeper(str(folder))
    source.install(keeper)
    assert said(project) == "1 1"
    keeper.loaded()
    for name in ("kept_handlers", "spaces", "spaces.inner", "spaces.inner.part", "spaces.other"):
        del sys.modules[name]
    sys.path.remove(str(project))
    source.install()
    if then == "gone":
        shutil.rmtree(project)
    else:
        write(project, "spaces/inner/part.py", "VALUE = 2")
        if then == "a package":
            write(project, "spaces/__init__.py", "raise ImportError('of the new version')")
    source.install(version=KeptVersion(str(folder)))
    assert said(project) == "1 1"
    assert str(project / "spaces") in sys.modules["spaces"].__path__
    for name in ("kept_handlers", "spaces", "spaces.inner", "spaces.inner.part", "spaces.other"):
        del sys.modules[name]


def test_a_namespace_that_others_share_has_their_parts_too(tmp_path: Path) -> None:
    project, elsewhere, folder = tmp_path / "project", tmp_path / "elsewhere", tmp_path / "1"
    write(project, "kept_handlers.py", NAMESPACES)
    write(project, "spaces/inner/part.py", "VALUE = 1")
    write(elsewhere, "spaces/other.py", "VALUE = 'elsewhere'")
    sys.path.append(str(elsewhere))
    try:
        source.install(keeper := SourceKeeper(str(folder)))
        assert said(project) == "1 elsewhere"
        keeper.loaded()
        index = folder / INDEX
        lines = [line for line in index.read_text().splitlines() if "elsewhere" not in line]
        index.write_text("\n".join(lines) + "\n")
        for name in ("kept_handlers", "spaces", "spaces.inner", "spaces.inner.part"):
            del sys.modules[name]
        del sys.modules["spaces.other"]
        shutil.rmtree(project / "spaces")
        sys.path.remove(str(project))
        source.install(version=KeptVersion(str(folder)))
        assert said(project) == "1 elsewhere"
    finally:
        sys.path.remove(str(elsewhere))
        for name in [each for each in sys.modules if each.startswith("spaces")]:
            del sys.modules[name]


def test_a_disk_that_is_full_later_costs_the_way_back_too(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The modules that a handler imports when it is called are a part of its version: a rollback
    without them would mix versions.
    """
    logging.getLogger("wsraw").propagate = True
    folder = tmp_path / "1"
    source.install(keeper := SourceKeeper(str(folder)))
    loaded = handlers.load(str(project / "kept_handlers.py"))
    keeper.loaded()
    assert (folder / LOADED).exists()
    (folder / INDEX).unlink()
    (folder / INDEX).mkdir()
    assert loaded.on_message is not None
    with pytest.raises(ValueError):
        loaded.on_message(b"", None)
    assert not (folder / LOADED).exists()
    assert "`wsraw rollback` cannot come back to this version: " in caplog.text
