"""If a function of the gateway raises, only the connection or worker that it works for ends.

The functions are found, not listed. A scene is played, and all our functions that are called for
the victim, a connection or a worker, are recorded. Then the scene is played again for each of these
functions, and that call raises. The stack shows for whom a function is called: a call belongs to
the connection or worker among its arguments, or among those of the nearest caller that has one.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import wsraw
from tests.authority import ca, ca_file, client_context, leaf, server_context, server_file
from tests.corpus import frame
from tests.deadline import eventually
from tests.gateway.harness import HANDSHAKE, Harness, entry_of, is_over
from tests.gateway.socket_harness import SocketHarness
from wsraw.cli import is_compiled
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.counters import Counters
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.delivery.worker import WorkerOf
from wsraw.link.gateway_end import GatewayEnd
from wsraw.link.records import (
    Ack,
    Close,
    Join,
    Leave,
    Mark,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Publish,
    Query,
    Record,
    Refused,
    Send,
    State,
)
from wsraw.link.window import Window
from wsraw.link.worker_end import Outbox, WorkerEnd
from wsraw.runtime import selector
from wsraw.runtime.log.line import Subject

OURS = os.path.join(os.path.dirname(wsraw.__file__), "")

NET = {
    # The steps after a fault. They raise nothing;
    # `test_a_second_fault_during_the_first_still_closes_the_connection` tests what happens if a
    # part of them does.
    "Endpoint.handle_fault", "Counters.fault", "Sockets._fault", "Registry.fault",
    "Sessions.fault",
    "Connection.force_end", "Registry.forget", "Endpoint.free", "Sockets._drop",
    "Registry._tell_end", "Backlog._record_fault", "Entry.leave_queue",
    "_Attempt.handle_fault", "blame",
    "owner_of", "Registry.end_failed", "Sessions._drop", "Sessions._encodable",
    # The functions that catch the fault.
    "Sockets._accepted", "Sockets._connected", "Sockets._dial", "Sockets._resume",
    "Dispatcher._serve", "Dispatcher._serve_waiting",
}  # fmt: skip


class Injected(Exception):  # noqa: N818
    """The exception that is injected."""


Place = tuple[str, int]
"""A function, and the number of its call for the victim."""


class Injector:
    """Records the calls for the victim, and raises in some of them, one after another."""

    def __init__(self, is_victim: Callable[[Any], bool], at: Sequence[Place]) -> None:
        self.calls: dict[str, int] = {}
        """The calls of each function since the last fault."""
        self.left = [*at]
        self._is_victim = is_victim
        self._names: dict[CodeType, str] = {}

    def __enter__(self) -> Injector:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, arg: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(OURS):
            return
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            name = getattr(code, "co_qualname", code.co_name)
            self._names[code] = name
        if code.co_filename == selector.__file__:
            # On other platforms the selector belongs to the library.
            return
        if name in NET or "<" in name or not self._belongs(frame):
            return
        self.calls[name] = count = self.calls.get(name, 0) + 1
        if self.left and self.left[0] == (name, count):
            del self.left[0]
            self.calls = {}
            raise Injected(f"in {name}")

    def go_on(self) -> None:
        """Trace again, as raising has ended the tracing."""
        sys.setprofile(self._see)

    def _belongs(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code.co_filename.startswith(OURS):
            code, values = frame.f_code, frame.f_locals
            if code.co_name == "__del__":
                # Python itself ignores exceptions in these functions.
                return False
            whose = None
            for name in code.co_varnames[: code.co_argcount]:
                value = values.get(name)
                if isinstance(value, WorkerEnd | Outbox):
                    return False
                if self._is_victim(value):
                    return True
                if isinstance(value, Connection | Entry | WorkerOf | GatewayEnd | Window):
                    whose = value
            if whose is not None:
                return False
            frame = frame.f_back
        return False


class Scene:
    """A gateway without ZeroMQ, two workers, a client that must stay served, and the victim."""

    def __init__(self, **settings: Any) -> None:
        self.served = served = SocketHarness(**settings)
        served.handle = self._handle
        self.peer = ""
        """The victim's address."""
        self.con: Connection | None = None
        self.worker: Worker | None = None
        self.sent = 0
        self.commands: Callable[[Any], tuple[Record, ...]] = lambda event: ()
        self.bystander = served.connect()
        self.bystander.sendall(HANDSHAKE)
        self._receive_from_bystander(b"\r\n\r\n")
        self.ask()

    # --- finding the victim ---

    def is_victim(self, value: Any) -> bool:
        """Whether the object is a part of the victim, or names it."""
        if value is None:
            return False
        worker = self.worker
        if value is self.con or (worker and value in (worker, worker.session, worker.window)):
            return True
        if isinstance(value, Connection):
            # The constructor of the object may not have finished.
            about = getattr(value, "about", {})
            if self.con is None and about and self.peer in (about.get("peer"), value.target):
                self.con = value
            return value is self.con
        if isinstance(value, tuple):
            return self.con is None and _text(value) == self.peer
        con = getattr(value, "con", None) or getattr(value, "_con", None)
        if isinstance(con, Connection):
            return self.is_victim(con)
        if self.con is None:
            return False
        return con == self.con.id or value in (
            getattr(self.con, "websocket", None),
            getattr(self.con, "beginning", None),
        )

    # --- the bystander ---

    def ask(self) -> None:
        """Check that the bystander gets its answer, and nothing else."""
        self.sent += 1
        text = b"here? %d" % self.sent
        self.bystander.sendall(frame(0x81, text))
        self._receive_from_bystander(bytes((0x81, len(text))) + text)

    def _receive_from_bystander(self, end: bytes) -> None:
        got = bytearray()

        def turn() -> bool:
            with contextlib.suppress(BlockingIOError):
                part = self.bystander.recv(65536)
                assert part, "the client beside was disconnected"
                got.extend(part)
            return got.endswith(end)

        self.served.until(turn)
        if self.sent:
            # Pings may come in between.
            assert got.replace(b"\x89\0", b"") == end

    def _handle(self, event: Any) -> tuple[Record, ...]:
        if type(event) is OnMessage and event.data.startswith(b"here?"):
            return (Send(event.con, event.data, "text"),)
        return self.commands(event)

    # --- the course of things ---

    def go(self, times: int = 3, seconds: float = 0.0) -> None:
        """Take some turns."""
        for _ in range(times):
            self.served.turn(seconds)

    def see_it_through(self) -> None:
        """Check that the victim is gone in the end, and that nothing of it is left."""
        registry, sockets = self.served.harness.registry, self.served.sockets
        for entry in list(registry.entries.values()):
            if entry.con.opened:
                entry.reopening = None
                registry.close(entry, 1000, "", "handler", self.served.loop.now)
        self.served.until(lambda: self.ask() or len(sockets.endpoints) == 1, seconds=0.4)
        self.served.until(lambda: self.ask() or len(registry.entries) == 1, seconds=0.4)
        assert not sockets._dialer.attempts
        self.go()
        [entry] = registry.entries.values()
        assert registry.flow.total == entry.event_bytes + entry.output_counted
        assert not entry.in_flight
        assert not self.served.sockets.shared.ended

    def close(self) -> None:
        self.served.close()


def _text(address: tuple[Any, ...]) -> str:
    return ":".join(map(str, address[:2]))


class Client:
    """The victim's end of its connection, which ignores errors."""

    def __init__(self, scene: Scene, sock: socket.socket) -> None:
        self.scene = scene
        self.sock = sock

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.sock.send(data)
        self.scene.go()

    def read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self.sock.recv(1 << 20):
                pass
        self.scene.go()


def connect(scene: Scene, buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind(("127.0.0.1", 0))
    scene.peer = _text(sock.getsockname())
    host, port = scene.served.sockets.listeners[0].address.rsplit(":", 1)
    scene.served.clients.append(sock)
    sock.connect((host, int(port)))
    sock.setblocking(False)
    scene.go()
    return sock


def is_connected(sock: socket.socket) -> bool:
    """Otherwise Python's TLS raises and leaves a socket open."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


# --- the scenes ---


def answers(event: Any) -> tuple[Record, ...]:
    """Handlers that do what each message says."""
    if type(event) is not OnMessage:
        return ()
    con = event.con
    commands: dict[bytes, tuple[Record, ...]] = {
        b"much": (Send(con, b"x" * 400_000), Mark(con, 1)),
        b"group": (
            Join(con, "all"),
            Publish("all", b"news", "text"),
            State(con, b"known"),
            Query(1, "members", "all"),
            Leave(con, "all"),
        ),
        b"part": (Send(con, b"a", "text", False), Send(con, b"b", "text", True)),
        b"close": (Close(con, 1000, "bye"),),
    }
    return commands.get(event.data, (Send(con, event.data, "text"),))


def websocket(scene: Scene, sock: socket.socket) -> None:
    """A WebSocket: messages, too many and too large ones, a ping, and a goodbye."""
    client = Client(scene, sock)
    client.send(HANDSHAKE)
    client.send(frame(0x81, b"hello"))
    client.read()
    scene.ask()
    for text in (b"group", b"part"):
        client.send(frame(0x81, text))
    # More data than may be parked, so reading pauses.
    scene.served.working = False
    client.send(frame(0x81, b"y" * 6000) * 4)
    scene.served.working = True
    scene.ask()
    # More messages than a client may send in a second.
    client.send(frame(0x81, b"z") * 30)
    scene.ask()
    scene.go(6, 0.4)
    client.send(frame(0x89, b"ping") + frame(0x01, b"in two") + frame(0x80, b" parts"))
    # More output than the kernel takes at once.
    client.send(frame(0x81, b"much"))
    scene.ask()
    for _ in range(4):
        client.read()
    scene.ask()
    client.send(frame(0x88, b"\x03\xe8"))
    client.read()
    scene.ask()
    sock.close()


def plain(scene: Scene) -> None:
    scene.commands = answers
    websocket(scene, connect(scene, 4096))


@functools.cache
def of_client() -> ssl.SSLContext:
    return client_context(leaf("client"))


def secure(scene: Scene) -> None:
    """The same scene over TLS."""
    scene.commands = answers
    below = connect(scene)
    if not is_connected(below):
        return
    sock = of_client().wrap_socket(
        below, server_hostname="localhost", do_handshake_on_connect=False
    )
    scene.served.clients.append(sock)
    for _ in range(6):
        with contextlib.suppress(OSError, ValueError):
            sock.do_handshake()
        scene.go()
    websocket(scene, sock)


def raw(scene: Scene) -> None:
    """Raw clients that need not send a PROXY header: one half-closes, one is closed."""
    scene.commands = answers
    sock = connect(scene)
    client = Client(scene, sock)
    client.send(b"hello")
    client.read()
    scene.ask()
    scene.served.working = False
    client.send(b"more")
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    scene.go()
    scene.served.working = True
    scene.ask()
    client.read()
    sock.close()


def closed(scene: Scene) -> None:
    """A WebSocket that its handler closes, and whose client sends nothing more."""
    scene.commands = answers
    client = Client(scene, connect(scene))
    client.send(HANDSHAKE + frame(0x81, b"close"))
    scene.ask()
    scene.go(6, 0.4)
    client.sock.close()


def opened(
    scene: Scene, context: ssl.SSLContext | None = None, scheme: str = "", **options: Any
) -> None:
    """A handler opens a connection, which reconnects when it ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        target = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        scene.peer = target
        linked = scene.served.linked
        linked.say(
            Open(linked.link.new_id(), target, options={"reconnect": not context, **options})
        )
        for _ in range(2):
            far = _accept(scene, server)
            if far is None:
                break
            if context is not None:
                if not is_connected(far):
                    break
                far = context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
                scene.served.clients.append(far)
                for _ in range(6):
                    with contextlib.suppress(OSError, ValueError):
                        far.do_handshake()
                    scene.go()
            client = Client(scene, far)
            client.send(b"hello")
            client.read()
            scene.ask()
            far.close()
            scene.go(4, 0.4)
    # This attempt fails.
    scene.go(3, 0.4)


def _accept(scene: Scene, server: socket.socket) -> socket.socket | None:
    """The connection that comes, or None."""
    got: list[socket.socket] = []
    tries = iter(range(10))

    def is_over() -> bool:
        scene.go(2, 0.2)
        # On Windows this also happens for a connection that has already ended.
        with contextlib.suppress(OSError):
            got.append(server.accept()[0])
        # A thread may be working, for example on the TLS context.
        return bool(got) or (
            next(tries, None) is None and not scene.served.sockets._dialer.attempts
        )

    eventually(is_over)
    for sock in got:
        sock.setblocking(False)
        scene.served.clients.append(sock)
        return sock
    return None


def opened_secure(scene: Scene) -> None:
    trusted = ca().cert_pem.bytes().decode()
    opened(scene, server_context(), scheme="tls://", ca=trusted, server_name="localhost")


# --- the tests ---

Play = Callable[[Scene], None]


@pytest.fixture
def scenes(tmp_path: Path) -> dict[str, tuple[Play, dict[str, Any]]]:
    """The scenes, each with its settings."""
    usual: dict[str, Any] = {
        "high_water_mark": 8000,
        "ping_interval": 1.0,
        "ping_timeout": 0.0,
        "close_timeout": 1.0,
        "message_rate": 20.0,
        "handler_timeout": 0.0,
    }
    tls = {"tls_cert": (server_file(tmp_path),), "tls": "optional"}
    tls |= {"tls_client_ca": ca_file(tmp_path), "tls_client_auth": "optional"}
    return {
        "websocket": (plain, usual),
        "tls": (secure, usual | tls),
        "raw": (raw, usual | {"message_rate": 0.0}),
        "closed": (closed, usual | {"verdict": "handlers", "message_rate": 0.0}),
        "opened": (opened, usual),
        "opened tls": (opened_secure, usual),
    }


def play(
    act: Play, settings: dict[str, Any], *at: Place, fault: pytest.MonkeyPatch | None = None
) -> Injector:
    """Play a scene in which the calls at those places raise. With `fault`, calls after the first
    exception are traced, too.
    """
    scene = Scene(**settings)
    try:
        with Injector(scene.is_victim, at) as injector:
            if fault is not None:
                tell = Counters.fault

                def told(
                    limits: Counters, who: str, error: BaseException, *subject: Subject
                ) -> None:
                    tell(limits, who, error, *subject)
                    injector.go_on()

                fault.setattr(Counters, "fault", told)
            act(scene)
        scene.see_it_through()
    except BaseException as error:
        error.add_note(f"with a fault at {at}")
        raise
    finally:
        scene.close()
    return injector


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of tracebacks would take longer than everything else."""
    caplog.set_level(logging.CRITICAL, "wsraw")


interpreted = pytest.mark.skipif(
    is_compiled(), reason="compiled functions have no frames that could raise"
)


@interpreted
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("websocket", ""),
        ("tls", "websocket"),
        ("raw", ""),
        ("closed", ""),
        ("opened", ""),
        ("opened tls", "opened"),
    ],
)
def test_a_fault_closes_only_its_own_connection(
    name: str,
    known: str,
    scenes: dict[str, tuple[Play, dict[str, Any]]],
    faults: list[tuple[str, BaseException]],
) -> None:
    act, settings = scenes[name]
    calls = play(act, settings).calls
    others = play(*scenes[known]).calls if known else {}
    assert not faults
    for place in calls.keys() - others.keys():
        for number in sorted({1, calls[place]}):
            faults.clear()
            if not play(act, settings, (place, number)).left:
                assert faults, f"a fault in {place} was not told"
                assert isinstance(faults[0][1], Injected), f"in {place}"


@interpreted
@pytest.mark.parametrize(
    ("name", "first"),
    [
        pytest.param("websocket", ("Connection.receive_data", 3), marks=pytest.mark.long),
        ("raw", ("Dispatcher.take", 2)),
        ("opened", ("Sockets._begin", 1)),
    ],
)
def test_a_second_fault_during_the_first_still_closes_the_connection(
    name: str,
    first: Place,
    scenes: dict[str, tuple[Play, dict[str, Any]]],
    faults: list[tuple[str, BaseException]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second exception is raised while the connection ends because of the first."""
    act, settings = scenes[name]
    with monkeypatch.context() as patch:
        calls = play(act, settings, first, fault=patch).calls
    assert len(faults) == 1
    for place in calls:
        faults.clear()
        with monkeypatch.context() as patch:
            injector = play(act, settings, first, (place, 1), fault=patch)
        if not injector.left:
            assert len(faults) >= 2, f"a fault in {place} was not told"


# --- workers ---


def raising(error: str) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise Injected(error)

    return fail


@interpreted
def test_a_command_that_raises_closes_its_connection_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, faults: list[tuple[str, BaseException]]
) -> None:
    """The event is acked, so that it does not come again, and the rest of the batch is applied."""
    harness = Harness()
    linked = harness.worker()
    con, other = harness.websocket(), harness.websocket()
    linked.work()
    harness.say(con, frame(0x81, b"x"))
    harness.turn()
    monkeypatch.setattr(type(con), "send", raising("send"))
    [event] = linked.events
    linked.ack(event, commands=(Send(con.id, b"a", "text"), Join(other.id, "room")))
    assert [who for who, _ in faults] == [f"connection {con.id}"]
    assert con.ending.cause == "fault"
    assert list(harness.registry.groups.members("room")) == [entry_of(other)]
    harness.turn()
    assert [type(each) for each in linked.events] == [OnError]
    assert "a bug in the gateway" in linked.take(Refused)[0].why


@interpreted
def test_an_ack_that_raises_ends_the_session(
    monkeypatch: pytest.MonkeyPatch, faults: list[tuple[str, BaseException]]
) -> None:
    """The worker counts as dead: its events go to other workers, and in the end become poison."""
    harness = Harness(max_deliveries=2)
    con = harness.websocket()
    harness.worker().work()
    harness.say(con, frame(0x81, b"x"))
    monkeypatch.setattr(Window, "take", raising("ack"))
    for count in (1, 2):
        harness.turn()
        [linked] = harness.linked_workers
        assert linked.take(OnMessage)
        linked.say_raw(Ack(1, 1) if count > 1 else Ack(2, 2))
        assert len(faults) == count
        assert is_over(linked)
        harness.linked_workers = []
        assert bool(harness.sessions.dead_letters) is (count == 2)
        harness.worker()
    [letter] = harness.sessions.dead_letters
    assert letter["event"] == "on_message"
    assert con.ending.cause == "poison"


def test_an_event_that_cannot_be_encoded_ends_the_session_and_is_poison(
    faults: list[tuple[str, BaseException]],
) -> None:
    harness = Harness(max_deliveries=2)
    con = harness.raw(b"")
    con.about["peer"] = "\udcff"
    harness.say(con, b"hello")
    other = harness.raw(b"")
    for count in (1, 2):
        assert is_over(harness.worker())
        assert len(faults) == count
        harness.linked_workers = []
    assert con.ending.cause == "poison"
    con.about["peer"] = "good"
    linked = harness.worker()
    linked.work()
    harness.say(other, b"still here")
    harness.turn()
    assert [type(each) for each in linked.events] == [OnConnect, OnMessage]


@interpreted
def test_a_parked_event_that_cannot_be_delivered_is_given_up(
    monkeypatch: pytest.MonkeyPatch, faults: list[tuple[str, BaseException]]
) -> None:
    harness = Harness()
    con = harness.raw(b"hello")
    other = harness.raw(b"there")
    deliver = GatewayEnd.deliver

    def fail(self: GatewayEnd[Any], event: Any, owner: Any, size: int, now: float) -> None:
        if event.con == con.id:
            raise Injected("deliver")
        deliver(self, event, owner, size, now)

    monkeypatch.setattr(GatewayEnd, "deliver", fail)
    linked = harness.worker()
    for _ in range(5):
        harness.turn()
    assert [each.con for each in linked.events] == [other.id, other.id]
    assert con.output.reset
    linked.work()
    assert list(harness.registry.entries) == [other.id]
    assert 1 <= len(faults) <= 3


@interpreted
@pytest.mark.parametrize("broken", ["leave", "_release_bound", "withdraw"])
def test_a_session_whose_end_raises_is_removed(
    broken: str, monkeypatch: pytest.MonkeyPatch, faults: list[tuple[str, BaseException]]
) -> None:
    harness = Harness()
    linked, beside = harness.worker(), harness.worker()
    cons = [harness.websocket() for _ in range(4)]
    harness.turn()
    held = [con for con in cons if entry_of(con).holder is linked.worker]
    for each in (linked, beside):
        each.work()
    with monkeypatch.context() as patch:
        patch.setattr(type(harness.registry.dispatcher), broken, raising(broken))
        harness.sessions.fault(linked.worker, Injected("first"), harness.now)
    assert is_over(linked)
    assert len(faults) >= 2
    assert all(con.ending.cause == "fault" for con in held)
    for con in set(cons) - set(held):
        harness.say(con, frame(0x81, b"x"))
    harness.turn()
    assert len(beside.take(OnMessage)) == len(cons) - len(held)
