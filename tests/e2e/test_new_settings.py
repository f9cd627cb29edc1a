"""`wsraw reload` reads all kinds of changed settings again while clients stay connected."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import ECHO, TIMEOUT, Serving, receive_exactly, serve
from tests.needs import signals, unix_sockets
from tests.running import is_alive

pytestmark = [signals, unix_sockets]

Write = Callable[[str], Path]

UPPER = "def on_message(msg, con):\n    return msg['data'].upper()\n"


class Case:
    """A run with a settings file, and a client that stays connected."""

    def __init__(self, serving: Serving, file: Path, client: socket.socket) -> None:
        self.serving = serving
        self.file = file
        self.client = client

    def change(self, text: str) -> str:
        """Change the settings and reload; returns the command's output."""
        self.file.write_text(text)
        said = done(self.serving, "reload")
        self.says(b"still here?")
        return said

    def says(self, data: bytes, answer: bytes = b"") -> None:
        self.client.sendall(data)
        assert receive_exactly(self.client, len(data)).lower() == (answer or data).lower()


@contextmanager
def begun(tmp_path: Path, *more: str, tracebacks: bool = False) -> Iterator[Case]:
    file = tmp_path / "wsraw.toml"
    file.write_text(f'workers = ["{ECHO}"]\n')
    options = (f"--config={file}", *more)
    with serve(None, *options, tracebacks=tracebacks) as serving, serving.tcp() as client:
        case = Case(serving, file, client)
        case.says(b"before")
        yield case


@pytest.mark.long
def test_another_number_of_workers_is_taken_by_a_reload(tmp_path: Path, handlers: Write) -> None:
    with begun(tmp_path, tracebacks=True) as case:
        gateway = case.serving.gateway
        said = case.change(f'workers = ["{ECHO}:3"]\n')
        assert "workers: by starting and stopping workers" in said
        until_ready(case.serving, 3)
        # Workers with other handlers replace those that were removed.
        upper = handlers(UPPER)
        said = case.change(f'workers = ["{upper}:2"]\n')
        assert "reloaded: 2 workers" in said
        until_ready(case.serving, 2)
        case.client.sendall(b"hello")
        assert receive_exactly(case.client, 5) == b"HELLO"
        assert case.serving.gateway == gateway
        # Handlers that cannot be loaded change nothing.
        broken = tmp_path / "broken.py"
        broken.write_text("1 / 0\n")
        case.file.write_text(f'workers = ["{broken}:2"]\n')
        refused = ask(case.serving, "reload")
        assert refused.returncode == 1
        assert "old ones stay" in refused.stderr
        case.client.sendall(b"hello")
        assert receive_exactly(case.client, 5) == b"HELLO"
        case.change(f'workers = ["{ECHO}:1"]\n')
        until_ready(case.serving, 1)


def test_other_pools_and_routes_are_taken_by_a_reload(tmp_path: Path, handlers: Write) -> None:
    upper = handlers(UPPER)
    with begun(tmp_path) as case:
        pool = f'[[pools]]\nname = "upper"\nworkers = ["{upper}"]\n'
        route = '[[routes]]\npath = "/upper"\npool = "upper"\n'
        said = case.change(f'workers = ["{ECHO}"]\n{pool}{route}')
        assert "pools: by the upgrade of the gateway and new workers" in said
        until_ready(case.serving, 2)
        with case.serving.ws(path="/upper") as client:
            client.send("hello")
            assert client.recv(TIMEOUT) == "HELLO"
            # A new number of workers needs no new gateway.
            gateway = case.serving.gateway
            case.change(f'workers = ["{ECHO}"]\n{pool.replace(str(upper), f"{upper}:2")}{route}')
            until_ready(case.serving, 3)
            assert case.serving.gateway == gateway
            client.send("again")
            assert client.recv(TIMEOUT) == "AGAIN"
            case.change(f'workers = ["{ECHO}"]\n')
            eventually(lambda: len(case.serving.status()["pools"]) == 1, "the pool to go")
        until_ready(case.serving, 1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=TIMEOUT) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.long
def test_another_admin_address_is_taken_by_a_reload(tmp_path: Path) -> None:
    workers = f'workers = ["{ECHO}"]\n'
    with begun(tmp_path) as case:
        gateway = case.serving.gateway
        said = case.change(f'{workers}admin = "127.0.0.1:0"\n')
        assert "admin: by a new admin process" in said
        url = case.serving.status()["admin"]
        eventually(lambda: answers(url), "the admin process to answer")
        first = case.serving.run.pid("admin")
        own = Path(case.serving.folder) / "admin-token"
        assert own.exists()
        token = tmp_path / "token"
        token.write_text("secret\n")
        case.change(f'{workers}admin = "127.0.0.1:0"\nadmin_token = "{token}"\n')
        eventually(lambda: not is_alive(first), "the admin process to be replaced")
        assert case.serving.status()["admin"] == url
        eventually(lambda: answers(url), "the admin process to answer")
        assert not own.exists(), "the link of wsraw status would have it"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            case.file.write_text(f'{workers}admin = "127.0.0.1:{port}"\n')
            refused = ask(case.serving, "reload")
            assert refused.returncode == 1
            assert "new settings are refused: " in refused.stderr
            assert f"{port}" in refused.stderr
        assert answers(url)
        case.change(f'{workers}admin = "127.0.0.1:{port}"\n')
        other = case.serving.status()["admin"]
        assert other.endswith(f":{port}")
        eventually(lambda: answers(other), "the admin process to answer")
        case.change(workers)
        assert case.serving.status()["admin"] is None
        eventually(lambda: not answers(other), "the admin process to leave")
        assert case.serving.gateway == gateway


@pytest.mark.long
def test_settings_of_the_supervisor_change_at_once(tmp_path: Path) -> None:
    workers = f'workers = ["{ECHO}"]\n'
    with begun(tmp_path) as case:
        gateway = case.serving.gateway
        said = case.change(
            f'{workers}log_format = "json"\nlog_rate = 100000\nrestart_intensity = 9\n'
            "reload = true\n"
        )
        for name in ("log_format", "log_rate", "restart_intensity", "reload"):
            assert name in said.partition(": at once")[0]
        last = case.serving.run.lines[-1]
        assert json.loads(last)["level"]
        # No worker fits into 1 MiB.
        case.change(f"{workers}max_memory = 1048576\n")
        case.serving.run.line("it holds .* of memory, more than max_memory")
        case.change(workers)
        assert case.serving.gateway == gateway


def test_run_dir_waits_for_the_next_start(tmp_path: Path) -> None:
    with begun(tmp_path) as case:
        said = case.change(f'workers = ["{ECHO}"]\nrun_dir = "{tmp_path / "other"}"\n')
        assert "run_dir: at the next start of the run" in said
        assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_other_bridges_are_taken_by_a_reload(tmp_path: Path) -> None:
    with begun(tmp_path) as case, socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(TIMEOUT)
        port = target.getsockname()[1]
        bridge = f'[[bridges]]\npath = "/bridge"\nto = "tcp://127.0.0.1:{port}"\n'
        said = case.change(f'workers = ["{ECHO}"]\n{bridge}')
        assert "bridges: by the upgrade of the gateway" in said
        with case.serving.ws(path="/bridge") as client:
            there, _ = target.accept()
            with there:
                there.sendall(b"hello")
                assert client.recv(TIMEOUT) == b"hello"
                # An open connection stays when its bridge is removed.
                case.change(f'workers = ["{ECHO}"]\n')
                there.sendall(b"more")
                assert client.recv(TIMEOUT) == b"more"


@pytest.mark.long
def test_a_cluster_is_joined_by_a_reload(tmp_path: Path) -> None:
    """No NATS server is at the address, and clients must not notice."""
    pytest.importorskip("nats")
    workers = f'workers = ["{ECHO}"]\n'
    with begun(tmp_path) as case:
        said = case.change(f'{workers}cluster = ["nats://127.0.0.1:1"]\nnode = "one"\n')
        assert "cluster, node: by the upgrade of the gateway and a new agent" in said
        first = case.serving.run.pid("agent")
        case.change(f'{workers}cluster = ["nats://127.0.0.1:1"]\nnode = "two"\n')
        eventually(lambda: not is_alive(first), "the agent to be replaced")
        eventually(lambda: len(case.serving.run.pids("agent")) > 1, "another agent")
        case.change(workers)
        second = case.serving.run.pids("agent")[-1]
        eventually(lambda: not is_alive(second), "the agent to leave")
        assert case.serving.status()["agent"] is None


def test_settings_from_a_pipe_are_not_taken_for_an_empty_file_later(tmp_path: Path) -> None:
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    writing = threading.Thread(
        target=pipe.write_text, args=(f'workers = ["{ECHO}:2"]\n',), daemon=True
    )
    writing.start()
    with serve(None, f"--config={pipe}") as serving:
        writing.join()
        refused = ask(serving, "reload")
        assert refused.returncode == 1
        assert "a pipe cannot be read again; give --config a file" in refused.stderr
        assert [worker["runs"] for worker in serving.status()["workers"]] == ["echo.py"] * 2


@pytest.mark.long
def test_a_reload_during_an_upgrade_says_which_settings_are_not_in_force(tmp_path: Path) -> None:
    """The upgrade has read the settings before they were changed."""
    patient = "--upgrade-timeout=1h"
    with (
        begun(tmp_path, patient, tracebacks=True) as case,
        ThreadPoolExecutor() as threads,
    ):
        run = case.serving.run
        upgrade = threads.submit(done, case.serving, "upgrade")
        new = int(run.line(r"gateway started, pid (\d+)", 2)[1])
        os.kill(new, signal.SIGSTOP)
        case.file.write_text(f'workers = ["{ECHO}"]\nstop_timeout = 7\n')
        reload = threads.submit(ask, case.serving, "reload")
        run.line("wsraw reload: reloading default")
        os.kill(new, signal.SIGCONT)
        upgrade.result()
        refused = reload.result()
        assert refused.returncode == 1
        assert "stop_timeout: changed during the upgrade, and not in force" in refused.stderr
        assert "stop_timeout: at once" in done(case.serving, "reload")
