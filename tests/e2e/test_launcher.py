"""Runs that another program starts: without their working folder, or with very long settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.e2e.serving import ECHO, TIMEOUT, serve
from tests.needs import KILL, signals
from tests.running import ROOT

LAUNCHER = """
import sys
sys.path[1:1] = {places!r}
from wsraw.cli import main
sys.exit(main(["run", "--workers", {handlers!r}, "--listen", "127.0.0.1:0"]))
"""


@signals
@pytest.mark.parametrize("finds", [True, False], ids=["wsraw installed", "wsraw on its path alone"])
def test_children_have_the_path_of_a_launcher(finds: bool, tmp_path: Path) -> None:
    lib, app = tmp_path / "lib", tmp_path / "app"
    for folder in (lib, app):
        folder.mkdir()
    (lib / "of_the_launcher.py").write_text("WORD = 'found'")
    (app / "beside_it.py").write_text("WORD = 'too'")
    handlers = tmp_path / "handlers.py"
    handlers.write_text(
        "import beside_it, of_the_launcher\n"
        "def on_start():\n    print(of_the_launcher.WORD, beside_it.WORD)\n"
    )
    python, places = sys.executable, [str(lib)]
    if not finds:
        python = getattr(sys, "_base_executable", python)
        places += [str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    launcher = app / "launch.py"
    launcher.write_text(LAUNCHER.format(places=places, handlers=str(handlers)))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [python, str(launcher)],
        env=environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        seen = []
        for line in run.stderr:
            seen.append(line)
            if "found too" in line or "error" in line:
                break
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=DEADLINE)
    assert "worker 1: found too" in "".join(seen)


@pytest.mark.skipif(sys.platform == "win32", reason="an open folder cannot be removed")
def test_a_run_survives_the_removal_of_the_folder_it_was_started_in(tmp_path: Path) -> None:
    """gunicorn #1723: deploy scripts remove the folder and create it again."""
    folder = tmp_path / "release"
    folder.mkdir()
    with serve(ECHO, cwd=folder) as serving:
        shutil.rmtree(folder)
        for who in (serving.worker(1), serving.gateway):
            os.kill(who, KILL)
        with serving.ws() as client:
            client.send("still here")
            assert client.recv(TIMEOUT) == "still here"


def test_settings_of_any_length_reach_gateway_and_workers(tmp_path: Path) -> None:
    """Linux limits an environment variable to 128 KiB ("Argument list too long")."""
    config = tmp_path / "wsraw.toml"
    routes = "".join(f'[[routes]]\npath = "/{n:0100}"\npool = "default"\n' for n in range(2000))
    config.write_text(routes)
    with serve(ECHO, f"--config={config}") as serving, serving.ws(path=f"/{7:0100}") as client:
        client.send("routed")
        assert client.recv(TIMEOUT) == "routed"
