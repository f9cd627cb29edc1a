"""An operator looks at the connections of a run, and acts on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.deadline import DEADLINE, eventually
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import ECHO, Serving, linux, posix, receive_exactly, serve
from tests.running import command, environment
from wsraw.gateway.inspection.requests import ROWS
from wsraw.supervisor.control import client

Write = Callable[[str], Path]

IN_GROUPS = """
    def on_connect(inf, con):
        con.join(inf.get("url", "/raw").partition("?")[0])
    def on_message(msg, con):
        return msg
"""


def rows(serving: Serving, *arguments: str) -> list[dict[str, Any]]:
    """What `wsraw connections` lists, for programs."""
    lines = done(serving, "connections", "--json", *arguments).splitlines()
    return [json.loads(line) for line in lines]


# --- connections, connection ---


def test_connections_are_listed_with_what_they_are(handlers: Write) -> None:
    with serve(handlers(IN_GROUPS)) as serving:
        assert done(serving, "connections") == "no connections\n"
        with (
            serving.ws(path="/a?token=geheim") as one,
            serving.ws(path="/b") as two,
            serving.tcp() as raw,
        ):
            raw.sendall(b"hello")
            assert receive_exactly(raw, 5) == b"hello"
            one.send("x" * 100)
            assert one.recv(DEADLINE) == "x" * 100
            two.send("x")
            assert two.recv(DEADLINE) == "x"
            first, second, third = rows(serving)
            assert [first["path"], second["path"], third["path"]] == ["/a?...", "/b", ""]
            assert [each["kind"] for each in (first, third)] == ["websocket", "raw"]
            assert third["peer"] == "{}:{}".format(*raw.getsockname())
            assert first["worker"] == "1"
            for chosen in (("--kind", "raw"), ("--group", "/raw"), ("--address", third["peer"])):
                assert [row["id"] for row in rows(serving, *chosen)] == [third["id"]]
            assert [row["path"] for row in rows(serving, "--path", "/{any}")] == [
                "/a?...", "/b",
            ]  # fmt: skip
            assert [row["id"] for row in rows(serving, "--sort", "sent", "--limit=1")] == [
                first["id"]
            ]
            assert rows(serving, "--idle", "1h") == []
            assert rows(serving, "--address", "10.0.0.0/8") == []
            table = done(serving, "connections", "--limit=2")
            assert "geheim" not in table
            assert table.splitlines()[-1] == "… 1 more (--limit 0 shows all)"
            text = done(serving, "connection", str(first["id"]))
            assert text.startswith(f"connection {first['id']}: websocket, open, accepted\n")
            assert "  groups      /a\n" in text
            data = json.loads(done(serving, "connection", "--json", str(third["id"])))
            assert (data["groups"], data["sent"]) == (["/raw"], 5)
        eventually(lambda: rows(serving) == [], "all to have left")
        gone = ask(serving, "connection", str(first["id"]))
        assert (gone.returncode, gone.stderr) == (
            1, f"wsraw: connection: connection {first['id']} has ended\n",
        )  # fmt: skip


def test_a_client_that_does_not_read_is_found(handlers: Write) -> None:
    text = """
        def on_message(msg, con):
            for _ in range(100):
                con.send(bytes(100_000))
    """
    with (
        serve(handlers(text), "--output-limit=64MiB") as serving,
        serving.ws() as quick,
        serving.tcp() as slow,
    ):
        slow.sendall(b"x")
        found = eventually(lambda: rows(serving, "--slow"), "a slow client")
        assert found is not None
        assert [row["kind"] for row in found] == ["raw"]
        assert found[0]["output"] > 100_000
        assert "slow" in done(serving, "connections", "--slow")
        assert len(rows(serving)) == 2
        assert quick.ping().wait(DEADLINE)


@linux
def test_the_list_of_many_connections_comes_in_pages() -> None:
    count = 3 * ROWS + 7
    with serve(ECHO) as serving, ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(serving.tcp()).sendall(b"x")
        eventually(lambda: len(rows(serving, "--kind=raw")) == count, "all to be raw")
        answers = client.pages(client.find(str(serving.folder)), "connections", {}, DEADLINE)
        pages = [done.data["rows"] for done in answers]
        assert len(pages) == 3
        ids = [row["id"] for page in pages for row in page]
        assert ids == sorted(set(ids))
        assert len(ids) == count


def paused_list(serving: Serving, stack: ExitStack) -> Any:
    """A list of which one page has come, and more would."""
    for _ in range(2 * ROWS):
        stack.enter_context(serving.tcp()).sendall(b"x")
    eventually(lambda: len(rows(serving, "--kind=raw")) == 2 * ROWS, "all to be raw")
    answers = client.pages(client.find(str(serving.folder)), "connections", {}, DEADLINE)
    assert next(answers).more
    return answers


@posix
def test_a_list_ends_with_the_gateway() -> None:
    with serve(ECHO) as serving, ExitStack() as stack:
        answers = paused_list(serving, stack)
        os.kill(serving.gateway, signal.SIGKILL)
        serving.run.line("gateway started", 2)
        told = next(answers)
        assert not told.ok
        # It is told at once, and so it was before it asked for more.
        assert told.text == "the gateway has ended, or does not answer any more"
        until_ready(serving, 1)
        eventually(lambda: rows(serving) == [], "the next gateway to answer")


@posix
def test_a_command_that_is_killed_leaves_nothing_behind() -> None:
    with serve(ECHO) as serving, ExitStack() as stack:
        paused_list(serving, stack)
        # Its output is a pipe that nobody reads.
        with subprocess.Popen(
            command("connections", "--json", "--run-dir", str(serving.folder)),
            env=environment(),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.kill()
        assert len(rows(serving)) == 2 * ROWS


@posix
def test_a_supervisor_that_is_stopped_does_not_answer_and_goes_on_later() -> None:
    with serve(ECHO) as serving, serving.ws() as web:
        serving.run.send(signal.SIGSTOP)
        try:
            told = ask(serving, "connections", "--timeout=1")
            assert told.returncode == 1
            assert "connections: no answer within 1 s" in told.stderr
            web.send("x")
            assert web.recv(DEADLINE) == "x"
        finally:
            serving.run.send(signal.SIGCONT)
        assert len(rows(serving)) == 1


@posix
def test_a_gateway_that_is_stopped_does_not_answer_and_goes_on_later() -> None:
    with serve(ECHO) as serving, serving.ws():
        os.kill(serving.gateway, signal.SIGSTOP)
        try:
            told = ask(serving, "connections", "--timeout=1")
            assert told.returncode == 1
            assert "connections: no answer within 1 s" in told.stderr
        finally:
            os.kill(serving.gateway, signal.SIGCONT)
        assert len(rows(serving)) == 1
