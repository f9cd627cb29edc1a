"""ZMTP over real sockets with libzmq at the other end: a DEALER for our server, a ROUTER for our
client.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.deadline import DEADLINE
from wsraw.link.batches import NO_BATCH, Batch
from wsraw.link.zmtp import ZmtpPeer, header

LARGEST = 16 << 20
TRANSPORTS = ["tcp", "ipc"] if hasattr(socket, "AF_UNIX") and sys.platform != "win32" else ["tcp"]
ENDS = ["server", "client"]
DEADLINE_MS = int(DEADLINE * 1000)
IN_FLIGHT = 50
"""Messages: fewer than libzmq queues."""


class Ours:
    """A ZmtpPeer over a non-blocking socket."""

    def __init__(self, sock: socket.socket, peer: ZmtpPeer) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.peer = peer
        self.eof = False
        self.pongs = 0
        self._unsent: deque[memoryview] = deque()

    @property
    def interest(self) -> int:
        return zmq.POLLIN | zmq.POLLOUT if self._unsent else zmq.POLLIN

    def send(self, message: Batch) -> None:
        self._unsent += (memoryview(header(len(message))), memoryview(message))

    def receive(self) -> list[Batch]:
        """Receive messages until the socket has no more."""
        messages: list[Batch] = []
        peer = self.peer
        while not self.eof and not peer.why:
            view = peer.rest()
            try:
                if view is None:
                    data = self.sock.recv(65536)
                    self.eof = not data
                    messages += peer.receive_data(data)
                else:
                    count = self.sock.recv_into(view)
                    self.eof = not count
                    view = None
                    message = peer.received(count)
                    messages += [] if message is None else [message]
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.eof = True
                break
            if said := peer.data_to_send():
                self.pongs += said.count(b"PONG")
                # Insert the answer between two messages, as a message that was begun is sent to its
                # end first.
                at = len(self._unsent) % 2
                self._unsent.insert(at, memoryview(said))
                self._unsent.insert(at, memoryview(b""))
        return messages

    def flush(self) -> None:
        if self.peer.output:
            self._unsent.appendleft(memoryview(self.peer.data_to_send()))
            self._unsent.appendleft(memoryview(b""))
        while self._unsent:
            first = self._unsent[0]
            try:
                sent = self.sock.send(first) if first else 0
            except BlockingIOError:
                break
            if sent < len(first):
                self._unsent[0] = first[sent:]
            else:
                self._unsent.popleft()


class Pair(NamedTuple):
    """An end of ours and one of libzmq, connected."""

    ours: Ours
    zmq: zmq.Socket[bytes]
    identity: bytes
    """The identity of our end at a ROUTER; empty if libzmq is a DEALER."""

    def wait(self) -> None:
        """Wait until either end can continue, then do the work of ours."""
        poller = zmq.Poller()
        poller.register(self.ours.sock, self.ours.interest)
        poller.register(self.zmq, zmq.POLLIN)
        poller.poll(50)
        self.ours.flush()

    def receive(self) -> list[Batch]:
        """The messages that our end has received, once there are any."""
        return until(lambda: self.wait() or self.ours.receive())

    def say(self, message: bytes, flags: int = 0) -> None:
        if self.identity:
            self.zmq.send(self.identity, zmq.SNDMORE)
        self.zmq.send(message, flags)

    def hear(self) -> Batch | None:
        """The next message that libzmq has received, if there is one."""
        try:
            if self.identity:
                assert self.zmq.recv(zmq.NOBLOCK) == self.identity
            frame = self.zmq.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        assert not frame.more
        return frame.buffer


def until(condition: Callable[[], Any]) -> Any:
    """Like `eventually`, for conditions that wait by themselves."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline
    return value


class Meet:
    """Makes pairs and closes them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._context = stack.enter_context(zmq.Context())
        self._made = 0

    def socket(self, kind: int, **options: Any) -> zmq.Socket[bytes]:
        socket = self._stack.enter_context(self._context.socket(kind))
        socket.linger = 0
        for name, value in options.items():
            socket.set(getattr(zmq, name), value)
        return socket

    def monitor(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """A monitor, where libzmq reports the events of a socket's connections."""
        monitor: zmq.Socket[bytes] = self._stack.enter_context(socket.get_monitor_socket())
        return monitor

    def listen(self, transport: str) -> tuple[socket.socket, str]:
        """A listening socket and its address."""
        if transport == "tcp":
            server = socket.create_server(("127.0.0.1", 0))
            endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        else:
            self._made += 1
            path = self._folder / f"{self._made}.sock"
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.listen()
            endpoint = f"ipc://{path}"
        server.settimeout(DEADLINE)
        return self._stack.enter_context(server), endpoint

    def accept(self, server: socket.socket, limit: int = LARGEST) -> Ours:
        sock = self._stack.enter_context(server.accept()[0])
        return Ours(sock, ZmtpPeer("ROUTER", {"DEALER"}, limit, as_server=True))

    def dial(self, endpoint: str, limit: int = LARGEST) -> Ours:
        scheme, _, place = endpoint.partition("://")
        if scheme == "tcp":
            host, _, port = place.partition(":")
            sock = socket.create_connection((host, int(port)))
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(place)
        self._stack.enter_context(sock)
        return Ours(sock, ZmtpPeer("DEALER", {"ROUTER"}, limit, as_server=False))

    def pair(self, end: str, transport: str = "tcp", limit: int = LARGEST, **options: Any) -> Pair:
        if end == "server":
            server, endpoint = self.listen(transport)
            other = self.socket(zmq.DEALER, **options)
            other.connect(endpoint)
            ours = self.accept(server, limit)
            pair = Pair(ours, other, b"")
        else:
            other = self.socket(zmq.ROUTER, **options)
            self._made += 1
            place = "127.0.0.1:*" if transport == "tcp" else self._folder / f"{self._made}.sock"
            other.bind(f"{transport}://{place}")
            ours = self.dial(other.get_string(zmq.LAST_ENDPOINT), limit)
            pair = Pair(ours, other, b"")
        until(lambda: pair.wait() or ours.receive() or ours.peer.is_ready or ours.peer.why)
        assert ours.peer.why == ""
        if end == "server":
            return pair
        ours.send(b"who am I")
        until(lambda: pair.wait() or other.poll(0))
        identity, data = other.recv_multipart()
        assert data == b"who am I"
        return pair._replace(identity=identity)


@pytest.fixture
def meet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meet]:
    # The folder that pytest gives to a test has too long a name for a unix socket.
    folder = tmp_path_factory.mktemp("z")
    with ExitStack() as stack:
        yield Meet(stack, folder)


EDGES = (0, 1, 254, 255, 256, 257, 8191, 8192, 8193, 65527, 65535, 65536, 262144, 262145)


def random_sizes(count: int, largest: int) -> Iterator[int]:
    """Random sizes: mostly small ones, all edge cases, and some of the largest."""
    choose = random.Random(count)
    for i in range(count):
        kind = choose.random()
        if i % (count // 8) == 1:
            yield largest - (i & 1) * choose.randrange(3)
        elif kind < 0.95:
            yield int(2 ** choose.uniform(0, 11)) - 1
        elif kind < 0.998:
            yield max(0, choose.choice(EDGES) + choose.randrange(-2, 3))
        else:
            yield int(2 ** choose.uniform(11, 21))


def echo(pair: Pair, count: int, largest: int) -> None:
    """libzmq sends all messages to our end, and gets them back."""
    block = memoryview(random.Random(1).randbytes(largest + 4096))
    sizes = random_sizes(count, largest)
    awaited: deque[memoryview] = deque()
    said = heard = 0
    deadline = time.monotonic() + DEADLINE
    while heard < count:
        while said < count and len(awaited) < IN_FLIGHT:
            size = next(sizes)
            body = block[said % 4096 :][:size]
            pair.say(body)
            awaited.append(body)
            said += 1
        for message in pair.ours.receive():
            pair.ours.send(message)
        pair.ours.flush()
        assert pair.ours.peer.why == ""
        before = heard
        while (message := pair.hear()) is not None:
            assert message == awaited.popleft()
            heard += 1
        if heard == before:
            assert time.monotonic() < deadline
            pair.wait()
        else:
            deadline = time.monotonic() + DEADLINE


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", ENDS)
def test_messages_of_all_sizes_pass_and_come_back(meet: Meet, end: str, transport: str) -> None:
    echo(meet.pair(end, transport), count=2000, largest=1 << 20)


@pytest.mark.long
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", ENDS)
def test_a_hundred_thousand_messages_of_up_to_the_limit_pass_and_come_back(
    meet: Meet, end: str, transport: str
) -> None:
    echo(meet.pair(end, transport), count=100_000, largest=LARGEST)


@pytest.mark.parametrize("end", ENDS)
def test_heartbeats_of_libzmq_are_answered_and_keep_the_connection(meet: Meet, end: str) -> None:
    pair = meet.pair(end, HEARTBEAT_IVL=20, HEARTBEAT_TTL=100, HEARTBEAT_TIMEOUT=DEADLINE_MS)
    until(lambda: pair.wait() or pair.ours.receive() or pair.ours.pongs > 10)
    # The same connection continues.
    pair.say(b"still there")
    assert pair.receive() == [b"still there"]
    pair.ours.send(b"yes")
    assert until(lambda: pair.wait() or pair.hear()) == b"yes"


def test_a_probe_is_an_empty_message(meet: Meet) -> None:
    server, endpoint = meet.listen("tcp")
    dealer = meet.socket(zmq.DEALER, PROBE_ROUTER=1, ROUTING_ID=b"ignored")
    dealer.connect(endpoint)
    pair = Pair(meet.accept(server), dealer, b"")
    assert pair.receive() == [b""]
    assert pair.ours.peer.is_ready


@pytest.mark.parametrize("end", ENDS)
def test_a_message_of_several_frames_is_no_batch(meet: Meet, end: str) -> None:
    pair = meet.pair(end)
    pair.say(b"one", zmq.SNDMORE)
    pair.zmq.send(bytes(100_000), zmq.SNDMORE)
    pair.zmq.send(b"")
    pair.say(b"next")
    heard: list[Batch] = []
    until(lambda: pair.wait() or heard.extend(pair.ours.receive()) or len(heard) == 2)
    assert heard == [NO_BATCH, b"next"]


@pytest.mark.parametrize("kind", ["PUSH", "PULL", "PUB", "SUB", "REQ", "REP", "PAIR", "ROUTER"])
def test_a_socket_of_another_type_is_refused_and_does_not_come_back(meet: Meet, kind: str) -> None:
    server, endpoint = meet.listen("tcp")
    other = meet.socket(getattr(zmq, kind), RECONNECT_IVL=1)
    monitor = meet.monitor(other)
    other.connect(endpoint)
    ours = meet.accept(server)
    until(lambda: ours.receive() or ours.flush() or ours.peer.why)
    assert ours.peer.why == f"Socket-Type is {kind}, and must be DEALER"
    ours.flush()
    # libzmq reads the ERROR, and closes the connection itself.
    until(lambda: not ours.sock.getblocking() and _has_ended(ours.sock))
    events = []
    until(lambda: events.append(next_event(monitor)) or events[-1] == zmq.Event.DISCONNECTED)
    assert zmq.Event.HANDSHAKE_FAILED_PROTOCOL not in events
    assert zmq.Event.HANDSHAKE_SUCCEEDED not in events
    assert not monitor.poll(100)


def _has_ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(4096)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def next_event(monitor: zmq.Socket[bytes]) -> zmq.Event:
    assert monitor.poll(DEADLINE_MS)
    return zmq.Event(recv_monitor_message(monitor)["event"])


def test_a_dealer_whose_batch_was_too_long_comes_back(meet: Meet) -> None:
    server, endpoint = meet.listen("tcp")
    dealer = meet.socket(zmq.DEALER)
    dealer.connect(endpoint)
    pair = Pair(meet.accept(server, limit=1000), dealer, b"")
    pair.say(b"x" * 1000)
    pair.say(b"x" * 1001)
    assert pair.receive() == [b"x" * 1000]
    until(lambda: pair.wait() or pair.ours.receive() or pair.ours.peer.why)
    assert pair.ours.peer.why == "a batch of 1,001 bytes; the limit is 1,000: send it in several"
    pair.ours.flush()
    pair.ours.sock.close()
    again = Pair(meet.accept(server), dealer, b"")
    until(lambda: again.wait() or again.ours.receive() or again.ours.peer.is_ready)


@pytest.mark.parametrize("kind", ["DEALER", "REP", "PULL"])
def test_our_client_refuses_a_socket_that_is_no_router(meet: Meet, kind: str) -> None:
    other = meet.socket(getattr(zmq, kind))
    other.bind("tcp://127.0.0.1:*")
    ours = meet.dial(other.get_string(zmq.LAST_ENDPOINT))
    ours.flush()
    # libzmq closes the connection by itself, before or after it has sent its type.
    until(lambda: ours.receive() or ours.flush() or ours.peer.why or ours.eof)
    assert ours.peer.why in ("", f"Socket-Type is {kind}, and must be ROUTER")
    assert not ours.peer.is_ready


@pytest.mark.parametrize("end", ENDS)
def test_curve_is_refused_with_a_text_that_says_so(meet: Meet, end: str) -> None:
    public, secret = zmq.curve_keypair()
    if end == "server":
        server, endpoint = meet.listen("tcp")
        dealer = meet.socket(
            zmq.DEALER, CURVE_SERVERKEY=public, CURVE_PUBLICKEY=public, CURVE_SECRETKEY=secret
        )
        dealer.connect(endpoint)
        ours = meet.accept(server)
    else:
        router = meet.socket(zmq.ROUTER, CURVE_SERVER=1, CURVE_SECRETKEY=secret)
        router.bind("tcp://127.0.0.1:*")
        ours = meet.dial(router.get_string(zmq.LAST_ENDPOINT))
    until(lambda: ours.flush() or ours.receive() or ours.peer.why)
    assert "the mechanism CURVE" in ours.peer.why
