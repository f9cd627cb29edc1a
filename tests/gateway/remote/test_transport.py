from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import pytest
import zmq

from tests.deadline import DEADLINE, UNIT, eventually
from wsraw.gateway.remote.transport import (
    RECEIVE_QUEUE,
    REMOTE_MARK,
    Gatekeeper,
    RemoteSocket,
    Sent,
    new_context,
)
from wsraw.link.batches import COPIED_BELOW, LARGEST_REMOTE_BATCH
from wsraw.runtime.loop import Loop

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


@pytest.fixture
def context() -> Iterator[Context]:
    context = new_context()
    yield context
    # Sockets that a test has left open are closed, so that a failure does not hang here.
    context.destroy(linger=0)


class Door:
    """Allows remote workers, or refuses them."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self.opens = True
        self.met: list[tuple[bytes, str, str]] = []

    def meet(self, identity: bytes, address: str, user: str) -> bool:
        self.met.append((identity, address, user))
        return self.opens

    def socket(
        self, context: Context, secret: str = "", endpoint: str = "", heartbeat: float = 1.0
    ) -> RemoteSocket:
        endpoints = [endpoint or "tcp://127.0.0.1:0"]
        return RemoteSocket(context, endpoints, secret, heartbeat, self.known, self.meet)


@pytest.fixture
def wire(context: Context) -> Iterator[RemoteSocket]:
    """A socket that allows all workers. It sends no heartbeats: tests leave full queues unread
    for long, and libzmq 4.3.5 aborts if the peer of a heartbeat is gone.
    """
    wire = Door().socket(context, heartbeat=0.0)
    yield wire
    wire.close()


Message = tuple[bytes, bytes]


def is_pending(wire: RemoteSocket | Gatekeeper) -> bool:
    """Ask as a loop does, which wakes the socket only when the descriptor is ready."""
    if select.select([wire.fd], [], [], 0)[0]:
        wire.wake(True, False)
    return wire.pending()


class Peers:
    """Sockets of workers, in a context of their own, as in another process."""

    def __init__(self, wire: RemoteSocket) -> None:
        self.wire = wire
        self.context: Context = zmq.Context()
        self._sockets: list[Socket] = []

    def connect(self, probe: bool = True, **options: int | bytes) -> Socket:
        socket = self.context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.PROBE_ROUTER, int(probe))
        for name, value in options.items():
            socket.set(getattr(zmq, name), value)
        socket.connect(self.wire.endpoints[0])
        # Keep a reference: a socket without one is closed, and its batches may never leave.
        self._sockets.append(socket)
        return socket

    def receive(self, until: Callable[[list[Message]], object]) -> list[Message]:
        """Drain until the condition holds for the messages."""
        got: list[Message] = []

        def drained() -> object:
            for socket in self._sockets:
                if not socket.closed:
                    # A worker waits in poll; libzmq does not even send the hello of a socket that
                    # is never polled.
                    socket.get(zmq.EVENTS)
            is_pending(self.wire)
            self.wire.drain(lambda identity, data: got.append((identity, bytes(data))), 100)
            return until(got)

        eventually(drained)
        return got

    def first(self) -> bytes:
        """The identity of the first worker that sends a message."""
        return self.receive(lambda got: got)[0][0]


@pytest.fixture
def peers(wire: RemoteSocket) -> Iterator[Peers]:
    peers = Peers(wire)
    yield peers
    peers.context.destroy(linger=0)


def hear(socket: Socket) -> bytes:
    assert socket.poll(int(1000 * DEADLINE)), "nothing came"
    return socket.recv()


# --- receiving ---


def test_a_worker_is_noticed_before_its_first_batch(wire: RemoteSocket, peers: Peers) -> None:
    peers.connect()
    [(identity, data)] = peers.receive(lambda got: got)
    assert identity
    assert data == b""


def test_each_worker_is_heard_in_order_under_its_own_identity(
    wire: RemoteSocket, peers: Peers
) -> None:
    sockets = [peers.connect(probe=False) for _ in range(3)]
    for socket, name in zip(sockets, b"abc", strict=True):
        for n in range(50):
            socket.send(bytes((name, n)))
    got = peers.receive(lambda got: len(got) == 150)
    by_identity: dict[bytes, list[bytes]] = {}
    for identity, data in got:
        by_identity.setdefault(identity, []).append(data)
    expected = [[bytes((name, n)) for n in range(50)] for name in b"abc"]
    assert sorted(by_identity.values()) == expected


def test_the_budget_bounds_a_drain(wire: RemoteSocket, peers: Peers) -> None:
    socket = peers.connect(probe=False)
    for n in range(5):
        socket.send(b"%d" % n)
    got: list[bytes] = []
    while len(got) < 4:
        is_pending(wire)
        wire.drain(lambda _, data: got.append(bytes(data)), 1)
    eventually(lambda: is_pending(wire))
    wire.drain(lambda _, data: got.append(bytes(data)), 1)
    assert not wire.drained, "it may be that more wait"
    wire.drain(lambda _, data: got.append(bytes(data)), 1)
    assert wire.drained
    assert got == [b"0", b"1", b"2", b"3", b"4"]
    assert not wire.pending()


def test_the_time_of_a_turn_bounds_a_drain(wire: RemoteSocket, peers: Peers) -> None:
    """The rest is found without a wake-up."""
    socket = peers.connect(probe=False)
    for n in range(5):
        socket.send(b"%d" % n)
    ticks = iter(range(1000))
    wire._clock = lambda: next(ticks) * 1.0
    got: list[bytes] = []
    eventually(lambda: is_pending(wire))
    # The clock ticks once at the start and once for each message, so this many are read.
    for seconds, most in ((0.5, 1), (1.5, 2), (100.0, 5)):
        before = len(got)
        eventually(lambda: is_pending(wire))
        wire.drain(lambda _, data: got.append(bytes(data)), 100, seconds)
        # Some messages may not have arrived yet.
        assert wire.drained or len(got) - before == most
        assert len(got) - before <= most
    while len(got) < 5:
        eventually(lambda: is_pending(wire))
        wire.drain(lambda _, data: got.append(bytes(data)), 100, 100.0)
    assert got == [b"0", b"1", b"2", b"3", b"4"]


def test_a_drain_without_a_wake_up_asks_the_socket(wire: RemoteSocket, peers: Peers) -> None:
    """Without a look at the descriptor by the loop, the socket has not been woken."""
    wire.drain(lambda _, data: None, 100)
    assert wire.drained
    assert not wire.pending()
    peers.connect(probe=False).send(b"x")

    def is_there() -> bool:
        wire.look_again()
        return wire.pending()

    eventually(is_there)
    wire.drain(lambda _, data: None, 100, DEADLINE)
    assert wire.drained


@pytest.mark.parametrize("frames", [[b"a", b"b"], [b"", b"a"], [b"a", b"b", b"c"]])
def test_a_message_of_several_frames_is_ignored(
    wire: RemoteSocket, peers: Peers, frames: list[bytes]
) -> None:
    peers.connect(probe=False).send_multipart(frames)
    [(_, data)] = peers.receive(lambda got: got)
    assert data == b"\xc1", "a byte that MessagePack never uses"


def test_an_identity_chosen_by_the_worker_is_ignored(wire: RemoteSocket, peers: Peers) -> None:
    """Otherwise two workers could have the same identity; libzmq's own identities begin with a
    zero byte.
    """
    chosen = peers.connect(ROUTING_ID=b"worker-1")
    chosen.send(b"chosen")
    assert hear_all(peers) == [b"last", b"really the last"]


def hear_all(peers: Peers) -> list[bytes]:
    """All messages that come before the word of another worker, and of one more after that."""
    words: list[bytes] = []
    for last in (b"last", b"really the last"):
        peers.connect(probe=False).send(last)
        words += [data for _, data in peers.receive(lambda got: last in [d for _, d in got])]  # noqa: B023
    return words


# --- sending ---


def test_batches_arrive_in_order(wire: RemoteSocket, peers: Peers) -> None:
    socket = peers.connect()
    identity = peers.first()
    for n in range(100):
        assert wire.send(identity, b"%d" % n) is Sent.OK
    assert [hear(socket) for _ in range(100)] == [b"%d" % n for n in range(100)]


def test_a_batch_to_an_unknown_identity_is_reported_as_gone(wire: RemoteSocket) -> None:
    assert wire.send(b"\0who?", b"x") is Sent.GONE


def test_a_batch_to_a_closed_worker_is_reported_as_gone(wire: RemoteSocket, peers: Peers) -> None:
    socket = peers.connect()
    identity = peers.first()
    socket.close(0)
    eventually(lambda: wire.send(identity, b"x") is Sent.GONE)


def test_a_worker_may_be_gone_before_its_last_batch_is_read(
    wire: RemoteSocket, peers: Peers
) -> None:
    """So a death is certain only after one more drain."""
    socket = peers.connect()
    identity = peers.first()
    # With a full queue libzmq would not notice the end.
    sent = [b"%d" % n for n in range(RECEIVE_QUEUE // 2)]
    for data in sent:
        socket.send(data)
    socket.close(int(5000 * UNIT))
    eventually(lambda: wire.send(identity, b"x") is Sent.GONE)
    got = peers.receive(lambda got: len(got) == len(sent))
    assert [data for _, data in got] == sent


@pytest.mark.parametrize("more", [-1, 0, 1 << 20])
def test_large_batches_arrive_whole(wire: RemoteSocket, peers: Peers, more: int) -> None:
    """The sizes are around the one from which messages are not copied; data that the sender no
    longer refers to stays alive.
    """
    socket = peers.connect()
    identity = peers.first()
    size = COPIED_BELOW + more
    for byte in b"abcdef":
        assert wire.send(identity, bytes((byte,)) * size) is Sent.OK
    for byte in b"abcdef":
        assert hear(socket) == bytes((byte,)) * size
        socket.send(bytes((byte,)) * size)
    got = peers.receive(lambda got: len(got) == 6)
    assert [bytes(data) for _, data in got] == [bytes((byte,)) * size for byte in b"abcdef"]


def test_a_batch_to_a_worker_that_does_not_read_is_reported_as_full(
    wire: RemoteSocket, peers: Peers
) -> None:
    socket = peers.connect(RCVHWM=1)
    identity = peers.first()
    batch = bytes(64 * 1024)
    sent = 0
    while (result := wire.send(identity, batch)) is Sent.OK:
        sent += 1
        assert sent < 10_000, "nothing bounds it"
    assert result is Sent.FULL
    for _ in range(sent):
        assert hear(socket) == batch
    eventually(lambda: wire.send(identity, b"x") is Sent.OK)


def test_a_worker_that_sends_without_end_must_wait(wire: RemoteSocket, peers: Peers) -> None:
    socket = peers.connect(SNDHWM=1)
    peers.first()
    sent = 0
    try:
        while sent < 10_000:
            if not socket.poll(200, zmq.POLLOUT):
                break
            socket.send(bytes(10_000), zmq.NOBLOCK)
            sent += 1
    except zmq.Again:
        pass
    # The queue and the buffers of TCP at both ends are full.
    assert sent < 5_000


def test_a_batch_that_is_too_large_ends_the_link(wire: RemoteSocket, peers: Peers) -> None:
    large, other = peers.connect(), peers.connect()
    peers.receive(lambda got: len(got) == 2)
    large.send(bytes(LARGEST_REMOTE_BATCH + 1))
    other.send(b"still here")
    got = peers.receive(lambda got: b"still here" in [data for _, data in got])
    assert all(len(data) <= LARGEST_REMOTE_BATCH for _, data in got)


# --- the descriptor ---


def test_a_wake_up_consumed_by_a_send_is_found_by_asking(wire: RemoteSocket, peers: Peers) -> None:
    """Waiting would not end: a turn must ask `pending` before it sleeps."""
    socket = peers.connect()
    identity = peers.first()
    missed = 0
    for n in range(300):
        socket.send(b"reply %d" % n)
        got: list[bytes] = []

        def look(got: list[bytes] = got) -> bool:
            # A send handles what the descriptor has announced, and so consumes the wake-up.
            while not is_pending(wire):
                wire.send(identity, b"x")
            # The descriptor also announces other things.
            wire.drain(lambda _, data: got.append(bytes(data)), 10, 100.0)
            return bool(got)

        eventually(look)
        assert wire.drained
        assert got == [b"reply %d" % n]
        missed += not wire.pending()
    assert missed == 300


def test_a_loop_that_asks_before_it_sleeps_misses_no_batch(
    wire: RemoteSocket, peers: Peers
) -> None:
    loop = Loop()
    socket = peers.connect()
    identity = peers.first()
    got: list[bytes] = []

    def before_sleep(now: float) -> bool:
        # Reading one at a time leaves the rest, and the edge of the descriptor does not come again.
        wire.drain(lambda _, data: got.append(bytes(data)), 1)
        wire.send(identity, b"x")
        return wire.pending()

    loop.watch(wire.fd, wire.wake, read=True)
    loop.before_sleep = before_sleep
    for n in range(20):
        socket.send_multipart([b"%d" % n])
    may_sleep = True
    begin = loop.now
    while len(got) < 20:
        may_sleep = loop.turn(may_sleep)
        assert loop.now - begin < 20 * UNIT
    assert got == [b"%d" % n for n in range(20)]
    loop.close()


# --- workers on other machines ---


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def remote(context: Context, door: Door) -> Iterator[RemoteSocket]:
    remote = door.socket(context)
    yield remote
    remote.close()


def drain_remote(remote: RemoteSocket) -> list[Message]:
    got: list[Message] = []
    remote.drain(lambda identity, data: got.append((identity, bytes(data))), 100)
    return got


def come(remote: RemoteSocket) -> list[Message]:
    """Wait for a message. The descriptor also announces other things."""
    return eventually(lambda: drain_remote(remote) if is_pending(remote) else [])


def test_a_remote_worker_is_checked_once_and_marked_as_remote(
    remote: RemoteSocket, door: Door
) -> None:
    other: Context = zmq.Context()
    socket = other.socket(zmq.DEALER)
    socket.connect(remote.endpoints[0])
    socket.send(b"one")
    [(identity, data)] = come(remote)
    assert (data, door.met) == (b"one", [(identity, "127.0.0.1", "")])
    assert identity.startswith(REMOTE_MARK), "no worker of this machine has the same"
    door.known.add(identity)
    socket.send(b"two")
    assert come(remote) == [(identity, b"two")]
    assert len(door.met) == 1
    assert remote.send(identity, b"back") is Sent.OK
    assert hear(socket) == b"back"
    door.known.clear()
    door.opens = False
    socket.send(b"three")
    got: list[Message] = []

    def look() -> bool:
        if is_pending(remote):
            got.extend(drain_remote(remote))
        return len(door.met) == 2

    eventually(look)
    assert not got
    socket.close(0)
    eventually(lambda: remote.send(identity, b"x") is Sent.GONE)
    other.term()


def test_keys_are_asked_about_before_anything_is_heard(context: Context, door: Door) -> None:
    server_public, server_secret = zmq.curve_keypair()
    keeper = Gatekeeper(context)
    remote = door.socket(context, server_secret.decode())
    other: Context = zmq.Context()
    socket = other.socket(zmq.DEALER)
    public, secret = zmq.curve_keypair()
    socket.set(zmq.CURVE_PUBLICKEY, public)
    socket.set(zmq.CURVE_SECRETKEY, secret)
    socket.set(zmq.CURVE_SERVERKEY, server_public)
    socket.connect(remote.endpoints[0])
    socket.send(b"secret words")
    eventually(lambda: is_pending(keeper))
    assert not is_pending(remote)
    asked: list[bytes] = []
    refused: list[str] = []

    def lets_in(key: bytes) -> str | None:
        asked.append(key)
        # At first the key is unknown; libzmq tries again.
        return "alice" if len(asked) > 1 else None

    def answered() -> bool:
        is_pending(keeper)
        keeper.answer(lets_in, refused.append)
        return is_pending(remote)

    eventually(answered)
    [(_, data)] = drain_remote(remote)
    [(_, _, user)] = door.met
    assert (data, user) == (b"secret words", "alice")
    assert refused == ["127.0.0.1"]
    assert len(asked[0]) == 32
    socket.close(0)
    other.term()
    remote.close()
    keeper.close()


def test_an_address_that_cannot_be_bound_raises_with_its_reason(
    context: Context, remote: RemoteSocket, door: Door
) -> None:
    with pytest.raises(OSError, match=r"worker_listen: tcp://.*Address (already )?in use"):
        door.socket(context, endpoint=remote.endpoints[0])
