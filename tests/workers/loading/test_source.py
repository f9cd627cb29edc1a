"""Modules are loaded as they are on the disk, whatever bytecode is there."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import shutil
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest

from tests.workers.conftest import Process, message
from wsraw.workers.loading import source

TIME = 1_700_000_000


@pytest.fixture(autouse=True)
def caching(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONDONTWRITEBYTECODE, where it is set, would hide all this."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def write(file: Path, value: int, time: float = TIME) -> None:
    """Always of the same length and time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"VALUE = {value}\n")
    os.utime(file, (time, time))


def value(file: Path, loader: type[SourceFileLoader] = source.Loader) -> object:
    spec = importlib.util.spec_from_file_location("m", file, loader=loader("m", str(file)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VALUE


def cache(file: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(file)))


@pytest.mark.parametrize("before", ["ours", "python's", "cut", "empty", "foreign", "folder"])
def test_bytecode_of_another_text_is_never_taken(tmp_path: Path, before: str) -> None:
    """cpython #75953, #120932."""
    file = tmp_path / "m.py"
    write(file, 1)
    if before == "ours":
        assert value(file) == 1
    elif before == "folder":
        cache(file).mkdir(parents=True)
    else:
        py_compile.compile(str(file))
        whole = cache(file).read_bytes()
        data = {"python's": whole, "cut": whole[:-5], "empty": b"", "foreign": b"x" * 100}[before]
        cache(file).write_bytes(data)
    write(file, 2)
    assert value(file) == 2
    assert value(file) == 2, "of what has been written now"
    write(file, 3)
    assert value(file) == 3


def test_python_accepts_the_bytecode_that_is_written(tmp_path: Path) -> None:
    """So do processes that multiprocessing spawns, which have the usual loader."""
    file = tmp_path / "m.py"
    for n in (1, 2):
        write(file, n)
        assert value(file) == n
        assert value(file, SourceFileLoader) == n
    write(file, 3)
    assert value(file, SourceFileLoader) == 3


def test_bytecode_of_the_same_text_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.py"
    write(file, 1)
    assert value(file) == 1

    def compile_again(*arguments: object) -> CodeType:
        raise AssertionError("compiled again")

    monkeypatch.setattr(source.Loader, "source_to_code", compile_again)
    write(file, 1, TIME + 100)
    assert value(file) == 1


def test_a_moved_file_shows_its_new_path(tmp_path: Path) -> None:
    write(tmp_path / "one/m.py", 1)
    value(tmp_path / "one/m.py")
    shutil.move(tmp_path / "one", tmp_path / "two")
    file = tmp_path / "two/m.py"
    assert cache(file).exists()
    assert source.Loader("m", str(file)).get_code("m").co_filename == str(file)


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_bytecode_is_as_private_as_its_source(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    write(file, 1)
    file.chmod(0o600)
    value(file)
    assert cache(file).stat().st_mode & 0o777 == 0o600


def test_a_file_in_a_read_only_folder_loads(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    write(file, 1)
    (tmp_path / "__pycache__").write_text("not a folder")
    assert value(file) == 1
    write(file, 2)
    assert value(file) == 2


@pytest.mark.parametrize(
    ("path", "installed"),
    [
        ("/srv/app/handlers.py", False),
        ("/srv/app/.venv/lib/python3.11/site-packages/m/x.py", True),
        ("/usr/lib/python3/dist-packages/m.py", True),
        (os.__file__, True),
    ],
)
def test_installed_modules_are_left_to_python(path: str, installed: bool) -> None:
    assert source._is_installed(path) is installed


HANDLERS = """
import importlib.util
from pathlib import Path
import m, package.part

spec = importlib.util.spec_from_file_location("plugin", Path(__file__).with_name("plugin.py"))
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)

def on_message(msg, con):
    import late
    return str([each.VALUE for each in (m, package, package.part, plugin, late)])
"""


def test_a_reloaded_worker_imports_every_changed_module_of_its_folder(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    names = ("m", "package/__init__", "package/part", "plugin", "late")
    for n in (1, 2):
        for name in names:
            file = tmp_path / f"{name}.py"
            write(file, n)
            if n == 1:
                py_compile.compile(str(file))
    process.start(HANDLERS)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "an answer")
    assert process.sent() == [b"[2, 2, 2, 2, 2]"]
