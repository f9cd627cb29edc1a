"""`wsraw top` with real runs, and with its output in a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e.command_line import done
from tests.e2e.serving import ECHO, Serving, posix, serve
from tests.running import command, environment, wsraw
from wsraw.tools.top.session import ENDED


@contextmanager
def talking(serving: Serving) -> Iterator[None]:
    """A client that sends all the time."""
    over = threading.Event()

    def talk() -> None:
        with serving.ws() as ws:
            while not over.wait(0.01):
                ws.send("x" * 100)
                ws.recv(DEADLINE)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE)


class Watching:
    """`wsraw top --json` until the block ends, and the objects that it has printed."""

    def __init__(self, serving: Serving) -> None:
        self.rows: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command("top", "--json", "--interval=0.1", "--run-dir", str(serving.folder)),
            env=environment(),
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.rows.append(json.loads(line))

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code


@pytest.fixture(scope="module")
def echo() -> Iterator[Serving]:
    """A run with two workers, for tests that do not change it."""
    with serve(ECHO, workers=2) as serving:
        yield serving


def test_programs_get_one_object_a_line_with_rates(echo: Serving) -> None:
    with talking(echo):

        def look() -> list[dict[str, Any]]:
            text = done(echo, "top", "--json", "--interval=0.5", "--count=2")
            rows = [json.loads(line) for line in text.splitlines()]
            return rows if all(row["rates"]["received"] for row in rows) else []

        first, second = eventually(look, "messages")
    assert first["time"] < second["time"]
    for row in (first, second):
        # The time runs from answer to answer, and is shorter than the interval if the first answer
        # was late.
        assert row["seconds"] > 0
        rates = row["rates"]
        assert rates["received_bytes"] > rates["received"] > 0
        assert rates["sent"] > 0
        assert 0 < rates["busy"] < 1
        assert row["pools"][0]["acked_per_second"] > 0
        assert sum(worker["acked_per_second"] for worker in row["workers"]) > 0
        assert row["gateway"]["connections"]["websocket"] == 1
        assert row["gateway"]["unwritten"] == 0


def test_a_pipe_gets_plain_lines() -> None:
    """The run is idle, as events would add lines to one of the answers."""
    with serve(ECHO, workers=2) as serving, serving.tcp():
        told = done(serving, "top", "--interval=0.1", "--count=2")
    assert "\x1b" not in told
    lines = told.splitlines()
    (first, second) = [
        n for n, line in enumerate(lines) if f"pid {serving.run.process.pid}" in line
    ]
    assert first == 0
    assert len(lines) == 2 * second
    assert sum(line.startswith("messages      in ") for line in lines) == 2
    assert "/s" in told
    assert sum(line.startswith(("1       ready", "2       ready")) for line in lines) == 4


def test_a_client_that_does_not_read_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "handlers.py"
    file.write_text("def on_message(msg, con):\n    con.send(bytes(8_000_000))\n")
    with serve(file, "--output-limit=64MiB") as serving, serving.tcp() as slow:
        slow.sendall(b"x")
        eventually(
            lambda: (
                "slow clients  output waiting 1 "
                in done(serving, "top", "--interval=0.1", "--count=1")
            ),
            "a slow client",
        )


def test_a_reader_that_leaves_ends_the_session(echo: Serving) -> None:
    with subprocess.Popen(
        command("top", "--json", "--interval=0.1", "--run-dir", str(echo.folder)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE) == 0


@posix
def test_a_gateway_that_dies_is_shown_and_rates_begin_again() -> None:
    with serve(ECHO) as serving, Watching(serving) as watching:
        eventually(lambda: watching.rows, "an answer")
        old = serving.gateway
        os.kill(old, signal.SIGKILL)
        serving.run.line("gateway started", 2)

        def has_rates_again() -> bool:
            last = watching.rows[-1]
            return last["gateway"]["pid"] != old and last["seconds"] is not None

        eventually(has_rates_again, "rates of the next gateway")
        assert any(row["seconds"] is None for row in watching.rows)
        assert not any("error" in row for row in watching.rows)


@posix
def test_a_gateway_that_is_stopped_is_shown() -> None:
    with serve(ECHO) as serving, Watching(serving) as watching:
        eventually(lambda: watching.rows, "an answer")
        gateway = serving.gateway
        os.kill(gateway, signal.SIGSTOP)
        try:
            eventually(
                lambda: not watching.rows[-1]["gateway"]["answers"], "the gateway to be missed"
            )
        finally:
            os.kill(gateway, signal.SIGCONT)


def test_the_end_of_the_run_ends_a_pipe() -> None:
    with serve(ECHO) as serving, Watching(serving) as watching:
        eventually(lambda: watching.rows, "an answer")
        done(serving, "stop")
        assert watching.wait() == ENDED
        assert watching.rows[-1].keys() == {"time", "error"}
        assert watching.rows[-1]["error"] == "the run has ended"
        assert serving.run.wait() == 0


def test_without_a_run_there_is_one_line(tmp_path: Path) -> None:
    told = wsraw("top", "--run-dir", str(tmp_path / "none"))
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.startswith(f"wsraw: no run in {tmp_path / 'none'}")
    assert told.stderr.count("\n") == 1


def test_wrong_numbers_are_refused() -> None:
    for option in ("--interval=0", "--interval=x", "--count=0"):
        told = wsraw("top", option)
        assert told.returncode == 2
        assert option.partition("=")[0] in told.stderr


def test_a_client_that_does_not_read_is_named() -> None:
    with serve(ECHO) as serving, serving.tcp() as sleeps, Watching(serving) as top:
        sleeps.setblocking(False)

        def look() -> dict[str, Any] | None:
            with suppress(BlockingIOError):
                while True:
                    sleeps.send(bytes(1 << 16))
            return next((row for row in top.rows if row.get("slow_clients")), None)

        [client] = eventually(look)["slow_clients"]
        assert client["peer"] == "{}:{}".format(*sleeps.getsockname())
        assert client["output"] > 0
