from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable

import pytest

from tests.deadline import eventually
from tests.needs import ON_ITS_WAY, unix_sockets
from tests.runtime.link.ends import READY, ready_pair, serving
from wsraw.link.batches import READ_IN_PLACE
from wsraw.link.zmtp import GREETING, header
from wsraw.runtime.link import connection
from wsraw.runtime.link.connection import JOINED_BELOW, READ_SIZE, LinkSocket, tune

SIZES = sorted(
    {0, 1, 255, 256, 65_535, 65_536, 1 << 20, 3 << 20}
    | {limit + more for limit in (JOINED_BELOW, READ_IN_PLACE, READ_SIZE) for more in (-9, 0, 1)}
)


def batch_of(size: int, number: int = 0) -> bytes:
    return random.Random(size + number).randbytes(size)


def drain(reader: LinkSocket, writer: LinkSocket) -> list[bytes]:
    """The batches that the reader receives until the writer has nothing left."""
    found = []
    while True:
        done = writer.flush()
        found += [bytes(batch) for batch in reader.receive()]
        if done or writer.broken:
            break
    while True:
        found += [bytes(batch) for batch in reader.receive()]
        if reader.ended or not select.select([reader], [], [], ON_ITS_WAY)[0]:
            return found


def test_batches_of_every_size_go_both_ways() -> None:
    for near, far in (ready_pair(), reversed(ready_pair())):
        for size in SIZES:
            near.send(batch_of(size))
            assert drain(far, near) == [batch_of(size)]
        near.close()
        far.close()


@pytest.mark.parametrize("buffer", [0, 50_000, 1 << 20])
def test_batches_that_are_queued_arrive_in_order_and_whole(buffer: int) -> None:
    near, far = ready_pair(buffer=buffer)
    batches = [batch_of(size, n) for n in range(20) for size in SIZES[:-2]]
    random.Random(1).shuffle(batches)
    for batch in batches:
        near.send(batch)
    assert near.unsent
    assert drain(far, near) == batches
    assert near.unsent == 0
    near.close()
    far.close()


def test_more_batches_are_queued_than_the_system_takes_at_once() -> None:
    # The system refuses calls with more pieces than IOV_MAX.
    near, far = ready_pair()
    batches = [bytes(16 << 20), *(b"%d" % n for n in range(5000))]
    for batch in batches:
        near.send(batch)
    assert len(near._out) > 4096
    assert drain(far, near) == batches
    assert not near.broken
    near.close()
    far.close()


def test_a_peer_that_sends_byte_by_byte_is_understood() -> None:
    near, far = socket.socketpair()
    server = serving(near)
    tune(near)
    batches = [batch_of(size) for size in (0, 1, 300, JOINED_BELOW)]
    found: list[bytes] = []
    for byte in GREETING + READY + b"".join(header(len(b)) + b for b in batches):
        far.sendall(bytes((byte,)))
        found += map(bytes, server.receive())
    assert found == batches
    server.close()
    far.close()


def test_everything_before_the_end_is_received_before_it() -> None:
    for near, far in (ready_pair(buffer=1 << 22), reversed(ready_pair(buffer=1 << 22))):
        sent = []
        while near.send(batch_of(1000, len(sent))):
            sent.append(batch_of(1000, len(sent)))
        near.close()
        found: list[bytes] = []
        while not far.ended:
            found += map(bytes, far.receive(budget=10_000))
        assert found == sent
        assert far.why == "the peer has closed the connection"
        assert far.receive() == []
        far.close()


class CountedSocket(socket.socket):
    """Counts the calls that become system calls."""

    calls: list[str]

    def __getattribute__(self, name: str) -> object:
        if name.startswith(("recv", "send")):
            self.calls.append(name)
        return super().__getattribute__(name)


def test_one_small_batch_is_one_call_on_each_side() -> None:
    """Under light load all batches are like this."""
    near, far = ready_pair()
    for end in (near, far):
        end._sock = CountedSocket(fileno=end._sock.detach())  # type: ignore[misc]
        end._sock.setblocking(False)
        end._sock.calls = []
    assert near.send(b"one")
    assert far.receive() == [b"one"]
    assert near._sock.calls == ["send"]  # type: ignore[attr-defined]
    assert far._sock.calls == ["recv"]  # type: ignore[attr-defined]
    near.close()
    far.close()


@unix_sockets  # on TCP a part of it may come first
def test_a_batch_of_several_large_messages_is_soon_one_call_on_each_side() -> None:
    near, far = ready_pair(buffer=1 << 20)
    batch = batch_of(150_000)
    for _ in range(3):
        assert near.send(batch)
        assert far.receive() == [batch]
    for end in (near, far):
        end._sock = CountedSocket(fileno=end._sock.detach())  # type: ignore[misc]
        end._sock.setblocking(False)
        end._sock.calls = []
    assert near.send(batch)
    assert far.receive() == [batch]
    assert near._sock.calls == ["sendmsg"]  # type: ignore[attr-defined]
    assert far._sock.calls == ["recv"]  # type: ignore[attr-defined]
    near.close()
    far.close()


def test_a_large_batch_is_received_where_it_stays() -> None:
    near, far = ready_pair(buffer=1 << 20)
    far._sock = CountedSocket(fileno=far._sock.detach())  # type: ignore[misc]
    far._sock.setblocking(False)
    far._sock.calls = []
    batch = batch_of(1 << 20)
    near.send(batch)
    assert drain(far, near) == [batch]
    calls = far._sock.calls  # type: ignore[attr-defined]
    assert "recv_into" in calls
    # recv is used until the length is known, and when no other data follows.
    assert calls.count("recv") < len(batch) / READ_SIZE / 2
    for _ in range(4):
        near.send(batch)
        assert drain(far, near) == [batch]
    # Data that is read before the length is known is copied.
    assert far._portion <= READ_SIZE
    near.close()
    far.close()


def test_a_ping_is_answered() -> None:
    near, far = socket.socketpair()
    server = serving(near)
    tune(near)
    far.sendall(GREETING + READY + b"\x04\x0b\x04PING\x00\x00ping")
    assert server.receive() == []
    assert server.flush()
    assert far.recv(1000).endswith(b"\x04\x09\x04PONGping")
    server.close()
    far.close()


@unix_sockets  # on TCP more than one portion could be read at once
def test_pings_of_a_peer_that_never_reads_take_bounded_memory() -> None:
    near, far = socket.socketpair()
    server = serving(near)
    tune(near)
    far.sendall(GREETING + READY)
    for _ in range(300):
        far.sendall(b"\x04\x0b\x04PING\x00\x00ping" * 1000)
        while server.receive() or server.has_more:
            pass
        server.flush()
    assert not server.ended
    assert server.unsent < 2 * connection.COMMAND_LIMIT
    server.close()
    far.close()


def test_small_batches_are_read_in_small_portions_and_large_ones_in_large_portions() -> None:
    near, far = ready_pair(buffer=1 << 22)
    for _ in range(1000):
        near.send(b"x" * 1000)
    most = 0
    while batches := far.receive(budget=1):
        most = max(most, len(batches))
    assert 60 < most < 70
    assert not far.has_more
    assert near._sock.send(header(0) * 100_000) == 200_000
    found = [len(batches) for batches in iter(far.receive, [])]
    assert sum(found) == 100_000
    assert max(found[1:]) <= connection.LEAST_READ // 2
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (GREETING + READY.replace(b"DEALER", b"SUBXYZ"), "SUBXYZ"),
        (GREETING + READY + b"\x02" + (1 << 40).to_bytes(8, "big"), "1,099,511,627,776"),
    ],
)
def test_what_is_wrong_with_a_peer_ends_it_and_is_told_to_it(data: bytes, why: str) -> None:
    near, far = socket.socketpair()
    server = serving(near)
    tune(near)
    far.sendall(data)
    assert server.receive() == []
    assert server.ended
    assert why in server.why
    assert server.flush()
    server.close()
    told = far.recv(10_000)
    assert (b"\x05ERROR" in told) is data.startswith(GREETING)
    if data.startswith(GREETING):
        assert why.encode() in told
    far.close()


def test_what_came_before_an_error_is_received() -> None:
    near, far = socket.socketpair()
    server = serving(near)
    tune(near)
    far.sendall(GREETING + READY + b"\0\x03one\0\x03two\xff")
    assert server.receive() == [b"one", b"two"]
    assert server.ended
    server.close()
    far.close()


def test_the_reason_of_a_refusal_is_the_end_of_the_other_side() -> None:
    near, far = ready_pair()
    near.send(b"before")
    near.fail("you are not wanted")
    assert near.flush()
    assert far.receive() == [b"before"]
    assert far.ended
    assert "you are not wanted" in far.why
    near.close()
    far.close()


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("buffer", [0, 3_000, 100_000])
def test_a_refusal_follows_the_batch_that_was_begun(size: int, buffer: int) -> None:
    """Otherwise the peer would take the reason for a part of that batch."""
    near, far = ready_pair(buffer=buffer)
    sent = []
    while not near.unsent:
        sent.append(batch_of(size, len(sent)))
        near.send(sent[-1])
    for n in range(10):
        near.send(batch_of(size, -1 - n))
    near.fail("enough")
    found = drain(far, near)
    assert found in (sent, sent[:-1])
    assert "enough" in far.why
    near.close()
    far.close()


@pytest.mark.parametrize("size", [10, 5_000, 70_000])
def test_a_batch_is_either_received_or_known_to_be_unsent(size: int) -> None:
    near, far = ready_pair(buffer=30_000)
    sent = [batch_of(size, n) for n in range(30_000 // size + 20)]
    for batch in sent:
        near.send(batch)
    found = [bytes(batch) for batch in far.receive()]
    far.close()
    near.flush()
    # On TCP the system still takes data until it has heard that the peer is gone.
    eventually(lambda: near.send(b"late") or near.broken)
    assert near.unsent
    late = near.unsent_batches()
    assert late[-1] == b"late"
    unsent = [batch for batch in late if batch != b"late"] + [b"late"]
    # The peer may have read the data that was in the system's buffer when it closed.
    assert sent[len(sent) - len(unsent) + 1 :] == unsent[:-1]
    assert len(found) <= len(sent) - len(unsent) + 1
    near.close()


@unix_sockets
def test_output_that_a_peer_does_not_take_any_more_ends_the_connection_after_its_input() -> None:
    near, far = ready_pair()
    far.send(b"last words")
    far._sock.shutdown(socket.SHUT_RD)
    assert not near.send(b"for nobody")
    assert near.broken
    assert not near.ended
    assert near.receive() == [b"last words"]
    assert near.ended
    near.close()
    far.close()


def test_a_reset_connection_ends() -> None:
    near, far = ready_pair()
    near.send(b"unread")
    far.close()
    assert near.receive() == []
    assert near.ended
    near.close()


@unix_sockets  # with so small a buffer TCP waits for its own acknowledgements
def test_a_batch_that_is_written_in_many_parts_is_not_copied_each_time(
    taken: Callable[[int], float],
) -> None:
    """A batch four times as large takes four times as long, not sixteen times."""
    few = min(taken(8 << 20) for _ in range(5))
    many = min(taken(32 << 20) for _ in range(5))
    assert many < 12 * few


@pytest.fixture
def taken() -> Callable[[int], float]:
    import time

    def take(size: int) -> float:
        near, far = ready_pair(buffer=0)
        batch = bytes(size)
        begin = time.process_time()
        near.send(batch)
        assert drain(far, near) == [batch]
        spent = time.process_time() - begin
        near.close()
        far.close()
        return spent

    return take
