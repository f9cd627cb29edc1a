"""`wsraw upgrade` and the supervisor: another program replaces it in the same process."""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.e2e.command_line import ask, done, until_ready, while_serving
from tests.e2e.load import Load, RawClient, WebClient, echo
from tests.e2e.serving import ECHO, TIMEOUT, Serving, assert_gone, receive_exactly, serve
from tests.e2e.test_service_manager import Manager
from tests.e2e.test_upgrade import another_python
from tests.needs import KILL, signals, unix_sockets
from tests.running import Running, environment, is_alive
from wsraw.supervisor.replacing.replacement import CAN_REPLACE

pytestmark = [
    signals,
    unix_sockets,
    pytest.mark.skipif(not CAN_REPLACE, reason="no program can take the place of another here"),
]

Write = Callable[[str], Path]

SOAK = int(os.environ.get("WSRAW_SOAK", "4"))
"""Rounds of the random tests; `make soak` sets more."""


def says(client: socket.socket, data: bytes) -> None:
    """Check that the echo server answers."""
    client.sendall(data)
    assert receive_exactly(client, len(data)) == data


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(each) for task in tasks for each in task.read_text().split()}


def supervisor(serving: Serving) -> int:
    return int(serving.status()["pid"])


def replaced(serving: Serving, count: int = 1) -> None:
    """Wait until the supervisor was replaced that many times in all."""
    serving.run.line("the supervisor is wsraw .* now, with the same pid", count)


def test_the_supervisor_is_replaced_and_its_pid_and_children_stay(tmp_path: Path) -> None:
    python = another_python(tmp_path / "venv")
    options = ("--admin=127.0.0.1:0",)
    with serve(ECHO, *options, workers=2) as serving, serving.tcp() as client:
        says(client, b"before")
        os.kill(serving.worker(1), KILL)
        serving.run.line("worker 3 is ready")
        before = serving.status()
        pid, admin = before["pid"], serving.run.pid("admin")
        assert program(pid) != str(python)
        assert "upgraded: 1 connection and 2 workers moved" in done(
            serving, "upgrade", f"--python={python}"
        )
        replaced(serving)
        after = serving.status()
        assert after["pid"] == pid
        assert program(pid) == str(python)
        for name in ("run_dir", "listen", "admin"):
            assert after[name] == before[name]
        for name in ("n", "pid", "restarts", "state", "acked"):
            assert [w[name] for w in after["workers"]] == [w[name] for w in before["workers"]]
        assert after["age"] >= before["age"]
        assert is_alive(admin)
        assert serving.run.pids("admin") == [admin]
        says(client, b"after")
        # The new supervisor controls its children: it restarts them, reloads them and reads their
        # output.
        os.kill(before["workers"][0]["pid"], KILL)
        serving.run.line("worker 4 is ready")
        assert sum(each["restarts"] for each in serving.status()["workers"]) == 2
        os.kill(admin, KILL)
        eventually(lambda: len(serving.run.pids("admin")) == 2, "another admin process")
        assert "reloaded: 2 workers" in done(serving, "reload")
        says(client, b"still here")


@pytest.mark.long
def test_earlier_versions_of_handlers_stay(handlers: Write) -> None:
    file = handlers("def on_message(msg, con): return b'1'\n")
    with serve(file) as serving, serving.tcp() as client:

        def answer() -> bytes:
            client.sendall(b"?")
            return receive_exactly(client, 1)

        assert answer() == b"1"
        file.write_text("def on_message(msg, con): return b'2'\n")
        done(serving, "reload")
        assert answer() == b"2"
        done(serving, "upgrade")
        assert answer() == b"2"
        assert "rolled back to version 1" in done(serving, "rollback")
        assert answer() == b"1"
        done(serving, "upgrade")
        os.kill(serving.worker(int(serving.status()["workers"][0]["n"])), KILL)
        until_ready(serving, 1)
        assert answer() == b"1"


@pytest.mark.long
def test_files_are_watched_and_limits_given_back_as_before(handlers: Write) -> None:
    text = """
        import resource
        def on_message(msg, con):
            return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} %s"
    """
    file = handlers(text % "1")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, limit[1]))
    try:
        with serve(file, "--reload") as serving, serving.ws() as client:
            client.send("?")
            assert client.recv(TIMEOUT) == "1000 1"
            done(serving, "upgrade")
            time.sleep(0.1)
            file.write_text(file.read_text().replace(" 1", " 2"))
            serving.run.line("handlers.py changed: reloading")
            serving.run.line("info wsraw: reloaded: 1 worker")
            client.send("?")
            assert client.recv(TIMEOUT) == "1000 2"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.long
def test_no_line_of_output_is_lost_or_split(handlers: Write) -> None:
    """The workers write all the time, in pieces of lines."""
    text = """
        import sys, threading, time
        def write():
            number = 0
            while True:
                sys.stdout.write(f"line {number} ")
                sys.stdout.flush()
                sys.stdout.write("of many\\n")
                sys.stdout.flush()
                number += 1
                time.sleep(0.001)
        def on_start():
            threading.Thread(target=write, daemon=True).start()
    """
    with serve(handlers(text), "--log-rate=0") as serving:
        for count in range(1, 4):
            done(serving, "upgrade")
            replaced(serving, count)
        last = len(serving.run.lines)
        serving.run.line("line .* of many")
        numbers = [
            int(found[1])
            for line in serving.run.lines[:last]
            if (found := re.search(r"line (\d+) of many$", line))
        ]
        assert len(numbers) > 100
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.long
def test_twenty_upgrades_in_a_row_under_load_lose_nothing() -> None:
    async def play(serving: Serving) -> None:
        clients = [
            kind(size, 0.002, echo) for kind in (RawClient, WebClient) for size in (20, 3000) * 2
        ]
        async with Load(clients) as load:
            await load.start(serving)
            for _ in range(20):
                await load.more(20)
                assert "upgraded" in await while_serving(serving, "upgrade")
            await load.finish()

    with serve(ECHO, workers=2) as serving:
        pid = supervisor(serving)
        before = len(os.listdir(f"/proc/{pid}/fd"))
        asyncio.run(play(serving))
        replaced(serving, 20)
        after = serving.status()
        assert after["pid"] == pid
        assert after["gateway"]["restarts"] == 0
        assert len(os.listdir(f"/proc/{pid}/fd")) <= before + 1


def test_a_link_to_another_release_is_followed_before_and_after(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        release = tmp_path / f"release-{number}"
        release.mkdir()
        text = f"def on_message(msg, con): return b'{number}'\n"
        (release / "handlers.py").write_text(text)
        (release / "wsraw.toml").write_text(f"max_message_size = {1000 + number}\n")
    current = tmp_path / "current"
    current.symlink_to("release-1")

    def switch(number: int) -> None:
        new = tmp_path / "new"
        new.symlink_to(f"release-{number}")
        new.replace(current)

    with (
        serve(
            "handlers.py", "--config=wsraw.toml", cwd=current, env={"PWD": str(current)}
        ) as serving,
        serving.tcp() as client,
    ):

        def answer() -> bytes:
            client.sendall(b"?")
            return receive_exactly(client, 1)

        assert answer() == b"1"
        switch(2)
        done(serving, "upgrade")
        serving.run.line("settings have changed: max_message_size: by the upgrade")
        assert answer() == b"1"
        done(serving, "reload")
        assert answer() == b"2"
        switch(3)
        assert "max_message_size: by the upgrade" in done(serving, "reload")
        assert answer() == b"3"


# --- failures ---


def script(path: Path, text: str) -> Path:
    """A shell script that runs Python."""
    path.write_text(f'#!/bin/sh\n{text}\nexec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.long
def test_a_program_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    broken = script(
        tmp_path / "python", 'case "$*" in *"-m wsraw"*) echo "SyntaxError: oh" >&2; exit 1;; esac'
    )
    with serve(ECHO) as serving, serving.tcp() as client:
        says(client, b"before")
        pid, gateway = supervisor(serving), serving.gateway
        before = program(pid)
        refused = ask(serving, "upgrade", f"--python={broken}")
        assert refused.returncode == 1
        assert "the new program cannot go on here: SyntaxError: oh; nothing has changed" in (
            refused.stderr
        )
        assert program(pid) == before
        assert serving.status()["gateway"]["pid"] == gateway
        says(client, b"after")
        assert "upgraded" in done(serving, "upgrade")


@pytest.mark.long
def test_a_program_that_is_gone_at_the_last_moment_changes_nothing(tmp_path: Path) -> None:
    vanishes = tmp_path / "python"
    script(vanishes, f'[ -z "$WSRAW_TRIAL" ] || rm "{vanishes}"')
    with serve(ECHO) as serving, serving.tcp() as client:
        says(client, b"before")
        refused = ask(serving, "upgrade", f"--python={vanishes}")
        assert refused.returncode == 1
        assert "No such file or directory; nothing has changed" in refused.stderr
        # The supervisor handles output and exits again.
        os.kill(serving.worker(1), KILL)
        serving.run.line("worker 2 is ready")
        says(client, b"after")
        assert "upgraded" in done(serving, "upgrade")


def test_a_program_that_fails_in_our_place_is_the_death_of_a_supervisor(tmp_path: Path) -> None:
    fails = script(
        tmp_path / "python",
        '[ -n "$WSRAW_TRIAL" ] || case "$*" in *"-m wsraw"*) exit 7;; esac',
    )
    with serve(ECHO) as serving:
        ask(serving, "upgrade", f"--python={fails}")
        assert serving.run.wait() == 7
        eventually(lambda: not any(map(is_alive, serving.run.pids())), "all to be gone")


def test_another_format_of_the_state_is_refused(tmp_path: Path) -> None:
    """A version that cannot read the state of this one refuses the upgrade."""
    other = tmp_path / "sitecustomize.py"
    other.write_text("import wsraw.supervisor.replacing.records as records\nrecords.FORMAT = 99\n")
    python = script(
        tmp_path / "python",
        f'case "$*" in *"-m wsraw"*) export PYTHONPATH="{tmp_path}:$PYTHONPATH";; esac',
    )
    with serve(ECHO) as serving, serving.tcp() as client:
        refused = ask(serving, "upgrade", f"--python={python}")
        assert refused.returncode == 1
        assert "writes its state in format 1, and this wsraw reads format 99" in refused.stderr
        says(client, b"after")


def test_a_gateway_that_refuses_the_new_version_takes_the_supervisor_back(tmp_path: Path) -> None:
    """A downgrade may be refused so."""
    python = another_python(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv[-1:] == ['gateway'] or 'gateway' in sys.orig_argv:\n"
        "    import wsraw.gateway.frozen.gateway as frozen\n"
        "    frozen.FORMAT = 99\n"
    )
    with serve(ECHO) as serving, serving.tcp() as client:
        says(client, b"before")
        pid = supervisor(serving)
        before = program(pid)
        refused = ask(serving, "upgrade", f"--python={python}")
        assert refused.returncode == 1
        assert "99" in refused.stderr
        assert "the old one goes on" in refused.stderr
        serving.run.line("the supervisor goes back to the version of the gateway")
        replaced(serving, 2)
        assert program(pid) == before
        says(client, b"after")
        assert "upgraded" in done(serving, "upgrade")


@pytest.mark.long
def test_a_kill_at_any_instant_leaves_nothing_behind() -> None:
    """The kill counts as the death of a supervisor, even just after it has become another
    program.
    """
    luck = random.Random(os.environ.get("PYTEST_XDIST_WORKER"))
    took = 0.0
    for _ in range(SOAK):
        with serve(ECHO, workers=2) as serving:
            pid = supervisor(serving)
            if not took:
                began = time.monotonic()
                done(serving, "upgrade")
                took = time.monotonic() - began
            command = threading.Thread(target=ask, args=(serving, "upgrade"), daemon=True)
            command.start()
            time.sleep(luck.random() * took)
            os.kill(pid, KILL)
            serving.run.wait()
            pids = serving.run.pids()
            eventually(lambda pids=pids: not any(map(is_alive, pids)), "all to be gone")  # type: ignore[misc]
            command.join(TIMEOUT)


@pytest.mark.long
def test_deaths_and_signals_at_any_instant_are_noticed(tmp_path: Path) -> None:
    luck = random.Random(os.environ.get("PYTEST_XDIST_WORKER"))
    with serve(ECHO, workers=3) as serving, serving.tcp() as client:
        pid = supervisor(serving)
        began = time.monotonic()
        done(serving, "upgrade")
        took = time.monotonic() - began
        for _ in range(SOAK):
            command = threading.Thread(target=ask, args=(serving, "upgrade"), daemon=True)
            command.start()
            time.sleep(luck.random() * took)
            with suppress(ProcessLookupError):
                os.kill(serving.status_now()["workers"][0]["pid"], KILL)
            reloads = sum("SIGHUP: reloading" in line for line in list(serving.run.lines))
            time.sleep(luck.random() * took / 2)
            os.kill(pid, signal.SIGHUP)
            serving.run.line("SIGHUP: reloading", reloads + 1)
            command.join(TIMEOUT)
            until_ready(serving, 3)
            says(client, b"still here")
        assert supervisor(serving) == pid


def test_a_bug_in_freezing_costs_the_upgrade_and_not_the_run(tmp_path: Path) -> None:
    """The run continues with the state that was held."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'run' in sys.orig_argv:\n"
        "    import wsraw.supervisor.replacing.state as state\n"
        "    state.Freezing.policy = None\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), before]))}
    with serve(ECHO, env=env, tracebacks=True) as serving, serving.tcp() as client:
        says(client, b"before")
        refused = ask(serving, "upgrade")
        assert refused.returncode == 1
        assert "refused: a bug in wsraw: " in refused.stderr
        os.kill(serving.worker(1), KILL)
        serving.run.line("worker 2 is ready")
        says(client, b"after")
        assert "refused: a bug in wsraw: " in ask(serving, "upgrade").stderr


def test_a_stop_while_the_supervisor_is_replaced_is_a_stop() -> None:
    with serve(ECHO) as serving:
        with ThreadPoolExecutor(1) as pool:
            command = pool.submit(ask, serving, "upgrade")
            # The new program is being tried out.
            known = {serving.gateway, *serving.run.pids("worker 1")}
            eventually(lambda: children(serving.run.process.pid) - known)
            serving.run.send(signal.SIGTERM)
            assert serving.run.wait() == 0
            told = command.result(TIMEOUT)
        assert_gone(serving)
    assert told.returncode == 1
    assert "upgrade: the run has stopped" in told.stderr or "the run is stopping" in told.stderr


def test_a_python_that_is_asked_ends_with_the_run(tmp_path: Path) -> None:
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f"#!/bin/sh\necho $$ > {asked}.new; mv {asked}.new {asked}\nexec sleep 60\n")
    python.chmod(0o700)
    with serve(ECHO) as serving, ThreadPoolExecutor(1) as pool:
        command = pool.submit(ask, serving, "upgrade", f"--python={python}")
        eventually(asked.exists)
        serving.run.send(signal.SIGTERM)
        assert serving.run.wait() == 0
        assert "upgrade: the run has stopped" in command.result(TIMEOUT).stderr
    eventually(lambda: not is_alive(int(asked.read_text())), "the end of that program")


def test_a_python_that_does_not_answer_holds_up_nothing_but_its_upgrade(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path / 'asked'}\nexec sleep 60\n")
    python.chmod(0o700)
    with serve(ECHO) as serving, ThreadPoolExecutor(1) as pool:
        command = pool.submit(ask, serving, "upgrade", f"--python={python}")
        eventually((tmp_path / "asked").exists)
        assert "an upgrade is under way" in ask(serving, "upgrade").stderr
        os.kill(serving.worker(1), KILL)
        serving.run.line("worker 2 is ready")
        assert not command.done()
        assert "upgrade: refused: " in command.result(TIMEOUT).stderr
        assert done(serving, "reload") == "reloaded: 1 worker\n"


# --- the service manager ---


@pytest.mark.long
def test_a_service_manager_sees_one_process_that_reloads(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    # The socket's queue takes ten datagrams, and the test does not read while a command runs.
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "8000000"}
    with ExitStack() as stack:
        stack.callback(manager.socket.close)
        serving = stack.enter_context(serve(ECHO, env=env))
        manager.wait("READY=1")
        done(serving, "upgrade")
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
        assert not any(message.startswith("MAINPID") for message in manager.heard)
        done(serving, "upgrade")
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        serving.stop()
        manager.wait("STOPPING=1")
        assert serving.run.wait() == 0


@pytest.mark.long
def test_sockets_of_a_service_manager_and_unix_sockets_stay(tmp_path: Path) -> None:
    path = tmp_path / "wsraw.sock"
    with socket.create_server(("127.0.0.1", 0)) as passed:
        number = passed.fileno()
        listen = [f"fd:{number}", f"unix:{path}"]
        run = Running(f"--workers={ECHO}", listen=listen, keep_open=[number])
        with run:
            serving = Serving(run)
            run.line("worker 1 is ready")
            for _ in range(2):
                assert "upgraded" in done(serving, "upgrade")
                for n in range(2):
                    with serving.tcp(n) as client:
                        says(client, b"hello")
            serving.stop()
            assert run.wait() == 0
        assert not path.exists()


@pytest.mark.long
def test_the_variables_of_a_replacement_reach_no_handler(handlers: Write) -> None:
    text = """
        import os
        def on_message(msg, con):
            return " ".join(name for name in os.environ if name.startswith("WSRAW_")) or "none"
    """
    assert not any(name.startswith("WSRAW_REPLACES") for name in environment())
    with serve(handlers(text)) as serving:
        done(serving, "upgrade")
        done(serving, "reload")
        with serving.ws() as client:
            client.send("?")
            assert "WSRAW_REPLACES" not in client.recv(TIMEOUT)
