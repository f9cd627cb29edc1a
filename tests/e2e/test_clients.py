"""An operator lists the connections of a run, and acts on them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import ECHO, Serving, linux, posix, receive_exactly, serve
from tests.running import command, environment
from wsraw.gateway.inspection.actions import MOST_DATA
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
    """The rows of `wsraw connections --json`."""
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
        assert len(ids) == len(set(ids)) == count


def paused_list(serving: Serving, stack: ExitStack) -> Any:
    """A list whose first page has arrived, and that has more pages."""
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
        # The list was told of the gateway's end before it asked for the next page.
        assert told.text == "the gateway has ended, or does not answer any more"
        until_ready(serving, 1)
        eventually(lambda: rows(serving) == [], "the next gateway to answer")


@posix
def test_a_command_that_is_killed_leaves_nothing_behind() -> None:
    with serve(ECHO) as serving, ExitStack() as stack:
        paused_list(serving, stack)
        # The command's output is a pipe that nobody reads.
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


# --- kick ---


def test_a_connection_is_kicked_by_its_id(handlers: Write) -> None:
    text = """
        def on_message(msg, con):
            return msg
        def on_close(con):
            print("closed", con.close_code, con.close_cause)
    """
    with serve(handlers(text)) as serving, serving.ws() as one, serving.ws() as two:
        _, second = rows(serving)
        told = done(serving, "kick", str(second["id"]), "--dry-run")
        assert told.endswith("1 connection would be closed\n")
        told = done(serving, "kick", str(second["id"]), "--code=4001", "--reason=no more")
        assert told == "closed 1 connection\n"
        with pytest.raises(ConnectionClosedError, match=r"4001.*no more"):
            two.recv(DEADLINE)
        serving.run.line("closed 4001 kicked")
        serving.run.line(rf"wsraw kick: closed connection {second['id']} \(127.0.0.1:\d+\)")
        one.send("x")
        assert one.recv(DEADLINE) == "x"
        again = ask(serving, "kick", str(second["id"]))
        assert (again.returncode, again.stderr) == (
            1, f"wsraw: kick: connection {second['id']} has ended\n",
        )  # fmt: skip


def test_several_connections_are_kicked_only_with_all() -> None:
    with serve(ECHO) as serving, serving.ws() as web, ExitStack() as stack:
        raws = [stack.enter_context(serving.tcp()) for _ in range(5)]
        for raw in raws:
            raw.sendall(b"x")
            assert raw.recv(1) == b"x"
        told = done(serving, "kick", "--kind=raw", "--dry-run")
        assert told.endswith("5 connections would be closed\n")
        told = ask(serving, "kick", "--kind=raw")
        assert told.returncode == 1
        assert told.stderr == "wsraw: kick: 5 connections match; --all closes all of them\n"
        assert len(rows(serving)) == 6
        assert done(serving, "kick", "--kind=raw", "--all", "--code=1000") == (
            "closed 5 connections\n"
        )
        assert [raw.recv(1) for raw in raws] == [b""] * 5
        web.send("x")
        assert web.recv(DEADLINE) == "x"
        assert done(serving, "kick", "--kind=raw") == "closed 0 connections\n"


@posix
def test_a_terminal_is_asked_before_several_are_kicked() -> None:
    pty = pytest.importorskip("pty")
    with serve(ECHO) as serving, serving.ws(), serving.ws():
        for answer, left in ((b"n\n", 2), (b"y\n", 0)):
            ours, theirs = pty.openpty()
            with subprocess.Popen(
                command("kick", "--kind=websocket", "--run-dir", str(serving.folder)),
                env=environment(),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=theirs,
            ) as process:
                os.close(theirs)
                shown = b""
                while b"Close 2 connections? [y/N]" not in shown:
                    shown += os.read(ours, 100)
                os.write(ours, answer)
                assert process.stdout is not None
                told = process.stdout.read()
                assert process.wait(DEADLINE) == (130 if left else 0)
            os.close(ours)
            assert told == (b"" if left else b"closed 2 connections\n")
            eventually(lambda left=left: len(rows(serving)) == left, f"{left} connections")


def test_a_slow_client_is_kicked_at_once(handlers: Write) -> None:
    text = """
        def on_message(msg, con):
            for _ in range(100):
                con.send(bytes(100_000))
    """
    with serve(handlers(text), "--output-limit=64MiB") as serving, serving.tcp() as slow:
        slow.sendall(b"x")
        eventually(lambda: rows(serving, "--slow"), "a slow client")
        assert done(serving, "kick", "--slow") == "closed 1 connection\n"
        eventually(lambda: not rows(serving, "--state=open"), "it to be closed")


# --- publish, send ---


def test_a_message_is_published_to_a_group_and_sent_to_one(handlers: Write, tmp_path: Path) -> None:
    with serve(handlers(IN_GROUPS)) as serving:
        with serving.ws(path="/a") as one, serving.ws(path="/a") as two, serving.ws(path="/b"):
            eventually(lambda: len(rows(serving, "--group=/a")) == 2, "both to have joined")
            assert done(serving, "publish", "/a", "grüße") == "published to 2 connections\n"
            assert one.recv(DEADLINE) == two.recv(DEADLINE) == "grüße"
            (first, _) = rows(serving, "--group=/a")
            file = tmp_path / "data"
            file.write_bytes(b"\xff\x00")
            told = done(serving, "send", str(first["id"]), "--binary", f"--file={file}")
            assert told == "sent to 1 connection\n"
            assert one.recv(DEADLINE) == b"\xff\x00"
            through = subprocess.run(
                command("send", str(first["id"]), "-", "--run-dir", str(serving.folder)),
                env=environment(),
                input=b"from a pipe\n",
                capture_output=True,
                timeout=DEADLINE,
                check=True,
            )
            assert through.stdout.split() == [b"sent", b"to", b"1", b"connection"]
            assert one.recv(DEADLINE) == "from a pipe\n"
            assert done(serving, "publish", "/none", "x") == "published to 0 connections\n"
        gone = ask(serving, "send", str(first["id"]), "x")
        assert gone.returncode == 1


def test_a_large_message_is_published() -> None:
    with serve(ECHO) as serving, serving.ws() as web:
        (row,) = rows(serving)
        answers = client.pages(
            client.find(str(serving.folder)),
            "send",
            {"id": row["id"], "data": b"x" * MOST_DATA},
            DEADLINE,
        )
        assert [each.data for each in answers] == [{"sent": 1}]
        assert web.recv(DEADLINE) == "x" * MOST_DATA


# --- trace ---


class Trace:
    """`wsraw trace` against a run, and its output."""

    def __init__(self, serving: Serving, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command("trace", *arguments, "--run-dir", str(serving.folder)),
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self._deadline = threading.Timer(COMMAND_DEADLINE, self.process.kill)

    def __enter__(self) -> Trace:
        self._deadline.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._deadline.cancel()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def until(self, text: str) -> str:
        """Read lines until one contains this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"no {text!r}\n{self}")

    def end(self) -> tuple[int, str]:
        """Wait until the trace ends; returns its exit code and the rest of its output."""
        assert self.process.stdout is not None
        # communicate() would leave out what `until` has read ahead.
        self.lines += (line.rstrip("\n") for line in self.process.stdout)
        _, err = self.process.communicate()
        return self.process.returncode, err


WAITING = f"""
    import os, time
    def on_connect(inf, con):
        con.join(inf["url"])
    def on_message(msg, con):
        until = time.monotonic() + {DEADLINE}
        while not os.path.exists("go-on") and time.monotonic() < until:
            time.sleep(0.01)
        return msg
"""


def test_a_connection_is_traced_by_its_id_until_it_ends(handlers: Write, tmp_path: Path) -> None:
    with (
        serve(handlers(WAITING), cwd=tmp_path) as serving,
        serving.ws(path="/a") as one,
        serving.ws(path="/b") as two,
    ):
        (row,) = rows(serving, "--path=/a")
        with Trace(serving, str(row["id"])) as trace:
            trace.until("trace from here on: websocket, open")
            one.send("a\n\x1b[2J")
            two.send("of another")
            line = trace.until("< on_message")
            assert line.endswith(r"< on_message text, 6 bytes: a\n\x1b[2J")
            # Counts are traced once a turn: an answer within the same turn would hide this one.
            trace.until("events worker 1: 1 in flight, 0 parked")
            (tmp_path / "go-on").touch()
            assert one.recv(DEADLINE) == "a\n\x1b[2J"
            trace.until(r"> send text, 6 bytes: a\n\x1b[2J")
            trace.until("events worker 1: 0 in flight, 0 parked")
            assert done(serving, "publish", "/a", "to all") == "published to 1 connection\n"
            trace.until("> published text, 6 bytes: to all")
            one.close(4000, "bye")
            trace.until("< frame close 4000, 5 bytes: bye")
            assert trace.end() == (0, "")
            assert trace.lines[-1].endswith("= end")
            assert "of another" not in str(trace)
        two.send("x")
        assert two.recv(DEADLINE) == "of another"
        assert two.recv(DEADLINE) == "x"


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = sock.recv(65536)
        assert part, data
        data += part
    return data


def test_a_traced_request_gets_the_response_of_handlers_or_of_the_next_pool(
    handlers: Write, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("a page")
    text = """
        def on_request(request, con):
            if request.method == "POST":
                return f"got {len(request.body)}"
    """
    options = ("--plain-http=handlers", f"--static={tmp_path}")
    with (
        serve(handlers(text), *options) as serving,
        Trace(serving, "127.0.0.1", "--new", "--connections=9") as trace,
    ):
        trace.until("waiting for a connection")
        with serving.tcp() as sock:
            head = b"POST /a?key=s3cret HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
            sock.sendall(head + b"hello")
            assert receive_until(sock, b"got 5").startswith(b"HTTP/1.1 200")
            trace.until(
                "< on_request http; POST /a?...; Host: h; Content-Length: ..., 5 bytes: hello"
            )
            trace.until("> respond 200, 5 bytes: got 5")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert receive_until(sock, b"a page").startswith(b"HTTP/1.1 200")
            trace.until("< on_request http; GET /; Host: h")
            trace.until("= passed on")
            trace.until("> respond 200, more follows")
            trace.until("> send binary, 6 bytes: a page")
        assert "s3cret" not in str(trace)


def test_the_next_connection_with_a_path_is_traced_without_secrets(handlers: Write) -> None:
    with serve(handlers(IN_GROUPS)) as serving, Trace(serving, "/rooms/{room}", "--json") as trace:
        assert json.loads(trace.until("waiting"))["con"] == 0
        with (
            serving.ws(path="/other"),
            serving.ws(
                path="/rooms/1?token=geheim", additional_headers={"Cookie": "a=geheim"}
            ) as web,
        ):
            line = json.loads(trace.until("on_connect"))
            assert "GET /rooms/1?...; " in line["text"]
            assert line["time"].startswith("20")
            web.send("hello")
            web.recv(DEADLINE)
            assert json.loads(trace.until("on_message"))["data"] == "hello"
        assert trace.end() == (0, "")
        assert "geheim" not in str(trace)
        assert len({json.loads(line)["con"] for line in trace.lines}) == 2


def test_a_trace_ends_after_so_many_lines_and_shows_so_many_bytes() -> None:
    with serve(ECHO) as serving, serving.tcp() as raw:
        raw.sendall(b"x")
        assert raw.recv(1) == b"x"
        address = "{}:{}".format(*raw.getsockname())
        with Trace(serving, address, "--limit=3", "--bytes=4") as trace:
            trace.until("trace from here on: raw, open")
            raw.sendall(b"0123456789")
            assert trace.end() == (0, "")
            assert len(trace.lines) == 3
            assert trace.lines[-1].endswith("< on_message raw, 10 bytes: 0123…")
        # A connection keeps working after its trace has ended.
        assert receive_exactly(raw, 10) == b"0123456789"
        assert len(rows(serving)) == 1


@posix
def test_a_trace_ends_with_ctrl_c_and_with_the_gateway() -> None:
    with serve(ECHO) as serving, serving.tcp() as raw:
        raw.sendall(b"x")
        assert raw.recv(1) == b"x"
        with Trace(serving, "127.0.0.1") as trace:
            trace.until("trace from here on")
            trace.process.send_signal(signal.SIGINT)
            assert trace.end() == (130, "")
        with Trace(serving, "127.0.0.1") as trace:
            trace.until("trace from here on")
            os.kill(serving.gateway, signal.SIGKILL)
            assert trace.end() == (
                1, "wsraw: trace: the gateway has ended, or does not answer any more\n",
            )  # fmt: skip
        serving.run.line("gateway started", 2)


@posix
def test_a_trace_that_is_stopped_or_killed_holds_nobody_up() -> None:
    with serve(ECHO) as serving, serving.tcp() as raw:
        raw.sendall(b"x")
        assert raw.recv(1) == b"x"
        with Trace(serving, "127.0.0.1", "--bytes=65536") as trace:
            trace.until("trace from here on")
            trace.process.send_signal(signal.SIGSTOP)
            data = bytes(65536)
            for _ in range(100):
                raw.sendall(data)
                assert receive_exactly(raw, len(data)) == data
            trace.process.send_signal(signal.SIGCONT)
            assert "not read in time" in trace.until("lines lost")
            raw.sendall(b"after")
            assert receive_exactly(raw, 5) == b"after"
            trace.until("on_message raw, 5 bytes: after")
            trace.process.kill()
        raw.sendall(data)
        assert receive_exactly(raw, len(data)) == data
        assert len(rows(serving)) == 1
