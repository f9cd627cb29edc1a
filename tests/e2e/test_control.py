"""The command line controls a run: status, stop, drain, and how the run is found."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.deadline import eventually
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import ECHO, TIMEOUT, assert_gone, linux, posix, serve
from tests.fuzz.bad_peer import BadPeer
from tests.needs import KILL, signals, unix_sockets
from tests.running import Running, command, environment, wsraw
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.link.server import COMPLAIN_EVERY

Write = Callable[[str], Path]


def test_status_shows_the_processes() -> None:
    with serve(ECHO, workers=2) as serving:
        data = json.loads(done(serving, "status", "--json"))
        assert data["pid"] == serving.run.process.pid
        assert data["run_dir"] == str(serving.folder)
        assert data["listen"][0] == serving.url().rstrip("/")
        assert data["gateway"]["pid"] == serving.gateway
        assert data["crash_loop"] is False
        assert [worker["pid"] for worker in data["workers"]] == [
            serving.worker(1), serving.worker(2),
        ]  # fmt: skip
        text = done(serving, "status")
        assert f"gateway: ready, pid {serving.gateway}" in text


@posix
def test_status_shows_deaths_of_workers() -> None:
    with serve(ECHO, workers=2) as serving:
        os.kill(serving.worker(1), signal.SIGSEGV)
        serving.run.line("worker 3 is ready")
        (dead,) = [worker for worker in until_ready(serving, 2) if worker["restarts"]]
        assert (dead["n"], dead["last_reason"]) == (3, "was killed by SIGSEGV")
        assert "worker 3: the last one was killed by SIGSEGV" in done(serving, "status")


@posix
def test_the_exit_code_of_status_tells_whether_all_clients_are_served(handlers: Write) -> None:
    with serve(ECHO, "--pool=far=none", "--route=/far=far") as serving:
        told = ask(serving, "status")
        assert told.returncode == 1
        assert "DEGRADED: the pool far has no ready worker" in told.stdout
        told = ask(serving, "status", "--json")
        assert told.returncode == 1
        assert json.loads(told.stdout)["problems"] == ["the pool far has no ready worker"]
    with serve(ECHO) as serving:
        assert ask(serving, "status").returncode == 0


@posix
def test_status_shows_the_rest_when_the_gateway_does_not_answer() -> None:
    with serve(ECHO) as serving:
        os.kill(serving.gateway, signal.SIGSTOP)
        try:
            data = serving.status_now()
        finally:
            os.kill(serving.gateway, signal.SIGCONT)
        assert data["gateway"]["answers"] is False
        assert data["workers"][0]["pid"] == serving.worker(1)


def test_the_stop_command_ends_the_run() -> None:
    with serve(ECHO, workers=2) as serving, serving.ws() as client:
        assert done(serving, "stop") == "stopped, exit code 0\n"
        assert_gone(serving)
        with pytest.raises(Exception, match="going away"):
            client.recv(TIMEOUT)
        assert serving.run.wait() == 0


@pytest.mark.skipif(HAS_UNIX, reason="the gateway can be upgraded here")
def test_an_upgrade_is_refused_where_no_socket_can_be_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text("max_message_size = 1000\n")
    with serve(ECHO, f"--config={file}") as serving, serving.ws() as web:
        gateway = serving.gateway
        refused = ask(serving, "upgrade")
        assert refused.returncode == 1
        assert "this platform cannot pass the sockets of clients to another" in refused.stderr
        file.write_text("max_message_size = 2000\nstop_timeout = 7\n")
        said = done(serving, "reload")
        assert "max_message_size: at the next start of the run" in said
        assert "stop_timeout: at once" in said
        web.send("the same client")
        assert web.recv(TIMEOUT) == "the same client"
        assert serving.gateway == gateway


def test_a_stop_comes_back_when_the_folder_is_free(tmp_path: Path) -> None:
    folder = f"--run-dir={tmp_path / 'run'}"
    for _ in range(3):
        with Running(f"--workers={ECHO}", folder) as run:
            run.ready()
            assert wsraw("stop", folder).returncode == 0
            assert run.wait() == 0


def test_a_drain_waits_for_handlers_beyond_any_deadline(handlers: Write, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = f"""
        import os, time
        def on_message(msg, con):
            print("in the handler")
            while not os.path.exists({str(gate)!r}): time.sleep(0.01)
            return "finished"
    """
    with serve(handlers(text), "--stop-timeout=0.5") as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("in the handler")
        told = ask(serving, "drain", "--timeout=2.5")
        assert told.returncode == 1, "it goes on"
        assert "no answer within 2.5 s" in told.stderr
        assert serving.run.process.poll() is None
        assert "the run is draining" not in told.stdout
        gate.touch()
        assert client.recv(TIMEOUT) == "finished"
        assert serving.run.wait() == 0


def test_a_stop_shortens_a_drain(handlers: Write) -> None:
    text = """
        import time
        def on_message(msg, con):
            print("in the handler")
            while True: time.sleep(1)
    """
    with serve(handlers(text), "--stop-timeout=1") as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("in the handler")
        assert ask(serving, "drain", "--timeout=1").returncode == 1
        assert ask(serving, "reload").returncode == 1, "the run is stopping"
        done(serving, "stop")
        assert serving.run.wait() == 0


# --- finding the run ---


def alone(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that finds the run by itself, among the runs of this folder."""
    return subprocess.run(
        command(*arguments),
        env=environment() | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def folder_of(run: Running) -> Path:
    return Path(run.line(r"link ipc://(\S+)/link.sock")[1])


@posix
def test_the_only_run_is_found_and_several_are_listed() -> None:
    with Running(f"--workers={ECHO}") as one:
        one.ready()
        base = folder_of(one).parent.parent
        assert alone(base, "status").returncode == 0
        dead = base / f"wsraw-{os.geteuid()}" / "dead"
        dead.mkdir()
        (dead / "lock").touch()
        assert alone(base, "status").returncode == 0, "one that is over is none"
        folder = base / f"wsraw-{os.geteuid()}" / "second"
        with Running(f"--workers={ECHO}", f"--run-dir={folder}") as two:
            two.ready()
            told = alone(base, "status")
            assert told.returncode == 2
            assert "there are 2 runs; choose one with --run-dir or WSRAW_RUN_DIR:" in told.stderr
            for run in (one, two):
                where = f"ws://127.0.0.1:{run.port} and tcp://127.0.0.1:{run.port}"
                line = f"  {folder_of(run)}  pid {run.process.pid}, {where}\n"
                assert line in told.stderr
            two.send(signal.SIGTERM)
            assert two.wait() == 0
        assert alone(base, "stop").returncode == 0
        assert one.wait() == 0
        assert alone(base, "status").returncode == 2


@pytest.mark.parametrize("what", ["status", "reload", "stop", "drain"])
def test_commands_without_a_run_say_so(what: str, tmp_path: Path) -> None:
    told = alone(tmp_path, what)
    assert told.returncode == 2
    assert told.stderr.startswith("wsraw: no run in ")
    assert told.stderr.count("\n") == 1
    told = wsraw(what, "--run-dir", str(tmp_path))
    assert told.returncode == 2
    assert f"no run in {tmp_path}" in told.stderr


@posix
def test_a_command_to_a_run_that_is_killed_ends_with_an_error(handlers: Write) -> None:
    text = """
        import time
        def on_message(msg, con):
            print("in the handler")
            time.sleep(600)
    """
    with serve(handlers(text)) as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("in the handler")
        asking = subprocess.Popen(
            command("drain", "--run-dir", str(serving.folder)),
            env=environment(),
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        with asking:
            eventually(lambda: "listening on" in str(serving))
            serving.run.send(signal.SIGKILL)
            serving.run.process.wait()
            assert asking.wait(TIMEOUT) == 2
            assert asking.stderr is not None
            assert "wsraw: " in asking.stderr.read()
        eventually(lambda: asking.returncode is not None)


@posix
def test_only_a_command_with_the_token_is_answered(tmp_path: Path) -> None:
    """The request uses a wrong folder beside the run folder, as the run would repair its own."""
    with serve(ECHO) as serving:
        assert serving.folder is not None
        file = serving.folder / "control-token"
        assert file.stat().st_mode & 0o777 == 0o600
        token, endpoint = file.read_text().splitlines()
        (tmp_path / "control-token").write_text(f"{'0' * len(token)}\n{endpoint}\n")
        (tmp_path / "lock").symlink_to(serving.folder / "lock")
        told = wsraw("stop", "--timeout=1", "--run-dir", str(tmp_path))
        assert told.returncode == 1
        assert told.stderr.count("\n") == 1
        assert "the token is wrong" in told.stderr
        (tmp_path / "control-token").write_text(f"{token}\n{endpoint}\n")
        told = wsraw("status", "--run-dir", str(tmp_path))
        assert told.returncode == 0, told.stderr


@linux
@unix_sockets
def test_garbage_on_the_control_socket_disturbs_nobody() -> None:
    """The same holds for clients of the socket that connect and send nothing."""
    with serve(ECHO) as serving, serving.ws() as client, ExitStack() as silent:
        supervisor = serving.run.process.pid
        path = f"{serving.folder}/control.sock"
        opened = len(os.listdir(f"/proc/{supervisor}/fd"))
        before, began = len(serving.run.lines), time.monotonic()
        for _ in range(300):
            sock = silent.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(path)
        bad = BadPeer(f"ipc://{path}", random.Random(1))
        for n in range(1000):
            bad.attack()
            if n % 200 == 0:
                assert serving.status()["gateway"]["answers"]
                client.send("x")
                assert client.recv(TIMEOUT) == "x"
        bad.close()
        serving.run.line("warning wsraw: closed a connection to ipc://")
        silent.close()
        eventually(lambda: len(os.listdir(f"/proc/{supervisor}/fd")) <= opened, "all to be closed")
        assert serving.status()["gateway"]["restarts"] == 0
        most = 5 + (time.monotonic() - began) / COMPLAIN_EVERY
        assert len(serving.run.lines) - before <= most, serving


def test_a_folder_with_dead_letters_is_kept(tmp_path: Path) -> None:
    with serve(ECHO) as serving:
        assert serving.folder is not None
        letters = serving.folder / "dead-letters.jsonl"
        letters.write_text('{"event": "on_message"}\n')
        serving.stop()
        assert serving.run.wait() == 0
        serving.run.line(re.escape(f"dead letters are kept: {letters}"))
        left = {path.name for path in serving.folder.iterdir()}
        assert left == {"dead-letters.jsonl", "epoch", "lock"}
        told = ask(serving, "dead-letters")
        assert told.returncode == 0
        assert "on_message" in told.stdout
        letters.unlink()
        for path in serving.folder.iterdir():
            path.unlink()
        serving.folder.rmdir()


@posix
def test_a_worker_that_hangs_shows_where_and_status_says_why(handlers: Write) -> None:
    text = """
        import time
        def on_message(msg, con):
            while con.delivery == 1: time.sleep(0.01)
            return "again"
    """
    with serve(handlers(text), "--handler-timeout=1") as serving, serving.ws() as client:
        client.send("x")
        assert client.recv(TIMEOUT) == "again"
        why = r"its on_message of connection [0-9]+ \(127.0.0.1:[0-9]+\) has run for"
        serving.run.line(f"aborting worker 1: {why}")
        serving.run.line("info worker 1: .*in on_message")
        (worker,) = until_ready(serving, 1)
        assert re.match(rf"was killed by SIGABRT \({why}", worker["last_reason"])


@posix
def test_a_worker_that_dies_while_the_supervisor_is_stopped_is_replaced_afterwards() -> None:
    """The end of the worker's link tells the gateway meanwhile, and the other worker serves its
    clients.
    """
    with serve(ECHO, workers=2) as serving, ExitStack() as connected:
        clients = [connected.enter_context(serving.ws()) for _ in range(4)]
        serving.run.send(signal.SIGSTOP)
        try:
            os.kill(serving.worker(1), KILL)
            for n in range(20):
                for client in clients:
                    client.send(str(n))
                    assert client.recv(TIMEOUT) == str(n)
        finally:
            serving.run.send(signal.SIGCONT)
        workers = until_ready(serving, 2)
        assert sum(worker["restarts"] for worker in workers) == 1
        for client in clients:
            client.send("again")
            assert client.recv(TIMEOUT) == "again"


@linux
@signals
def test_only_the_event_that_hangs_is_blamed_when_others_came_in_its_batch(
    handlers: Write,
) -> None:
    text = """
        import time
        def on_message(msg, con):
            while msg["data"] == "hang": time.sleep(0.01)
            return str(con.id)
    """
    options = ("--handler-timeout=1", "--delivery=at-most-once")
    with serve(handlers(text), *options) as serving, serving.ws() as one, serving.ws() as other:
        ids = []
        for client in (one, other):
            client.send("id")
            ids.append(client.recv(TIMEOUT))
        os.kill(serving.gateway, signal.SIGSTOP)
        one.send("quick")
        other.send("hang")
        os.kill(serving.gateway, signal.SIGCONT)
        assert one.recv(TIMEOUT) == ids[0]
        why = rf"its on_message of connection {ids[1]} \(127.0.0.1:[0-9]+\) has run for"
        serving.run.line(f"aborting worker 1: {why}")
        with pytest.raises(ConnectionClosedError, match="its worker died"):
            other.recv(TIMEOUT)
        one.send("again")
        assert one.recv(TIMEOUT) == ids[0]


@posix
def test_an_async_handler_that_hangs_is_cancelled_and_shows_what_it_awaited(
    handlers: Write,
) -> None:
    text = """
        import asyncio
        async def look_up(name):
            await asyncio.Event().wait()
        async def on_message(msg, con):
            if msg["data"] == "hang": await look_up(msg["data"])
            return msg
    """
    with (
        serve(handlers(text), "--handler-timeout=1", tracebacks=True) as serving,
        serving.ws() as client,
    ):
        with serving.ws() as other:
            other.send("hang")
            with pytest.raises(ConnectionClosedError, match="1011"):
                other.recv(TIMEOUT)
        for name in ("on_message", "look_up"):
            serving.run.line(rf'error worker 1:   File "[^"]+", line [0-9]+, in {name}$')
        client.send("x")
        assert client.recv(TIMEOUT) == "x"
    assert "aborting worker" not in str(serving)


@pytest.mark.long
@posix
def test_an_async_handler_that_cannot_be_cancelled_ends_its_worker(handlers: Write) -> None:
    text = """
        import asyncio
        async def on_message(msg, con):
            while con.delivery == 1:
                try: await asyncio.sleep(60)
                except asyncio.CancelledError: pass
            return "again"
    """
    with serve(handlers(text), "--handler-timeout=1") as serving, serving.ws() as client:
        client.send("x")
        assert client.recv(TIMEOUT) == "again"
        serving.run.line("aborting worker 1: its on_message of connection")


@posix
def test_a_dead_letter_is_counted_and_shown(handlers: Write) -> None:
    text = """
        import os, signal
        def on_message(msg, con):
            if msg["data"] == "boom": os.kill(os.getpid(), signal.SIGKILL)
            return msg
    """
    with serve(handlers(text), workers=2) as serving, serving.ws() as client:
        client.send("boom")
        with pytest.raises(Exception, match="1011"):
            client.recv(TIMEOUT)
        assert serving.status()["gateway"]["dead_letters"] == 1
        os.kill(serving.gateway, KILL)
        serving.run.line("the gateway is up", 2)
        assert serving.status()["gateway"]["dead_letters"] == 1, "it outlives the gateway"
        assert "b'boom'" in done(serving, "dead-letters")
        assert "data: b'boom'" in done(serving, "dead-letters", "1")
        assert serving.folder is not None
        (serving.folder / "dead-letters.jsonl").unlink()
