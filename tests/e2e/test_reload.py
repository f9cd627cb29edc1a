"""Reload: new handlers take over open connections, and no client notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.authority import server_file
from tests.deadline import eventually
from tests.e2e.command_line import ask, done, until_ready, while_serving
from tests.e2e.load import Client, Load, RawClient, WebClient, echo
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    UPGRADE,
    Serving,
    assert_gone,
    frame,
    linux,
    posix,
    read_frame,
    read_head,
    serve,
)
from tests.needs import KILL, signals
from tests.running import is_alive

Write = Callable[[str], Path]

ANSWERS = """
    import helper
    def on_message(msg, con):
        return {answer!r} + helper.MORE
"""


def answers(handlers: Write, answer: str, more: str = "") -> Path:
    """All files have the same time, which hides a change from Python (cpython #75953, #120932)."""
    file = handlers(ANSWERS.format(answer=answer))
    helper = file.with_name("helper.py")
    helper.write_text(f"MORE = {more!r}\n")
    for each in (file, helper):
        os.utime(each, (1_700_000_000, 1_700_000_000))
    return file


@pytest.fixture(autouse=True)
def bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode is written; otherwise stale bytecode could not be found."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


def test_an_open_connection_is_served_by_the_new_handlers(handlers: Write) -> None:
    with serve(answers(handlers, "old"), workers=2) as serving, serving.ws() as client:
        client.send("x")
        assert client.recv(TIMEOUT) == "old"
        old = [serving.worker(n) for n in (1, 2)]
        answers(handlers, "new")
        assert done(serving, "reload") == "reloaded: 2 workers\n"
        assert not any(map(is_alive, old)), "done is done"
        client.send("x")
        assert client.recv(TIMEOUT) == "new"
        answers(handlers, "new", "er")
        done(serving, "reload")
        answers(handlers, "new", "ly")
        done(serving, "reload")
        client.send("x")
        assert client.recv(TIMEOUT) == "newly"
        assert [worker["restarts"] for worker in serving.status()["workers"]] == [0, 0]


@pytest.mark.long
def test_a_rollback_brings_back_handlers_whose_files_are_gone(handlers: Write) -> None:
    """The handlers stay when a worker dies after the rollback."""
    with (
        serve(answers(handlers, "old", "er"), workers=2, tracebacks=True) as serving,
        serving.ws() as client,
    ):
        file = answers(handlers, "new")
        assert done(serving, "reload") == "reloaded: 2 workers\n"
        file.with_name("helper.py").unlink()
        file.write_text("import no_such_module")
        assert done(serving, "rollback") == "rolled back to version 1: 2 workers\n"
        client.send("x")
        assert client.recv(TIMEOUT) == "older"
        for n in (5, 6):
            os.kill(serving.worker(n), KILL)
        until_ready(serving, 2)
        client.send("x")
        assert client.recv(TIMEOUT) == "older"
        refused = ask(serving, "rollback")
        assert refused.returncode == 1
        assert "the pool default has no earlier version" in refused.stderr
        assert ask(serving, "reload").returncode == 1, "it does not load"
        answers(handlers, "newest")
        assert done(serving, "reload") == "reloaded: 2 workers\n"
        client.send("x")
        assert client.recv(TIMEOUT) == "newest"


@pytest.mark.long
def test_a_rollback_comes_back_to_what_served_and_not_to_what_was_refused(
    handlers: Write,
) -> None:
    """The refused file was repaired meanwhile, and a worker that replaced a dead one has loaded
    it.
    """
    with (
        serve(answers(handlers, "old"), workers=2, tracebacks=True) as serving,
        serving.ws() as client,
    ):
        file = answers(handlers, "new")
        file.write_text("import no_such_module")
        assert ask(serving, "reload").returncode == 1
        answers(handlers, "new")
        os.kill(serving.worker(1), KILL)
        serving.run.line("reloaded after all: 2 workers")
        answers(handlers, "newest")
        done(serving, "reload")
        assert done(serving, "rollback") == "rolled back to version 2: 2 workers\n"
        client.send("x")
        assert client.recv(TIMEOUT) == "new"


@posix
def test_a_sighup_ignored_by_nohup_stays_ignored(handlers: Write) -> None:
    """A hangup neither ends nor reloads a run that nohup has started, and Ctrl-C does not end a
    run that a script has started with &. `wsraw reload` works in both cases.
    """
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, signal.SIGINT)}
    try:
        with serve(answers(handlers, "old")) as serving, serving.ws() as client:
            for number in before:
                serving.run.send(number)
            answers(handlers, "new")
            assert done(serving, "reload") == "reloaded: 1 worker\n"
            client.send("x")
            assert client.recv(TIMEOUT) == "new"
            assert "SIGHUP" not in str(serving.run)
            assert "SIGINT" not in str(serving.run)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@posix
def test_sighup_reloads(handlers: Write) -> None:
    with serve(answers(handlers, "old")) as serving, serving.ws() as client:
        answers(handlers, "new")
        serving.run.send(signal.SIGHUP)
        serving.run.line("SIGHUP: reloading")
        serving.run.line("reloaded: 1 worker")
        client.send("x")
        assert client.recv(TIMEOUT) == "new"


def test_a_file_that_does_not_load_is_refused_with_its_traceback(handlers: Write) -> None:
    with (
        serve(answers(handlers, "old"), workers=2, tracebacks=True) as serving,
        serving.ws() as client,
    ):
        handlers("def on_message(msg, con):\n    return 1 +\n")
        told = ask(serving, "reload")
        assert told.returncode == 1
        assert "reload: refused: the new worker exited with code 3: its handlers file does" in (
            told.stderr
        )
        assert "2 old ones stay" in told.stderr
        assert "SyntaxError" in told.stderr, "the reason, too"
        client.send("x")
        assert client.recv(TIMEOUT) == "old"
        assert [worker["n"] for worker in until_ready(serving, 2)] == [1, 2]
        answers(handlers, "fixed")
        done(serving, "reload")
        client.send("x")
        assert client.recv(TIMEOUT) == "fixed"


def test_an_on_start_that_fails_is_reported_at_once_and_replaces_no_worker(handlers: Write) -> None:
    with (
        serve(answers(handlers, "old"), workers=2, tracebacks=True) as serving,
        serving.ws() as client,
    ):
        for word in ("def", "async def"):
            handlers(f"{word} on_start():\n    raise OSError('no database')\n")
            told = ask(serving, "reload", "--timeout=20")
            assert told.returncode == 1
            assert "refused: the new worker exited with code 1: it could not start; 2 old" in (
                told.stderr
            )
            assert "no database" in told.stderr, "the reason, too"
        assert sorted(w["n"] for w in serving.status()["workers"]) == [1, 2]
        client.send("x")
        assert client.recv(TIMEOUT) == "old"
        answers(handlers, "fixed")
        done(serving, "reload")
        client.send("x")
        assert client.recv(TIMEOUT) == "fixed"


def test_exit_code_3_of_a_handler_is_not_taken_for_a_file_that_does_not_load(
    handlers: Write,
) -> None:
    file = handlers("import os\ndef on_message(msg, con): os._exit(3)\n")
    with serve(file, "--max-deliveries=1") as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("exited with code 3; starting another")
        answers(handlers, "new")
        assert done(serving, "reload") == "reloaded: 1 worker\n"


def test_a_handlers_file_that_hangs_is_abandoned_at_the_next_reload(handlers: Write) -> None:
    with serve(answers(handlers, "old"), workers=2) as serving, serving.ws() as client:
        handlers("import time\nprint('loading')\ntime.sleep(600)\n")
        assert "no answer within 1 s" in ask(serving, "reload", "--timeout=1").stderr
        serving.run.line("loading")
        answers(handlers, "fixed")
        assert done(serving, "reload") == "reloaded: 2 workers\n"
        client.send("x")
        assert client.recv(TIMEOUT) == "fixed"


@pytest.mark.long
def test_a_worker_whose_start_takes_too_long_is_started_again(handlers: Write) -> None:
    # The timeout is long enough for a normal start on a busy machine.
    options = ["--start-timeout=10", "--max-events=1"]
    with serve(answers(handlers, "old"), *options) as serving, serving.ws() as client:
        handlers("import time\nprint('loading')\ntime.sleep(600)\n")
        client.send("x")
        assert client.recv(TIMEOUT) == "old"
        serving.run.line(r"aborting worker 2: it was not ready within start_timeout \(10 s\)")
        answers(handlers, "fixed")
        serving.run.line("worker 1 has left")

        def is_fixed() -> bool:
            client.send("x")
            return client.recv(TIMEOUT) == "fixed"

        eventually(is_fixed)


def test_with_reload_a_changed_file_replaces_the_workers(handlers: Write) -> None:
    with serve(answers(handlers, "old", "!"), "--reload") as serving, serving.ws() as client:
        file = answers(handlers, "old", "?")
        if sys.platform == "win32":
            # Windows has no ctime: only the mtime tells that the file has changed.
            os.utime(file.with_name("helper.py"))
        serving.run.line(r"helper.py changed: reloading|handlers.py and 1 more changed: reloading")

        def renewed() -> bool:
            client.send("x")
            return client.recv(TIMEOUT) == "old?"

        eventually(renewed)


RELEASE = """
    import helper
    def on_message(msg, con):
        with open("data.txt") as data:
            return helper.V + data.read()
"""


@pytest.mark.long
@linux
@pytest.mark.parametrize("is_absolute", [True, False], ids=["absolute", "relative"])
def test_a_release_behind_a_symbolic_link_is_reloaded(tmp_path: Path, is_absolute: bool) -> None:
    """gunicorn #394: the code, the working folder and the gateway's files are those of the
    release that the link points to now. With a relative path, the shell's PWD tells where the
    link is.
    """
    for n in "12":
        folder = tmp_path / f"release-{n}"
        folder.mkdir()
        folder.joinpath("handlers.py").write_text(textwrap.dedent(RELEASE))
        folder.joinpath("helper.py").write_text(f"V = 'code {n}, '\n")
        folder.joinpath("data.txt").write_text(f"data {n}")
    current = tmp_path / "current"
    current.symlink_to("release-1")
    file = current / "handlers.py" if is_absolute else "handlers.py"
    tls = ["--tls=optional", f"--tls-cert={server_file(tmp_path)}"]
    with serve(file, *tls, cwd=current, env={"PWD": str(current)}) as serving:
        with serving.ws() as client:
            client.send("x")
            assert client.recv(TIMEOUT) == "code 1, data 1"
            new = tmp_path / "new"
            new.symlink_to("release-2")
            new.replace(current)
            done(serving, "reload")
            client.send("x")
            assert client.recv(TIMEOUT) == "code 2, data 2"
        assert os.readlink(f"/proc/{serving.gateway}/cwd") == str(tmp_path / "release-2")


@signals
def test_a_handler_may_finish_before_its_worker_is_replaced(
    handlers: Write, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    text = f"""
        import os, time
        def on_message(msg, con):
            print("in the handler")
            while not os.path.exists({str(gate)!r}): time.sleep(0.01)
            return str(os.getpid())
    """
    with serve(handlers(text)) as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("in the handler")
        serving.run.send(signal.SIGHUP)
        eventually(lambda: "draining" in [each["state"] for each in serving.status()["workers"]])
        gate.touch()
        assert client.recv(TIMEOUT) == str(serving.worker(1))
        serving.run.line("reloaded: 1 worker")
        client.send("y")
        assert client.recv(TIMEOUT) == str(serving.worker(2))


@signals
def test_a_message_in_fragments_is_answered_across_a_reload() -> None:
    with serve(ECHO) as serving, serving.tcp() as sock:
        sock.sendall(UPGRADE)
        read_head(sock)
        sock.sendall(frame(1, b"one", final=False))
        assert read_frame(sock) == (0x01, b"one")
        serving.run.send(signal.SIGHUP)
        eventually(lambda: "draining" in [each["state"] for each in serving.status()["workers"]])
        sock.sendall(frame(0, b"two"))
        assert read_frame(sock) == (0x80, b"two")
        serving.run.line("reloaded: 1 worker")
        sock.sendall(frame(1, b"three"))
        assert read_frame(sock) == (0x81, b"three")


def test_a_handler_that_does_not_finish_is_killed_at_the_deadline(handlers: Write) -> None:
    text = """
        import time
        def on_message(msg, con):
            print("in the handler of", con.delivery)
            while con.delivery == 1: time.sleep(1)
            return "again"
    """
    with serve(handlers(text), "--drain-timeout=1") as serving, serving.ws() as client:
        client.send("x")
        serving.run.line("in the handler of 1")
        done(serving, "reload")
        serving.run.line("killing worker 1: it has not finished within drain_timeout")
        assert client.recv(TIMEOUT) == "again"
        assert serving.status()["workers"][0]["restarts"] == 0


# --- under load ---


def clients() -> list[Client]:
    return [kind(64, 0.02, echo) for kind in [WebClient] * 15 + [RawClient] * 5]


@linux
def test_reloads_lose_double_and_reorder_nothing() -> None:
    with serve(ECHO, workers=2) as serving:
        asyncio.run(reload_again_and_again(serving))


async def reload_again_and_again(serving: Serving) -> None:
    async with Load(clients()) as load:
        await load.start(serving)
        await load.more(500)
        for _ in range(5):
            await while_serving(serving, "reload")
            await load.more(100)
        await load.finish()


@pytest.mark.long
@linux
def test_reloads_during_reloads_and_deaths_of_workers_lose_nothing() -> None:
    with serve(ECHO, workers=3) as serving:
        asyncio.run(reload_and_kill(serving))


async def reload_and_kill(serving: Serving) -> None:
    async with Load(clients()) as load:
        await load.start(serving)
        await load.more(300)
        asked = [asyncio.create_task(while_serving(serving, "reload")) for _ in range(3)]
        for _ in range(3):
            await load.more(50)
            living = [pid for pid in serving.run.pids("worker [0-9]+") if is_alive(pid)]
            os.kill(living[0], KILL)
        assert await asyncio.gather(*asked) == ["reloaded: 3 workers\n"] * 3
        await load.more(200)
        await load.finish()


@signals
def test_a_stop_during_a_reload_ends_the_run(handlers: Write) -> None:
    with serve(ECHO, workers=3) as serving:
        serving.run.send(signal.SIGHUP)
        serving.run.line("worker 4 started")
        serving.run.send(signal.SIGTERM)
        assert serving.run.wait() == 0
        assert_gone(serving)
