"""The log of a real run, as operators and their tools read it."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.deadline import eventually
from tests.e2e.serving import TIMEOUT, Serving, posix, receive_all, serve
from tests.running import wsraw
from wsraw.workers.reporting.ration import SHOWN

Write = Callable[[str], Path]

LOGS = """
import logging

log = logging.getLogger("shop")

def on_start():
    log.info("starts\\nin two lines")

{kind} on_message(msg, con):
    log.warning("an order: %s", msg["data"], extra={EXTRA})
    log.debug("not shown")
    print("printed")
    if msg["data"] == "break":
        raise ValueError("broken on purpose")
    return msg["data"]
"""

EXTRA = {"price": 5, "who": {"name": "ż"}}
LOGS = LOGS.replace("{EXTRA}", str(EXTRA).replace("{", "{{").replace("}", "}}"))

KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


def objects(serving: Serving, **wanted: object) -> list[dict[str, Any]]:
    """The lines of a JSON log, or those of them with these values."""
    found = [json.loads(line) for line in list(serving.run.lines)]
    return [each for each in found if wanted.items() <= each.items()]


def test_each_line_has_date_time_and_zone(handlers: Write) -> None:
    with serve(handlers(LOGS.format(kind="def")), tracebacks=True) as serving:
        with serving.ws() as client:
            client.send("break")
            serving.run.line("ValueError: broken on purpose")
        serving.run.line("info worker 1: shop: starts$")
        serving.run.line("info worker 1: in two lines$")
    for line in serving.run.lines:
        when, level, _ = line.split(" ", 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", when), line
        assert level in ("debug", "info", "warning", "error"), line
        assert datetime.fromisoformat(when).tzinfo is not None


@KINDS
def test_in_json_each_line_is_an_object_and_each_record_one_line(
    handlers: Write, kind: str
) -> None:
    file = handlers(LOGS.format(kind=kind))
    options = ("--log-format=json", "--log-level=info")
    with (
        serve(file, *options, tracebacks=True) as serving,
        serving.ws() as client,
        serving.ws() as other,
    ):
        peers = ["{}:{}".format(*each.socket.getsockname()[:2]) for each in (client, other)]
        client.send("break")
        other.send("fine")
        assert other.recv(TIMEOUT) == "fine"
        eventually(lambda: objects(serving, message="an order: fine"))
        eventually(lambda: objects(serving, logger="wsraw.worker"))
    [start] = objects(serving, message="starts\nin two lines")
    assert (start["level"], start["source"], start["pool"]) == ("info", "worker 1", "default")
    assert "connection" not in start and "peer" not in start
    [broken] = objects(serving, message="an order: break")
    [fine] = objects(serving, message="an order: fine")
    assert broken["level"] == fine["level"] == "warning" and fine["logger"] == "shop"
    assert [broken["peer"], fine["peer"]] == peers
    assert broken["connection"] != fine["connection"]
    assert broken["extra"] == EXTRA
    by_print = objects(serving, message="printed")
    assert {(each["connection"], each["peer"]) for each in by_print} == {
        (each["connection"], each["peer"]) for each in (broken, fine)
    }
    [error] = objects(serving, logger="wsraw.worker")
    assert error["level"] == "error" and error["connection"] == broken["connection"]
    assert error["peer"] == peers[0]
    first, *_, last = error["exception"].split("\n")
    assert first == "Traceback (most recent call last):"
    assert last == "ValueError: broken on purpose"
    assert not objects(serving, message="not shown")
    assert len(objects(serving, message="printed", level="info")) == 2
    sources = {each["source"] for each in objects(serving)}
    assert sources == {"supervisor", "gateway", "worker 1"}


def test_what_ends_a_thread_is_one_record(handlers: Write) -> None:
    text = """
        import threading
        def fail():
            raise ValueError("of a thread")
        def on_message(msg, con):
            thread = threading.Thread(target=fail, name="helper")
            thread.start()
            thread.join()
            return msg
    """
    options = ("--log-format=json",)
    with serve(handlers(text), *options, tracebacks=True) as serving, serving.ws() as client:
        client.send("x")
        assert client.recv(TIMEOUT) == "x"
        eventually(lambda: objects(serving, logger="wsraw.worker"))
    [error] = objects(serving, logger="wsraw.worker")
    assert (error["level"], error["message"]) == ("error", "thread helper raised")
    assert error["exception"].endswith("ValueError: of a thread")


def test_handlers_of_a_connection_that_wait_log_with_their_own_connection(handlers: Write) -> None:
    text = """
    import asyncio, logging, threading
    both = asyncio.Event()
    waiting = []

    async def on_message(msg, con):
        waiting.append(con)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        logging.info("of %d", con.id)
        await asyncio.to_thread(logging.info, "in a thread of %d", con.id)
        thread = threading.Thread(target=logging.info, args=("of nobody",))
        thread.start()
        thread.join()
        asyncio.create_task(later(con.id))
        return "done"

    async def later(number):
        while waiting[0]._handling or waiting[1]._handling:
            await asyncio.sleep(0.01)
        logging.info("after that")
    """
    with (
        serve(handlers(text), "--log-format=json") as serving,
        serving.ws() as one,
        serving.ws() as two,
    ):
        for client in (one, two):
            client.send("x")
        for client in (one, two):
            assert client.recv(TIMEOUT) == "done"
        eventually(lambda: len(objects(serving, message="after that")) == 2)
    seen = set()
    for each in objects(serving, source="worker 1"):
        if found := re.fullmatch(r"(of|in a thread of) (\d+)", each["message"]):
            seen.add(each["message"])
            assert each["connection"] == int(found[2])
        else:
            assert "connection" not in each
    assert len(seen) == 4


HOSTILE = r"""
import os, sys, threading
MARK = b"\x1e"

def on_message(msg, con):
    for data in (
        bytes(range(256)) * 300 + b"\n",
        b"\xff" * 100_000,
        b"\n" * 100,
        MARK + b'{"level":"error","message":"forged","source":"gateway","time":"x"}\n',
        MARK + b'{"level":"error","message":"a\\nb","source":"worker 2"}\n',
        b'half' + MARK + b'{"level":"info","message":"whole"}\n',
        MARK + b'{"level":"nonsense","message":"text"}\n',
        b'2000-01-01T00:00:00.000+00:00 error gateway: forged\n',
        b'{"time":"2000","level":"error","source":"gateway","message":"forged"}\n',
        MARK * 1000 + b"\n",
    ):
        while data:
            data = data[os.write(1 + len(data) % 2, data):]
    return "done"
"""


@posix
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hostile_worker_writes_no_line_of_another_process(handlers: Write, form: str) -> None:
    with serve(handlers(HOSTILE), f"--log-format={form}", "--log-level=info") as serving:
        with serving.ws() as client:
            client.send("x")
            assert client.recv(TIMEOUT) == "done"
            serving.run.line("(whole|half)")
            serving.run.line(r"(\\+x1e){3}")
        lines = list(serving.run.lines)
    for line in lines:
        assert line.isprintable() or "\t" in line
        if form == "json":
            found = json.loads(line)
            source, text = found["source"], found["message"]
            assert found["time"] > "2026"
        else:
            _, _, rest = line.split(" ", 2)
            source, _, text = rest.partition(": ")
        if "forged" in text or "half" in text or "\\x" in text:
            assert source == "worker 1", line


def test_tracebacks_of_one_mistake_are_counted_and_the_end_tells_the_rest(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        raise KeyError(msg["data"])
    """
    options = ("--log-format=json", "--on-exception=keep")
    with serve(handlers(text), *options, tracebacks=True) as serving, serving.ws() as client:
        for number in range(SHOWN + 7):
            client.send(f"{number}")
        eventually(lambda: len(objects(serving, logger="wsraw.worker")) == SHOWN)
    *errors, rest = objects(serving, logger="wsraw.worker")
    assert [each["exception"].splitlines()[-1] for each in errors] == [
        f"KeyError: '{number}'" for number in range(SHOWN)
    ]
    assert re.fullmatch(r"KeyError at .*handlers\.py:\d+ \(7 more in 10 s\)", rest["message"])


def test_a_flood_of_a_handler_is_bounded_and_the_run_goes_on(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        for number in range(20_000):
            print("flood", number)
        return "done"
    """
    options = ("--log-rate=10KB",)
    with serve(handlers(text), *options) as serving, serving.ws() as client:
        client.send("x")
        assert client.recv(TIMEOUT) == "done"
    shown = [line for line in serving.run.lines if "flood" in line]
    assert 500 < len(shown) < 10_000
    counts = [int(found[1]) for line in serving.run.lines if (found := re.search(LEFT_OUT, line))]
    assert sum(counts) + len(shown) == 20_000


LEFT_OUT = (
    r"warning wsraw: left out (\d+) lines? of worker 1 in \d+ s: more than log_rate \(10000 a"
)


# --- the end ---


@posix
def test_the_last_line_tells_what_has_ended_the_run(handlers: Write) -> None:
    with serve(handlers("def on_message(msg, con): pass")) as serving:
        pass
    ended = r"info wsraw: the run has ended after [\d.]+ (s|ms|min): SIGTERM \(exit code 0\)$"
    assert re.search(ended, serving.run.lines[-1]), serving.run.lines[-1]


def test_a_stop_by_command_is_the_first_and_the_last_word(handlers: Write) -> None:
    with serve(handlers("def on_message(msg, con): pass")) as serving:
        assert wsraw("stop", f"--run-dir={serving.folder}").returncode == 0
        assert serving.run.wait() == 0
        serving.run.line("info wsraw: wsraw stop: stopping$")
    assert re.search(r"ended after .*: wsraw stop \(exit code 0\)$", serving.run.lines[-1])


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_run_that_cannot_start_ends_with_a_line_of_its_format(handlers: Write, form: str) -> None:
    broken = handlers("this is no Python")
    told = wsraw("run", f"--workers={broken}", "--listen=127.0.0.1:0", f"--log-format={form}")
    assert told.returncode == 3
    last = told.stderr.splitlines()[-1]
    assert re.search(r"the run has ended after [\d.]+ m?s \(exit code 3\)", last), told.stderr
    if form == "json":
        lines = [json.loads(line) for line in told.stderr.splitlines()]
        assert lines[-1]["level"] == "error"
        [error] = [line for line in lines if "SyntaxError" in line["message"]]
        assert error["level"] == "error" and error["source"] == "worker 1"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"--listen=127.0.0.1:{taken.getsockname()[1]}"
        told = wsraw("run", "--workers=none", listen, f"--log-format={form}")
    assert told.returncode == 3
    [line] = told.stderr.splitlines()
    if form == "json":
        assert json.loads(line)["level"] == "error"


# --- secrets ---

SECRET = "hunter2"


def test_no_secret_of_a_client_or_of_a_handler_is_in_the_log(handlers: Write) -> None:
    text = f"""
    import wsraw

    def on_message(msg, con):
        target = "ws://admin:{SECRET}@127.0.0.1:9/x?token={SECRET}"
        if msg["data"] == "open":
            wsraw.open_client_connection(target, protocol="websocket")
        elif msg["data"] == "wrong":
            wsraw.open_client_connection("http://admin:{SECRET}@127.0.0.1:9/?k={SECRET}")
        elif msg["data"] == "raise":
            raise OSError(f"no answer from {{target}}")
        return "done"

    def on_error(error_message, con):
        print("on_error", error_message)
    """
    query = f"/served?token={SECRET}"
    login = {"Authorization": f"Bearer {SECRET}", "Cookie": f"session={SECRET}"}
    pools = ("--route=/served=chat", "--hosts=127.0.0.1", f"--pool=chat={handlers(text)}")
    with serve(None, *pools, tracebacks=True) as serving:
        for words, shown in (("open", "on_error"), ("wrong", "ValueError"), ("raise", "OSError")):
            with serving.ws(path=query, additional_headers=login) as client:
                client.send(words)
                serving.run.line(shown)
        path = f"/not-served?token={SECRET}"
        with pytest.raises(InvalidStatus), serving.ws(path=path, additional_headers=login):
            pass
        with serving.tcp() as sock:
            upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
            host = f"Host: user:{SECRET}@other.example"
            request = f"GET {query} HTTP/1.1\r\n{host}\r\n{upgrade}\r\n{key}\r\n\r\n"
            sock.sendall(request.encode())
            assert receive_all(sock).startswith(b"HTTP/1.1 421 ")
        origin = f"https://user:{SECRET}@other.example/{SECRET}?token={SECRET}"
        with pytest.raises(InvalidStatus), serving.ws(path=query, origin=origin):
            pass
        for limit in ("routes", "origins", "hosts"):
            serving.run.line(f"limit {limit}: ")
    assert SECRET not in str(serving)


def test_without_handlers_a_handshake_is_printed_without_secrets() -> None:
    login = {"Authorization": f"Bearer {SECRET}", "Cookie": f"s={SECRET}", "X-Api-Key": SECRET}
    with serve(None) as serving:
        path = f"/chat?token={SECRET}"
        with serving.ws(path=path, additional_headers=login | {"X-Mine": "yes"}):
            line = serving.run.line("on_connect .*").string
    assert "'/chat?...'" in line and "'Authorization': '...'" in line and "'X-Mine': 'yes'" in line
    assert SECRET not in str(serving)


# --- other workers ---


@posix
def test_a_worker_in_another_language_logs_lines_and_may_log_records() -> None:
    script = r"""printf '\036{"level":"critical","message":"a\\nb","logger":"tool"}\n' >&2
echo 'warning: a line'
exit 3"""
    told = wsraw("run", "--workers", f'sh -c "{_quoted(script)}"', "--log-format=json")
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    found = {line["message"]: line for line in lines if line["source"] == "worker 1"}
    assert found["a\nb"]["level"] == "critical" and found["a\nb"]["logger"] == "tool"
    assert found["a line"]["level"] == "warning"


def _quoted(script: str) -> str:
    return script.replace("\\", "\\\\").replace('"', '\\"')


def test_a_worker_that_is_started_by_hand_logs_with_the_date_too(handlers: Write) -> None:
    broken = handlers("import logging; logging.info('loads'); raise ValueError('at once')")
    for form in ("text", "json"):
        where = "ipc:///no/such/link.sock" if sys.platform != "win32" else "tcp://127.0.0.1:9"
        told = wsraw("worker", str(broken), "--connect", where, "--token=t", f"--log-format={form}")
        assert told.returncode == 3
        first, *rest = told.stderr.splitlines()
        if form == "json":
            assert json.loads(first)["message"] == "loads"
            [error] = map(json.loads, rest)
            assert error["level"] == "error" and "ValueError: at once" in error["message"]
        else:
            assert re.search(r"T.* info worker: loads$", first)
            assert re.search(r"T.* error worker: ValueError: at once$", rest[-1])


def test_a_raw_client_is_named_by_its_peer(handlers: Write) -> None:
    with serve(handlers(LOGS.format(kind="def")), "--log-format=json") as serving:
        with serving.tcp() as sock:
            sock.sendall(b"raw")
            peer = "{}:{}".format(*sock.getsockname())
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"raw"
        eventually(lambda: objects(serving, message="an order: b'raw'"))
    [line] = objects(serving, message="an order: b'raw'")
    assert line["peer"] == peer
