"""The README's commands in a clean copy of the repository. Slow: pip downloads the dependencies."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.deadline import UNIT, eventually
from tests.e2e.serving import TIMEOUT, receive_exactly
from tests.ports import free_port
from tests.running import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="the Makefile is for POSIX shells"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a repository"),
]

INSTALL = 300 * UNIT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone would contain if all changes here were committed."""
    folder = tmp_path_factory.mktemp("clone") / "wsraw"
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def fresh_environment() -> dict[str, str]:
    """An environment without that of the tests, so that nothing of this repository is found by
    accident.
    """
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    return {name: value for name, value in os.environ.items() if name not in ours}


def test_make_run_serves_and_ctrl_c_stops_it(clone: Path, tmp_path: Path) -> None:
    port = free_port()
    output = tmp_path / "output"
    with output.open("wb") as stream:
        make = subprocess.Popen(
            ["make", "run", f"LISTEN=127.0.0.1:{port}", f"PYTHON={sys.executable}"],
            cwd=clone,
            env=fresh_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ready = r"; ready, pid (\d+)"
        eventually(
            lambda: re.search(ready, output.read_text()) or make.poll() is not None,
            "make run to be ready",
            seconds=INSTALL,
        )
        told = output.read_text()
        assert re.search(ready, told), told
        assert f"wsraw connect tcp://127.0.0.1:{port}" in told
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
            sock.sendall(b"hi\n")
            assert receive_exactly(sock, 3) == b"hi\n"
        with connect(f"ws://127.0.0.1:{port}", proxy=None, open_timeout=TIMEOUT) as client:
            client.send("hi")
            assert client.recv(TIMEOUT) == "hi"
            # Signal the whole foreground process group, as a terminal does.
            os.killpg(make.pid, signal.SIGINT)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        make.wait(TIMEOUT)
        told = output.read_text()
        assert "SIGINT: stopping" in told
        assert "again" not in told
        assert "Traceback" not in told
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)
            make.wait()


def test_the_client_that_make_run_names_is_installed(clone: Path) -> None:
    """`make run` prints the command of a client, which must be installed then."""
    python = clone / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("make run has not been tried")
    done = subprocess.run(
        [str(python), "-m", "websockets", "--version"],
        env=fresh_environment(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr


def test_pip_installs_wsraw_in_a_fresh_environment(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    scripts = folder / "bin"
    environment = fresh_environment()
    installed = subprocess.run(
        [scripts / "pip", "install", "--quiet", "--disable-pip-version-check", str(clone)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=INSTALL,
    )
    assert installed.returncode == 0, installed.stderr
    version = subprocess.run(
        [scripts / "wsraw", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=TIMEOUT,
    )
    assert re.fullmatch(r"wsraw \d+\.\d+\.\d+\n", version.stdout), version
    # The command works from any folder, with only the example from the repository.
    with subprocess.Popen(
        [
            scripts / "wsraw",
            "run",
            f"--workers={clone / 'examples' / 'echo.py'}",
            "--listen=127.0.0.1:0",
        ],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as run:
        assert run.stderr is not None
        while "ready, pid" not in (line := run.stderr.readline()):
            assert line
        found = re.search(r"ws://127.0.0.1:(\d+)", line)
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), TIMEOUT) as sock:
            sock.sendall(b"hi")
            assert receive_exactly(sock, 2) == b"hi"
        run.terminate()
        run.stderr.read()
        assert run.wait(TIMEOUT) == 0
