"""Compare the walk of a message in docs/architecture.md with a trace.

The trace uses real sockets and the real link, with a gateway's loop in this thread and a worker's
shell in another.
"""

from __future__ import annotations

import inspect
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from tests.corpus import frame
from tests.deadline import eventually
from tests.running import ROOT
from wsraw.config.settings import Settings
from wsraw.gateway.gateway import Gateway
from wsraw.link.records import Listening, Spawned
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.bell import Bell
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells.plain_shell import PlainShell
from wsraw.workers.shells.shell import Stopper, connect

TOKEN = "t" * 32
HELLO = frame(0x81, b"hello")
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PACKAGE = str(ROOT / "wsraw") + os.sep
COMPILED = not inspect.isfunction(WorkerEnd.receive)

Call = tuple[str, str]


class Trace:
    """The functions of wsraw that a thread calls, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            name = code.co_qualname if sys.version_info >= (3, 11) else code.co_name
            self.calls.append((code.co_filename.removeprefix(PACKAGE).replace(os.sep, "/"), name))


class Worker:
    """A worker's shell in a thread; its handler echoes, and starts the trace that is asked for."""

    def __init__(self, endpoint: str) -> None:
        self.traces: list[Trace] = []
        self.tracing = False
        bell = Bell()
        self.stopper = Stopper(bell)
        link = WorkerEnd(
            pool="default", token=TOKEN, instance="i", language="python", concurrency=1
        )
        handlers = Handlers(SimpleNamespace(on_message=self.on_message))
        self.endpoint, self.link, self.bell = endpoint, link, bell
        self.handlers = handlers
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        runtime = Runtime(self.link, self.handlers, "close", threading.get_ident)
        dealer = connect(self.endpoint, self.bell)
        PlainShell(runtime, dealer, self.stopper).run()
        self.bell.close()

    def on_message(self, msg: dict[str, Any], con: Any) -> str:
        # The trace runs from this handler's return to that of the next one: first the way out, then
        # the way in.
        if self.tracing:
            self.traces.append(Trace())
            sys.setprofile(self.traces[-1])
        else:
            sys.setprofile(None)
        return str(msg["data"])


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[tuple[list[Call], list[Call], list[Call]]]:
    """The calls of the gateway on the way in, of the worker, and of the gateway on the way out."""
    gateway = Gateway(Settings(run_dir=str(tmp_path), listen=("127.0.0.1:0",)), "", "", 7)
    gateway.start()
    [news] = gateway.sessions.to_supervisor
    assert isinstance(news, Listening)
    gateway._apply(Spawned(1, TOKEN, 0), 0.0)
    worker = Worker(news.endpoint)
    host, port = news.addresses[0].rsplit(":", 1)
    received = bytearray()

    def turn() -> list[Call]:
        trace = Trace()
        sys.setprofile(trace)
        gateway.loop.turn(False)
        sys.setprofile(None)
        return trace.calls

    def until(name: str) -> list[Call]:
        """The calls of turns until that function was called, without turns that do nothing."""
        calls: list[Call] = []

        def is_called() -> bool:
            made = turn()
            if len(made) > len(idle):
                calls.extend(made)
            return any(qualname == name for _, qualname in made)

        eventually(is_called, name)
        return calls

    try:
        with socket.create_connection((host, int(port))) as client:
            client.setblocking(False)

            def has(count: int) -> bool:
                try:
                    received.extend(client.recv(4096))
                except BlockingIOError:
                    pass
                return len(received) >= count

            def echo() -> None:
                received.clear()
                client.send(HELLO)
                eventually(lambda: gateway.loop.turn(False) is None or has(7), "the echo")

            client.send(REQUEST)
            eventually(lambda: gateway.loop.turn(False) is None or has(100), "the 101")
            for _ in range(20):
                echo()
            worker.tracing = True
            for _ in range(5):
                echo()
            worker.tracing = False
            echo()
            idle = turn()
            ways = []
            for _ in range(5):
                received.clear()
                client.send(HELLO)
                ways.append((until("Endpoint.handle"), until("Endpoint.flush")))
                eventually(lambda: has(7), "the echo")
            # On a busy machine a message may take more turns than necessary, also in the worker.
            of_worker = min((trace.calls for trace in worker.traces), key=len)
            way_in, way_out = min(ways, key=lambda way: len(way[0]) + len(way[1]))
            yield way_in, of_worker, way_out
    finally:
        worker.stopper.stop()
        eventually(lambda: gateway.loop.turn(False) is None or not worker.thread.is_alive(), "end")
        gateway.close()


def steps(heading: str) -> list[Call]:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    section = text.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\| `([\w/]+\.py)` `([\w.]+)` \|", section, re.M)


def missing(told: list[Call], calls: list[Call]) -> list[Call]:
    """The steps that the trace does not have in this order."""
    left, absent = iter(calls), []
    for step in told:
        if step not in calls:
            absent.append(step)
        elif step not in left:
            absent.append((*step, "is called earlier"))  # type: ignore[arg-type]
            left = iter(calls)
    return absent


@pytest.mark.skipif(COMPILED, reason="compiled functions cannot be traced")
def test_the_walk_of_a_message_is_that_of_the_page(
    walk: tuple[list[Call], list[Call], list[Call]],
) -> None:
    way_in, worker, way_out = walk
    told = steps("In")
    assert len(told) > 8
    assert (
        missing(
            [step for step in told if not step[0].startswith(("workers/", "link/worker"))], way_in
        )
        == []
    )
    told = steps("Out")
    assert len(told) > 8
    assert (
        missing(
            [step for step in told if not step[0].startswith(("workers/", "link/worker"))], way_out
        )
        == []
    )
    # The worker's trace begins within a handler: first the way out, then the way in.
    sides = [
        step
        for heading in ("Out", "In")
        for step in steps(heading)
        if step[0].startswith(("workers/", "link/worker"))
    ]
    running = {"PlainShell.run", "Runtime.handle", "Connection.send"}
    assert missing([step for step in sides if step[1] not in running], worker) == []


@pytest.mark.skipif(COMPILED, reason="compiled functions cannot be traced")
@pytest.mark.skipif(sys.platform == "win32", reason="the page counts without those of select there")
def test_a_message_takes_no_more_calls_than_the_page_says(
    walk: tuple[list[Call], list[Call], list[Call]],
) -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    [(most, files)] = re.findall(r"at most (\d+) calls in (\d+) files", text)
    calls = [call for part in walk for call in part]
    assert len(calls) <= int(most)
    assert len({file for file, _ in calls}) <= int(files)
