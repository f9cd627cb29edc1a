"""A worker's machine and the gateway's end of its link, with a fake wire in between and without
sockets. For the shells, a real worker process with a ROUTER of the tests at the other end.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeVar

import pytest
import zmq

from tests.deadline import DEADLINE, UNIT, eventually
from tests.workers import routers
from wsraw.link.gateway_end import GatewayEnd, who
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    Ack,
    Bye,
    Event,
    Hello,
    OnClose,
    OnConnect,
    OnMessage,
    Record,
    Send,
    gateway_decoder,
)
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.workers import api
from wsraw.workers.connection import Connection
from wsraw.workers.loading import handlers
from wsraw.workers.runtime import Runtime

EPOCH = 3
TOKEN = "sesame"
FIRST_ID = EPOCH << ID_EPOCH_SHIFT | 5000
T = TypeVar("T")


def con_id(n: int, epoch: int = EPOCH) -> int:
    return epoch << ID_EPOCH_SHIFT | n


def connect(n: int, **fields: Any) -> OnConnect:
    return OnConnect(0, con_id(n), {"Protocol": "websocket server"}, **fields)


def message(n: int, data: bytes, type: str = "text", **fields: Any) -> OnMessage:
    return OnMessage(0, con_id(n), data, type, **fields)


def closed(n: int, code: int = 1000, reason: str = "", cause: str = "peer") -> OnClose:
    return OnClose(0, con_id(n), code, reason, cause)


def take_acks(gateway: GatewayEnd, batch: bytes) -> list[Any]:
    """The commands of a batch, after its acks are taken. Fails if the session would drop the
    batch.
    """
    dropped = gateway.dropped
    records = gateway.receive(batch)
    assert gateway.dropped == dropped, "the batch acks what is not in flight"
    for record in records:
        if isinstance(record, Ack):
            gateway.window.take(record)
    return [record for record in records if not isinstance(record, Ack)]


class Pair:
    """Both ends of a link, and the handlers."""

    def __init__(self, file: Path, on_exception: str) -> None:
        loaded = handlers.load(str(file))
        self.module: ModuleType = sys.modules[file.stem]
        link = WorkerEnd(pool="p", token=TOKEN, instance="i", language="test", concurrency=1)
        self.runtime = Runtime(link, loaded, on_exception, threading.get_ident)
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        api.install(self.runtime, lambda function, args: self.calls.append((function, args)))
        self.gateway: GatewayEnd
        self.begin_session(1)

    def begin_session(self, session: int, epoch: int = EPOCH, *, shield: bool = False) -> None:
        self.gateway = GatewayEnd(b"identity", gateway_decoder())
        self.runtime.receive(who())
        (hello,) = self.gateway.receive(self.sent())
        first = epoch << ID_EPOCH_SHIFT | 5000
        self.gateway.welcome(hello, session, epoch, range(first, first + 2000), shield=shield)
        self.tell()

    def sent(self) -> bytes:
        batch = self.runtime.link.data_to_send()
        assert batch is not None, "the worker has nothing to say"
        return batch

    def tell(self) -> None:
        batch = self.gateway.data_to_send()
        assert batch is not None
        self.runtime.receive(batch)

    def notice(self, record: Record) -> None:
        self.gateway.notice(record)
        self.tell()

    def deliver(self, *events: Event) -> None:
        for event in events:
            self.gateway.deliver(event, None, 0, 0.0)
        self.tell()

    def commands(self) -> list[Any]:
        """The commands of the worker, without acks."""
        batch = self.runtime.link.data_to_send()
        return [] if batch is None else take_acks(self.gateway, batch)

    def run(self, *events: Event) -> list[Any]:
        """Deliver and handle the events; returns the commands. All events are acked then."""
        self.deliver(*events)
        self.handle_all()
        commands = self.commands()
        assert not self.gateway.window.in_flight
        return commands

    def handle_all(self) -> None:
        queue = self.runtime.queue
        while queue:
            if type(queue[0]) in self.runtime.awaited:
                asyncio.run(self.runtime.handle_async(queue.popleft()))
            else:
                self.runtime.handle(queue.popleft())

    def con(self, n: int) -> Connection:
        return self.runtime.connection(con_id(n))

    def __getattr__(self, name: str) -> Any:
        """Get a variable of the handlers file."""
        return getattr(self.module, name)


@pytest.fixture
def clean_modules() -> Iterator[None]:
    """Undo the changes of handlers files to sys.modules and sys.path."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def pair(tmp_path: Path, clean_modules: None) -> Iterator[Callable[..., Pair]]:
    """A function that makes a pair with the handlers of a source text."""

    def make(source: str, on_exception: str = "close") -> Pair:
        file = tmp_path / "user_handlers.py"
        file.write_text(textwrap.dedent(source) or "# No handlers.", encoding="utf-8")
        return Pair(file, on_exception)

    yield make
    api.uninstall()


class Output:
    """The output of a process. A thread reads it at once: a pipe of Windows holds 4 KiB, and a
    worker that writes more would wait.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            self._lines.extend(self._stream)

    def line(self) -> str:
        """Wait for the first line."""
        eventually(lambda: self._lines, "a line of output")
        return self._lines[0]

    def all(self) -> str:
        """Wait for the end; returns everything."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "somebody keeps the output open"
        return "".join(self._lines)


class Process:
    """A worker process, started as the supervisor does, and the gateway that it connects to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = zmq.Context()
        self.is_spawned = True
        """Whether a supervisor has started the worker, and not a user."""
        self.bind(routers.on_this_machine(folder))
        self.gateway = GatewayEnd(b"", gateway_decoder())
        self.sessions = 0
        self.commands: list[Any] = []
        self.child: subprocess.Popen[str]

    def bind(self, endpoint: str, **options: int) -> None:
        """Listen at an endpoint for the worker, which is started later."""
        if hasattr(self, "router"):
            self.router.close()
        self.router = routers.bind_again(self.context, endpoint, **options)
        self.endpoint = routers.endpoint_of(self.router)

    def restart_gateway(self) -> None:
        """Replace the gateway by another one at the same endpoint."""
        self.router.close()
        self.router = routers.bind_again(self.context, self.endpoint)

    def start(
        self, source: str, *, settings: str = "{}", prelude: str = "", name: str = "user_handlers"
    ) -> None:
        """Start the worker. `prelude` is run in its process before wsraw's main."""
        file = self.folder / f"{name}.py"
        file.write_text(textwrap.dedent(source), encoding="utf-8")
        # Variables of wsraw or of its tests in this environment must not reach the worker.
        theirs = {name: v for name, v in os.environ.items() if not name.startswith("WSRAW_")}
        environment = {
            **theirs,
            "WSRAW_PARENT": str(os.getpid()),
            "WSRAW_ENDPOINT": self.endpoint,
            "WSRAW_TOKEN": TOKEN,
            "WSRAW_POOL": "p",
        }
        if self.is_spawned:
            environment["WSRAW_STDIN"] = "1"
        start = f"{prelude}\nimport sys\nfrom wsraw.child import main\nsys.exit(main())"
        self.child = subprocess.Popen(
            [sys.executable, "-c", start, "worker", str(file)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = Output(self.child.stdout), Output(self.child.stderr)
        assert self.child.stdin is not None
        self.child.stdin.write(f"{settings}\n")
        self.child.stdin.flush()

    def say(self, word: str) -> None:
        """Send a word as the worker's supervisor."""
        assert self.child.stdin is not None
        # The supervisor sends bytes, too, without the platform's line ends.
        self.child.stdin.buffer.write(f"{word}\n".encode())
        self.child.stdin.buffer.flush()

    def receive(self) -> bytes | None:
        """The next batch of the worker, if one comes soon; () and empty probes are skipped."""
        if not self.router.poll(50 * UNIT):
            return None
        self.gateway.identity, batch = self.router.recv_multipart()
        return batch

    def tell(self) -> None:
        batch = self.gateway.data_to_send()
        if batch is not None:
            self.router.send_multipart([self.gateway.identity, batch])

    def welcome(self, *events: Event, epoch: int = EPOCH) -> Hello:
        """Ask the connecting worker for its hello, and begin a session, with these events at
        once.
        """
        self.gateway = GatewayEnd(b"", gateway_decoder())
        first = self.until(lambda: [batch for batch in [self.receive()] if batch is not None], "")
        assert first == [b""], "the probe, and nothing of an old session"
        self.router.send_multipart([self.gateway.identity, who()])
        hello: Hello
        (hello,) = self.gateway.receive(self.until(self.receive, "hello"))
        self.sessions += 1
        self.gateway.welcome(hello, self.sessions, epoch, range(con_id(5000), con_id(7000)))
        self.gateway.window.limit = 1000
        self.deliver(*events)
        return hello

    def deliver(self, *events: Event) -> None:
        for event in events:
            self.gateway.deliver(event, None, 0, 0.0)
        self.tell()

    def until(self, condition: Callable[[], T], what: str) -> T:
        def or_its_end() -> T:
            value = condition()
            if not value and self.child.poll() is not None:
                raise AssertionError(f"{what}: the worker has ended: {self.end()}")
            return value

        return eventually(or_its_end, what)

    def pump(self, condition: Callable[[], Any], what: str) -> None:
        """Receive batches of the worker until the condition is true."""

        def step() -> bool:
            while not condition():
                batch = self.receive()
                if batch is None:
                    return False
                if batch:
                    self.commands += take_acks(self.gateway, batch)
                    self.tell()
            return True

        eventually(step, what)

    def all_acked(self) -> bool:
        return not self.gateway.window.in_flight

    def said_bye(self) -> bool:
        return any(isinstance(record, Bye) for record in self.commands)

    def sent(self) -> list[bytes]:
        return [record.data for record in self.commands if isinstance(record, Send)]

    def end(self) -> tuple[int, str, str]:
        """Wait until the process ends by itself; returns exit code, stdout and stderr."""
        return self.child.wait(DEADLINE), self.out.all(), self.err.all()

    def close(self) -> None:
        if hasattr(self, "child"):
            self.child.kill()
            self.end()
            assert self.child.stdin is not None
            self.child.stdin.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A process that is not started yet; `process.start(source)` starts it."""
    made = Process(tmp_path)
    yield made
    made.close()


__all__ = ["LinkState", "Pair", "Process"]
