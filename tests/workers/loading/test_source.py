"""Modules are loaded as they are on disk, whatever bytecode there is."""

from __future__ import annotations

import importlib.util
import os
import py_compile
from pathlib import Path

import pytest

from tests.workers.conftest import Process, message
from wsraw.workers.loading import source

TIME = 1_700_000_000


def write(file: Path, value: int, time: float = TIME) -> None:
    """Write the file with the same length and time as before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"VALUE = {value}\n")
    os.utime(file, (time, time))


def value(file: Path) -> object:
    spec = importlib.util.spec_from_file_location("m", file, loader=source.Loader("m", str(file)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VALUE


@pytest.mark.parametrize("before", ["python's", "foreign", "folder"])
def test_bytecode_is_never_taken(tmp_path: Path, before: str) -> None:
    """Bytecode may be out of date (cpython #75953, #120932)."""
    file = tmp_path / "m.py"
    write(file, 1)
    cache = Path(importlib.util.cache_from_source(str(file)))
    if before == "folder":
        cache.mkdir(parents=True)
    else:
        py_compile.compile(str(file))
        if before == "foreign":
            cache.write_bytes(b"x" * 100)
    write(file, 2)
    assert value(file) == 2
    write(file, 3)
    assert value(file) == 3


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
