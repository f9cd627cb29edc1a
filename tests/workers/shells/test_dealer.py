"""The contract of all DEALERs: ours on a unix socket and on TCP, and that of libzmq."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.needs import unix_sockets
from tests.workers import routers
from wsraw.runtime.bell import Bell
from wsraw.workers.shells.asyncio_shell import new_loop
from wsraw.workers.shells.local_dealer import LocalDealer
from wsraw.workers.shells.remote_dealer import RemoteDealer
from wsraw.workers.shells.shell import connect

KINDS = ["ipc", "tcp", "libzmq"]


class Ends:
    """A DEALER and the gateway's end. With a queue of one batch, libzmq reads little ahead."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.context = zmq.Context()
        endpoint = routers.on_this_machine(folder) if kind == "ipc" else routers.TCP
        self.router = routers.bind(self.context, endpoint, queue=1)
        self.bell = Bell()
        self.is_closed = False
        self.dealer = connect(
            routers.endpoint_of(self.router), self.bell, is_known=kind != "libzmq"
        )

    def probe(self) -> bytes:
        """The identity of the DEALER once it has connected. Sends the probe again, as the shells
        do.
        """
        again_at = time.monotonic() + self.dealer.probe_every

        def has_come() -> int:
            nonlocal again_at
            if time.monotonic() >= again_at:
                again_at += self.dealer.probe_every
                self.dealer.send(b"")
            self.dealer.wait(0.01)
            return self.router.poll(10)

        eventually(has_come, "the probe")
        identity, empty = self.router.recv_multipart()
        assert empty == b""
        return identity

    async def probe_in_loop(self) -> bytes:
        """The same in `in_loop`."""
        every = min(DEADLINE, self.dealer.probe_every)
        while not await asyncio.to_thread(self.router.poll, 1000 * every):
            self.dealer.send(b"")
        identity, empty = self.router.recv_multipart()
        assert empty == b""
        return identity

    def close(self) -> None:
        """Close the DEALER like a worker that has said bye, in a thread of its own."""
        self.is_closed = True
        self.dealer.close(after_bye=True)

    def receive(self) -> bytes:
        eventually(lambda: self.dealer.wait(0.01) or self.router.poll(10), "a batch")
        return self.read()

    def read(self) -> bytes:
        """The next batch at the router, after repeated probes. The wait has a deadline of its
        own, as a thread cannot be cancelled.
        """
        while True:
            assert self.router.poll(1000 * DEADLINE), "nothing comes to the router"
            batch = self.router.recv_multipart()[1]
            if batch:
                return batch

    async def read_in_loop(self) -> bytes:
        return await asyncio.to_thread(self.read)

    def replace_router(self) -> None:
        endpoint = routers.endpoint_of(self.router)
        self.router.close()
        self.router = routers.bind_again(self.context, endpoint)


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    if request.param == "ipc" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("there are no unix sockets here")
    made = Ends(request.param, tmp_path)
    yield made
    if not made.is_closed:
        made.dealer.close()
    made.bell.close()
    made.router.close()
    made.context.term()


@pytest.mark.parametrize(
    ("endpoint", "is_known", "kind"),
    [
        pytest.param("ipc:///run/x/link.sock", False, LocalDealer, marks=unix_sockets),
        pytest.param("ipc:///run/x/link.sock", True, LocalDealer, marks=unix_sockets),
        ("tcp://127.0.0.1:7788", True, LocalDealer),
        # This may be an SSH tunnel.
        ("tcp://127.0.0.1:7788", False, RemoteDealer),
        ("tcp://192.0.2.1:7788", False, RemoteDealer),
    ],
)
def test_libzmq_is_for_gateways_that_may_be_on_another_machine(
    endpoint: str, is_known: bool, kind: type
) -> None:
    bell = Bell()
    dealer = connect(endpoint, bell, is_known=is_known)
    assert type(dealer) is kind
    dealer.close()
    bell.close()


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize(
    "endpoint", ["nonsense", "ipc://", "ipc://" + 200 * "x", "tcp://", "udp://x"]
)
def test_an_invalid_endpoint_is_refused(endpoint: str, is_known: bool) -> None:
    bell = Bell()
    with pytest.raises(OSError):
        connect(endpoint, bell, is_known=is_known)
    bell.close()


def test_batches_go_both_ways(ends: Ends) -> None:
    identity = ends.probe()
    assert ends.dealer.receive() is None
    assert not ends.dealer.is_lost
    for size in (0, 1, 255, 256, 100_000, 2_000_000):
        ends.router.send_multipart([identity, bytes(size)])
        eventually(lambda: ends.dealer.wait(DEADLINE), "a batch")
        assert ends.dealer.receive() == bytes(size)
        assert ends.dealer.send(bytes(size) + b"!")
        assert ends.receive() == bytes(size) + b"!"


def test_batches_that_come_together_are_received_one_by_one(ends: Ends) -> None:
    identity = ends.probe()
    for n in range(100):
        ends.router.send_multipart([identity, b"%d" % n])
    got = []
    while len(got) < 100:
        if ends.dealer.wait(DEADLINE):
            got.append(ends.dealer.receive())
    assert got == [b"%d" % n for n in range(100)]
    assert not ends.dealer.wait(0.0)


def test_no_exception_is_the_price_of_each_batch(ends: Ends) -> None:
    """Asking for a loss was once a receive that failed, which cost more than everything else."""
    identity = ends.probe()
    ends.router.send_multipart([identity, b"x"])
    eventually(lambda: ends.dealer.wait(DEADLINE), "a batch")
    raised: list[object] = []

    def note(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "exception":
            raised.append(argument)
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        got = ends.dealer.receive()
        sent = ends.dealer.send(b"y")
    finally:
        sys.settrace(before)
    assert (got, sent) == (b"x", True)
    assert raised == []


def test_a_wait_ends_in_time(ends: Ends) -> None:
    ends.probe()
    ends.dealer.wait(0.0)
    assert not ends.dealer.wait(0.0)
    assert not ends.dealer.wait(0.001)


def test_the_bell_ends_a_wait(ends: Ends) -> None:
    ends.probe()
    done = threading.Event()

    def wait() -> None:
        ends.dealer.wait(float("inf"))
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    ends.bell.ring()
    thread.join(DEADLINE)
    assert done.is_set()
    # The ring was handled: the next wait sleeps again.
    assert not ends.dealer.wait(0.0)


def test_nothing_that_was_meant_for_one_gateway_reaches_the_next_one(ends: Ends) -> None:
    ends.probe()
    assert ends.dealer.is_connected()
    old = ends.router
    ends.replace_router()
    assert old.closed
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.receive() is None
    assert ends.dealer.is_lost
    # This holds even if the DEALER has reconnected, as the shell does not know yet that the old
    # link is lost.
    assert not ends.dealer.wait(0.3, to_send=True) or ends.dealer.is_lost
    assert not ends.dealer.send(b"stale")
    assert ends.dealer.receive() is None
    ends.dealer.reconnect()
    identity = ends.probe()
    assert not ends.dealer.is_lost
    assert ends.dealer.send(b"fresh")
    assert ends.receive() == b"fresh"
    ends.router.send_multipart([identity, b"to the next session"])
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.receive() == b"to the next session"


@pytest.mark.parametrize("ends", ["ipc", "tcp"], indirect=True)
def test_what_came_before_a_loss_is_received_before_it_is_told(ends: Ends) -> None:
    """libzmq's DEALER may report the loss first. The remaining batches are void, like all of an
    old session.
    """
    identity = ends.probe()
    for n in range(10):
        ends.router.send_multipart([identity, b"%d" % n])
    eventually(lambda: ends.dealer.wait(DEADLINE), "the first")
    ends.router.setsockopt(zmq.LINGER, int(1000 * DEADLINE))
    ends.replace_router()
    got = []
    while not ends.dealer.is_lost or ends.dealer.wait(0.0):
        ends.dealer.wait(DEADLINE)
        batch = ends.dealer.receive()
        if batch is None:
            break
        got.append(batch)
    assert ends.dealer.is_lost
    assert got == [b"%d" % n for n in range(10)]


def test_a_gateway_that_does_not_read_bounds_what_is_unsent(ends: Ends) -> None:
    ends.probe()
    batch = bytes(256 * 1024)
    taken = 0
    while ends.dealer.send(batch):
        taken += 1
        assert taken < 200, "it takes whatever comes"
    if isinstance(ends.dealer, LocalDealer):
        # The system has some of the batches, and the DEALER has this one.
        assert ends.dealer.has_unsent
        assert 0 < ends.dealer._client.unsent <= 1024 * 1024 + len(batch) + 9
    got = 0
    while got < taken:
        assert ends.receive() == batch
        got += 1
    eventually(lambda: ends.dealer.send(b"again"), "room")
    assert ends.receive() == b"again"
    assert not ends.dealer.has_unsent


def test_a_thread_can_wait_until_all_has_left(ends: Ends) -> None:
    ends.probe()
    batches = [bytes((n,)) * 3_000_000 for n in range(4)]
    got: list[bytes] = []

    def read() -> None:
        while len(got) < len(batches):
            got.append(ends.read())

    thread = threading.Thread(target=read)
    thread.start()
    for batch in batches:
        while not ends.dealer.send(batch):
            ends.dealer.flush(DEADLINE)
    ends.dealer.flush(DEADLINE)
    assert not ends.dealer.has_unsent
    thread.join(DEADLINE)
    assert got == batches


def test_a_flush_ends_in_time_and_with_the_connection(ends: Ends) -> None:
    ends.probe()
    batch = bytes(3_000_000)
    while ends.dealer.send(batch):
        pass
    ends.dealer.flush(0.01)
    ends.router.close()
    ends.dealer.flush(DEADLINE)
    assert not ends.dealer.has_unsent
    assert ends.dealer.wait(DEADLINE)
    assert ends.dealer.receive() is None
    assert ends.dealer.is_lost


def arrives_before_the_end(ends: Ends, last: bytes) -> None:
    """Close the DEALER, and check that its last batch still arrives."""
    thread = threading.Thread(target=ends.close)
    thread.start()
    assert ends.read() == last
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_the_last_batch_leaves_before_the_end(ends: Ends) -> None:
    ends.probe()
    last = bytes(3_000_000)
    assert ends.dealer.send(last)
    arrives_before_the_end(ends, last)


def test_what_was_not_read_does_not_destroy_the_last_batch(ends: Ends) -> None:
    """Closing a TCP socket with unread data resets the connection."""
    identity = ends.probe()
    ends.router.send_multipart([identity, bytes(100)])
    assert ends.dealer.wait(DEADLINE)
    for _ in range(20):
        ends.router.send_multipart([identity, bytes(10_000)])
    last = bytes(100_000)
    assert ends.dealer.send(last)
    arrives_before_the_end(ends, last)


# --- in a loop ---

Condition = Callable[[], object]


def in_loop(
    ends: Ends, main: Callable[[Callable[[Condition], Awaitable[None]]], Awaitable[None]]
) -> None:
    """Run `main` with the dealer attached to a loop. The argument of `main` waits for a
    condition, which is checked only when the dealer reports something.
    """

    async def run() -> None:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.dealer.attach(loop, told.set)

        async def until(condition: Condition) -> None:
            while not condition():
                told.clear()
                await told.wait()

        try:
            async with asyncio.timeout(DEADLINE):
                await main(until)
        finally:
            ends.dealer.detach()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def received_all(ends: Ends, got: list[object]) -> bool:
    """Append the batches that have come; returns whether there were any."""
    while (batch := ends.dealer.receive()) is not None:
        got.append(batch)
    return bool(got)


def test_a_loop_is_told_of_batches(ends: Ends) -> None:
    async def main(until: Callable[[Condition], Awaitable[None]]) -> None:
        await until(ends.dealer.is_connected)
        identity = await ends.probe_in_loop()
        for n in range(200):
            ends.router.send_multipart([identity, b"%d" % n])
            if n % 3:
                # A send can consume the edge of libzmq's descriptor.
                assert ends.dealer.send(b"x")
                await ends.read_in_loop()
            got: list[object] = []
            await until(lambda got=got: received_all(ends, got))
            assert got == [b"%d" % n]

    in_loop(ends, main)


def test_a_loop_is_told_of_a_loss_and_connects_again(ends: Ends) -> None:
    async def main(until: Callable[[Condition], Awaitable[None]]) -> None:
        await until(ends.dealer.is_connected)
        await ends.probe_in_loop()
        for _ in range(3):
            await asyncio.to_thread(ends.replace_router)
            await until(lambda: ends.dealer.receive() is None and ends.dealer.is_lost)
            assert not ends.dealer.send(b"stale")
            ends.dealer.reconnect()
            await until(ends.dealer.is_connected)
            identity = await ends.probe_in_loop()
            ends.router.send_multipart([identity, b"in"])
            got: list[object] = []
            await until(lambda got=got: received_all(ends, got))
            assert got == [b"in"]
            assert ends.dealer.send(b"out")
            assert await ends.read_in_loop() == b"out"

    in_loop(ends, main)


def test_a_loop_is_told_of_room(ends: Ends) -> None:
    async def main(until: Callable[[Condition], Awaitable[None]]) -> None:
        await until(ends.dealer.is_connected)
        await ends.probe_in_loop()
        batch = bytes(256 * 1024)
        count = 1
        while ends.dealer.send(batch):
            count += 1
        got: list[bytes] = []

        def read_all() -> None:
            while len(got) < count:
                got.append(ends.read())

        reading = asyncio.create_task(asyncio.to_thread(read_all))
        await until(lambda: ends.dealer.send(batch))
        await reading
        assert got == [batch] * count

    in_loop(ends, main)


def test_a_dealer_that_is_detached_leaves_nothing_in_the_loop(ends: Ends) -> None:
    async def main(until: Callable[[Condition], Awaitable[None]]) -> None:
        await until(ends.dealer.is_connected)
        await ends.probe_in_loop()
        while ends.dealer.send(bytes(100_000)):
            pass
        ends.dealer.detach()
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        # The loop has a socket of its own, for calls from threads.
        assert len(selector.get_map()) == 1

    in_loop(ends, main)
