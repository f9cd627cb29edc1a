from __future__ import annotations

import gc
import math
import select
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.corpus import UPGRADE, frame
from tests.deadline import eventually
from tests.gateway.harness import HANDSHAKE, entry_of
from tests.gateway.socket_harness import SocketHarness
from wsraw.gateway.connection.connection import CLOSED, OPEN, Connection
from wsraw.gateway.connection.keepalive import FEW
from wsraw.gateway.delivery.entry import PAUSED_COUPLED, PAUSED_OWN
from wsraw.gateway.delivery.outgoing import AT_ONCE
from wsraw.gateway.sockets.endpoint import LARGE_READ, LEAST_READ, READ_SIZE
from wsraw.gateway.sockets.transport import PlainTransport
from wsraw.gateway.websocket.frames import MOST_FRAMES
from wsraw.link.batches import LARGEST_BATCH
from wsraw.link.records import (
    Close,
    Join,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Publish,
    Record,
    Respond,
    Send,
)
from wsraw.runtime.selector import Selector
from wsraw.runtime.sockets import KEEPALIVE_IDLE, tune, undelivered

MUCH = 16_000_000
"""Bytes that no kernel takes for a reader that does not read."""

STEP = 0.4
"""Seconds that a turn may take and the loop's clock still believes it."""


@pytest.fixture(params=["its own"] + ["SelectSelector"] * (sys.platform != "win32"))
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., SocketHarness]]:
    """Makes gateways with the selector of this platform, and with select. On Windows both are
    select.
    """
    selector = selectors.SelectSelector if request.param == "SelectSelector" else Selector
    made: list[SocketHarness] = []

    def serve(**settings: Any) -> SocketHarness:
        made.append(SocketHarness(selector=selector, **settings))
        return made[-1]

    yield serve
    for served in made:
        served.close()


Serve = Callable[..., SocketHarness]


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive(served: SocketHarness, client: socket.socket, size: int, seconds: float = 0.0) -> bytes:
    """Receive exactly that many bytes."""
    got = bytearray()

    def read() -> bool:
        try:
            data = client.recv(size - len(got))
            assert data, f"closed after {len(got)} bytes"
            got.extend(data)
        except BlockingIOError:
            pass
        return len(got) == size

    served.until(read, seconds)
    return bytes(got)


def receive_all(served: SocketHarness, client: socket.socket, seconds: float = 0.0) -> bytes:
    """Receive all bytes up to EOF; raises ConnectionResetError for a reset."""
    got = bytearray()

    def read() -> bool:
        while True:
            try:
                data = client.recv(65536)
            except BlockingIOError:
                return False
            if not data:
                return True
            got.extend(data)

    served.until(read, seconds)
    return bytes(got)


def echo(event: Any) -> tuple[Record, ...]:
    return (Send(event.con, event.data),) if type(event) is OnMessage else ()


# --- in and out ---


def test_received_data_is_delivered_and_answered(serve: Serve) -> None:
    served = serve()
    served.handle = echo
    client = served.connect()
    for n in range(5):
        client.send(b"message %d" % n)
        assert receive(served, client, 9) == b"message %d" % n
    assert not served.endpoint.writing


def test_one_connection_takes_a_bounded_part_of_a_turn(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    sent = 0
    while True:
        try:
            sent += client.send(bytes(1 << 20))
        except BlockingIOError:
            break
    assert sent > READ_SIZE
    before = 0
    while before < sent:
        served.turn()
        assert len(served.data()) - before <= READ_SIZE
        before = len(served.data())


def test_a_flood_of_small_messages_takes_a_small_part_of_a_turn(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.heard)
    # 8 bytes each, with a mask of zeros.
    flood = b"\x82\x82\0\0\0\0ab" * 40_000
    entry = entry_of(served.con)

    def came() -> int:
        return len(served.heard) + entry.in_flight + len(entry.parked)

    def heard() -> int:
        nonlocal flood
        try:
            flood = flood[client.send(flood) :]
        except BlockingIOError:
            pass
        before = came()
        served.turn()
        return came() - before

    # The first read, and one more with the rest of its frames.
    assert 0 < max(heard() for _ in range(40)) <= 2 * MOST_FRAMES
    served.until(lambda: heard() == 0 and not flood)
    client.send(b"\x82\xfe\x80\0" + bytes(4 + (1 << 15)))
    served.until(lambda: len(served.heard[-1].data) == 1 << 15)


def test_large_messages_are_soon_read_in_large_portions(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.heard)
    message = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4 + (1 << 20))
    sizes: list[int] = []
    recording: Any = Recording(served.endpoint.sock, sizes)
    served.endpoint.transport = PlainTransport(recording)

    def sent() -> bool:
        nonlocal message
        try:
            message = message[client.send(message) :]
        except BlockingIOError:
            pass
        return len(served.data()) == 1 << 20

    served.until(sent)
    assert sizes[:4] == [LEAST_READ, 4 * LEAST_READ, READ_SIZE, LARGE_READ]
    assert set(sizes[3:]) == {LARGE_READ}
    client.send(b"\x8a\x80\0\0\0\0" * 2000)
    served.until(lambda: served.con.intake.has_more)
    served.until(lambda: not served.con.intake.has_more)
    client.send(b"\x8a\x80\0\0\0\0")
    served.until(lambda: sizes[-1] == LEAST_READ)


class Recording:
    """A socket that records the sizes of the reads."""

    def __init__(self, sock: socket.socket, sizes: list[int]) -> None:
        self._sock = sock
        self._sizes = sizes

    def recv(self, size: int) -> bytes:
        self._sizes.append(size)
        return self._sock.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("head", [0x89, 0x8A, 0x00], ids=["pings", "pongs", "fragments"])
def test_frames_that_are_no_messages_take_a_small_part_of_a_turn(serve: Serve, head: int) -> None:
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"" + b"\x01\x80\0\0\0\0")
    served.until(lambda: served.heard)
    one = bytes([head]) + b"\x80\0\0\0\0"
    sent = client.send(one * 5000) // len(one)
    seen: list[int] = []
    con = served.con
    con.intake.parsed = 0
    turns = 0
    while sum(seen) < sent - 1000:
        served.turn()
        seen.append(con.intake.parsed)
        con.intake.parsed = 0
        turns += 1
    assert max(seen) == MOST_FRAMES
    assert turns >= sum(seen) // (2 * MOST_FRAMES)
    served.until(lambda: served.endpoint.reading)


def test_under_memory_pressure_no_connection_is_read(serve: Serve) -> None:
    served = serve()
    served.working = False
    client, idle, newcomer = served.connect(), served.connect(), served.connect()
    for each in (client, idle):
        each.send(b"x")
    served.until(lambda: len(served.harness.registry.entries) == 2)
    flow = served.harness.registry.flow
    flow.memory_limit = flow.accounted + 10_000
    served.harness.deadlines.check_memory(0.0)
    for _ in range(20):
        client.send(bytes(4000))
        served.turn()
    assert flow.accounted <= flow.memory_limit + READ_SIZE
    assert flow.full
    reading = [each.reading for each in served.sockets.endpoints]
    assert sorted(reading) == [False, True, True], "who is silent need not be stopped"
    newcomer.send(b"y")
    served.until(lambda: len(served.harness.registry.entries) == 3)
    flow.memory_limit = 1 << 30
    served.working = True
    served.until(lambda: all(each.reading for each in served.sockets.endpoints))
    served.until(lambda: len(served.data()) == 20 * 4000 + 3)


def test_under_memory_pressure_unparsed_bytes_wait(serve: Serve) -> None:
    served = serve()
    served.working = False
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.con.entry)
    flow = served.harness.registry.flow
    client.send(b"\x82\x80\0\0\0\0" * 600)
    served.until(lambda: served.con.intake.has_more)
    flow.memory_limit = flow.accounted - 1
    served.harness.deadlines.check_memory(0.0)
    before = flow.total
    for _ in range(5):
        served.turn()
    assert flow.total == before
    flow.memory_limit = 1 << 30
    served.working = True
    served.until(lambda: len(served.heard) == 601)


def test_a_large_answer_to_a_slow_reader_is_written_in_its_order(serve: Serve) -> None:
    served = serve()
    answer = b"".join(b"%07d\n" % n for n in range(400_000))
    served.handle = lambda event: (
        tuple(Send(event.con, answer[n : n + 40_000]) for n in range(0, len(answer), 40_000))
        if type(event) is OnMessage
        else ()
    )
    client = served.connect(buffer=8192)
    client.send(b"go")
    served.until(lambda: served.endpoint.writing)
    assert served.con.entry.pauses, "its output is above the high-water mark"
    assert receive(served, client, len(answer)) == answer
    served.until(lambda: not served.endpoint.writing)
    assert served.con.output.size == 0
    assert not served.con.entry.pauses
    assert served.harness.registry.flow.total == 0


# --- pauses ---


def test_reading_pauses_and_resumes_and_nothing_is_lost(serve: Serve) -> None:
    served = serve()
    served.working = False
    client = served.connect()
    data = b"".join(b"%07d\n" % n for n in range(MUCH // 8))
    sent = 0

    def push() -> None:
        nonlocal sent
        try:
            while sent < len(data):
                sent += client.send(data[sent : sent + 65536])
        except BlockingIOError:
            pass

    for _ in range(200):
        push()
        served.turn()
    assert sent < len(data)
    assert not served.endpoint.reading
    assert served.con.entry.event_bytes <= served.harness.settings.high_water_mark + 2 * READ_SIZE
    served.working = True

    def done() -> bool:
        push()
        return len(served.data()) == len(data)

    served.until(done)
    assert served.data() == data
    assert served.endpoint.reading


def paused(served: SocketHarness) -> socket.socket:
    client = served.connect()
    client.send(b"x")
    served.until(lambda: served.con.entry and served.linked.events)
    served.harness.registry.flow.pause(entry_of(served.con), PAUSED_OWN)
    served.turn()
    assert not served.endpoint.reading
    return client


def test_a_reset_is_noticed_while_reading_is_paused(serve: Serve) -> None:
    served = serve()
    served.working = False
    reset(paused(served))
    served.until(lambda: not served.sockets.endpoints, STEP)
    served.working = True
    served.until(lambda: served.kinds()[-1:] == [OnClose])
    assert served.heard[-1].cause == "lost"


def test_data_received_during_a_pause_is_read_after_it(serve: Serve) -> None:
    served = serve()
    served.working = False
    client = paused(served)
    client.send(b"more")
    for _ in range(5):
        served.turn(STEP)
    served.harness.registry.flow.resume(entry_of(served.con), PAUSED_OWN)
    served.working = True
    served.until(lambda: served.data() == b"xmore")


def test_an_opened_connection_that_begins_paused_notices_its_end(serve: Serve) -> None:
    served = serve()
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        con = served.linked.link.new_id()
        served.linked.say(Open(con, f"127.0.0.1:{upstream.getsockname()[1]}"))
        entry = served.harness.registry.entries[con]
        served.harness.registry.flow.pause(entry, PAUSED_COUPLED)
        served.until(lambda: entry.con.endpoint)
        assert not served.endpoint.reading
        reset(upstream.accept()[0])
        served.until(lambda: not served.sockets.endpoints, STEP)
    served.until(lambda: OnClose in served.kinds())


# --- ends ---


def test_a_half_closed_client_gets_its_answer(serve: Serve) -> None:
    """For example: printf hi | nc"""
    served = serve()
    served.working = False
    served.handle = echo
    client = served.connect()
    client.send(b"hi")
    client.shutdown(socket.SHUT_WR)
    for _ in range(10):
        served.turn()
    served.working = True
    assert receive_all(served, client) == b"hi"
    served.until(lambda: not served.sockets.endpoints)
    assert served.kinds() == [OnConnect, OnMessage, OnClose]
    assert served.heard[-1].cause == "eof"


def answer(size: int) -> Callable[[Any], tuple[Record, ...]]:
    return lambda event: (Send(event.con, b"x" * size),) if type(event) is OnMessage else ()


def close_after(size: int) -> Callable[[Any], tuple[Record, ...]]:
    return lambda event: (
        (Send(event.con, b"x" * size), Close(event.con)) if type(event) is OnMessage else ()
    )


@pytest.mark.parametrize("close_timeout", [10.0, 0.0])
@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_closing_connection_writes_its_last_bytes(
    serve: Serve, size: int, close_timeout: float
) -> None:
    """The client still sends when we close; closing at once would reset the connection."""
    served = serve(close_timeout=close_timeout)
    served.handle = close_after(size)
    client = served.connect(buffer=8192)
    client.send(b"go")
    served.until(lambda: served.con.state is CLOSED)
    for _ in range(3):
        client.send(b"still talking")
        served.turn()
    assert receive_all(served, client) == b"x" * size
    client.close()
    served.until(lambda: not served.sockets.endpoints)
    assert served.kinds() == [OnConnect, OnMessage, OnClose]


def test_a_client_that_never_closes_its_side_is_cut_off_in_time(serve: Serve) -> None:
    served = serve(close_timeout=10.0)
    served.handle = close_after(5)
    client = served.connect()
    client.send(b"go")
    assert receive_all(served, client) == b"x" * 5
    for _ in range(int(9 / STEP)):
        served.turn(STEP)
    assert served.sockets.endpoints
    for _ in range(int(2 / STEP)):
        served.turn(STEP)
    assert not served.sockets.endpoints


def test_a_slow_reader_of_the_last_bytes_is_not_cut_off(serve: Serve) -> None:
    served = serve(close_timeout=2.0, output_limit=MUCH)
    served.handle = close_after(MUCH)
    client = served.connect(buffer=256 * 1024)
    client.send(b"go")
    served.until(lambda: served.con.state is CLOSED)
    begin = served.clock.time
    got = 0
    while served.con.output.size:
        # Time passes only with what is read, so that a slow machine is not taken for a slow peer.
        got += len(receive(served, client, 50_000))
        served.turn(0.02)
    assert served.clock.time - begin > 2.0, "the reader was not slow"
    assert got + len(receive_all(served, client)) == MUCH


def test_a_client_that_stops_reading_the_last_bytes_is_cut_off(serve: Serve) -> None:
    """The counterpart of the test above."""
    served = serve(close_timeout=2.0, output_limit=MUCH)
    served.handle = close_after(MUCH)
    client = served.connect(buffer=8192)
    client.send(b"go")
    served.until(lambda: not served.sockets.endpoints, STEP / 4)
    with pytest.raises(ConnectionResetError):
        receive_all(served, client)


def test_published_last_bytes_count_until_the_socket_is_closed(serve: Serve) -> None:
    """This holds even if something still refers to the connection then."""
    served = serve(close_timeout=2.0, output_limit=MUCH)
    served.handle = lambda event: (
        (Join(event.con, "g"), Publish("g", bytes(MUCH)), Close(event.con))
        if type(event) is OnMessage
        else ()
    )
    client = served.connect(buffer=8192)
    client.send(b"go")
    registry, con = served.harness.registry, served.con
    served.until(lambda: con.state is CLOSED and not registry.entries)
    assert registry.flow.shared > MUCH
    served.until(lambda: not served.sockets.endpoints, STEP / 4)
    assert registry.flow.shared == 0


def test_an_abort_resets_the_socket(serve: Serve) -> None:
    served = serve(output_limit=1000)
    # The answer is larger than what may be queued at once.
    served.handle = answer(LARGEST_BATCH + 1001)
    client = served.connect()
    client.send(b"go")
    with pytest.raises(ConnectionResetError):
        receive_all(served, client)
    assert not served.sockets.endpoints
    served.until(lambda: OnClose in served.kinds())
    assert served.kinds() == [OnConnect, OnMessage, OnError, OnClose]
    assert served.heard[-1].cause == "overflow"


def is_writable(served: SocketHarness) -> bool:
    return bool(select.select([], [served.endpoint.sock], [], 0)[1])


def takes_nothing(served: SocketHarness) -> bool:
    """Whether the kernel takes no data for a while: it moves data on in its own time, and may
    take some without reporting it to select.
    """
    size = served.con.output.size
    served.endpoint.write_out()
    time.sleep(0.3)
    served.endpoint.write_out()
    return served.con.output.size == size


def drain(client: socket.socket) -> bool:
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        pass
    return True


@pytest.mark.parametrize("reads", [True, False])
def test_a_connection_above_its_limit_is_closed_only_if_the_kernel_takes_nothing(
    serve: Serve, reads: bool
) -> None:
    served = serve(output_limit=100_000)
    served.handle = answer(MUCH)
    client = served.connect(buffer=64 * 1024)
    client.send(b"go")
    served.until(lambda: served.con.output.size > 100_000)
    for _ in range(4):
        served.turn(AT_ONCE / 3)

    def is_closed_above_it() -> bool:
        served.until(lambda: takes_nothing(served))
        # A client may have as much output as was queued at once, and not a byte more.
        served.linked.say(Send(served.con.id, b"x" * (MUCH + 1 - served.con.output.size)))
        if reads:
            eventually(lambda: drain(client) and is_writable(served), "room in the kernel")
        served.sockets.write_over_limit()
        return served.con.ending.cause == "overflow"

    if reads:
        assert not is_closed_above_it()
    else:
        # The kernel may take some data after all, as it moves data between its buffers.
        eventually(is_closed_above_it, "the end of a client that does not read")


@pytest.mark.parametrize("said", [b"", b"G", b"raw", b"GET / HTTP/1.1\r\nHost:", HANDSHAKE])
@pytest.mark.parametrize("way", ["reset", "fin"])
def test_a_client_that_leaves_at_any_stage_leaves_nothing_behind(
    serve: Serve, said: bytes, way: str
) -> None:
    served = serve()
    client = served.connect()
    if said:
        client.send(said)
        served.turn()
    if way == "reset":
        reset(client)
    else:
        client.close()
    served.until(lambda: not served.sockets.endpoints)
    served.until(lambda: not served.harness.registry.entries)
    assert served.kinds().count(OnConnect) == served.kinds().count(OnClose)
    assert served.harness.registry.flow.total == 0
    assert not served.sockets.shared.dirty
    for _ in range(100):
        served.turn(STEP)


def test_a_paused_websocket_that_is_closed_hears_the_peer_s_close_frame(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.send(HANDSHAKE)
    served.until(lambda: served.con.entry)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(served, client, 1)
    served.harness.registry.flow.pause(entry_of(served.con), PAUSED_OWN)
    served.turn()
    served.linked.say(Close(served.con.id, 4000, "done"))
    assert receive(served, client, 8) == b"\x88\x06\x0f\xa0done"
    client.send(b"\x88\x82\x00\x00\x00\x00\x0f\xa0")
    assert receive_all(served, client) == b""
    served.until(lambda: OnClose in served.kinds())
    assert served.heard[-1].code == 4000


# --- time ---


def test_a_deadline_of_the_connection_is_kept(serve: Serve) -> None:
    served = serve(handshake_timeout=10.0)
    client = served.connect()
    client.send(b"GET / HTTP/1.1\r\n")
    for _ in range(int(9.5 / STEP)):
        served.turn(STEP)
    assert served.con.state is not CLOSED
    answer = receive_all(served, client, STEP)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_ping_goes_out_and_its_answer_keeps_the_connection(serve: Serve) -> None:
    served = serve(ping_interval=5.0, ping_timeout=5.0)
    client = served.connect()
    client.send(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(served, client, 1)
    for _ in range(4):
        assert receive(served, client, 2, STEP) == b"\x89\x00"
        client.send(b"\x8a\x80\x00\x00\x00\x00")
    assert receive(served, client, 2, STEP) == b"\x89\x00"
    rest = receive_all(served, client, STEP)
    assert rest[2:4] == (1011).to_bytes(2), "the last ping was not answered"


class SlowReader:
    """A client whose data is all in the kernel, with more than half of it not delivered yet."""

    SIZE = 512 * 1024

    def __init__(self, served: SocketHarness, begin: bytes, *after: type[Record]) -> None:
        self.served = served
        self.left = 0

        def handle(event: Any) -> tuple[Record, ...]:
            if type(event) is not OnMessage:
                return ()
            return Send(event.con, bytes(self.SIZE), "binary"), *[each(event.con) for each in after]

        served.handle = handle
        self.client = served.connect(buffer=4096)
        self.client.send(begin)
        self.endpoint = served.endpoint
        self.con = self.endpoint.con
        served.until(self.has)

    def has(self) -> bool:
        return not self.con.output.size and self.waiting() > self.SIZE // 2

    def waiting(self) -> int:
        return undelivered(self.endpoint.sock) or 0

    def read_some(self) -> None:
        """Read until the kernel reports progress to the sender."""
        before = self.waiting()

        def read() -> bool:
            try:
                self.client.recv(8192)
            except BlockingIOError:
                pass
            return self.waiting() < before

        eventually(read)

    def pass_time(self, seconds: float, *, reads: bool = False) -> None:
        for n in range(int(seconds / STEP)):
            self.served.turn(STEP)
            if reads and n % 10 == 0:
                self.read_some()


tells = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="this system does not say what a peer has taken"
)


@tells
@pytest.mark.parametrize("reads", [True, False], ids=["it reads", "it does not"])
def test_a_ping_behind_much_output_waits_for_a_client_that_reads(serve: Serve, reads: bool) -> None:
    """All output is in the kernel, which takes it long before the client reads it."""
    served = serve(ping_interval=5.0, ping_timeout=5.0)
    slow = SlowReader(served, HANDSHAKE + frame(0x82, b"go"))
    slow.pass_time(24, reads=reads)
    assert (slow.con.state is OPEN) is reads
    if reads:
        assert slow.con.keepalive.awaits_pong
        assert slow.waiting() > FEW
        while slow.waiting():
            slow.read_some()
        # Now the ping has arrived, and its timeout runs.
        slow.pass_time(24)
    assert slow.con.ending.cause == "ping-timeout"


@tells
@pytest.mark.parametrize("protocol", ["websocket", "raw"])
@pytest.mark.parametrize("reads", [True, False], ids=["it reads", "it does not"])
def test_what_was_sent_before_a_close_reaches_the_client(
    serve: Serve, protocol: str, reads: bool
) -> None:
    served = serve(close_timeout=5.0, ping_interval=0.0)
    begin = HANDSHAKE + frame(0x82, b"go") if protocol == "websocket" else b"\0go"
    slow = SlowReader(served, begin, Close)
    slow.pass_time(24, reads=reads)
    assert bool(served.sockets.endpoints) is reads
    # The client gets all data up to the close frame or EOF. The gateway closes its socket if it has
    # seen no reading, and the system still has the data then.
    slow.client.setblocking(True)
    rest = b""
    while not rest.endswith(b"\x88\x02\x03\xe8") and (data := slow.client.recv(1 << 20)):
        rest = rest[-10:] + data
    assert bool(data) is (protocol == "websocket")


def test_a_client_that_has_left_leaves_no_timer(serve: Serve) -> None:
    served = serve(handshake_timeout=1000.0)
    for _ in range(50):
        client = served.connect()
        client.send(b"G")
        served.turn()
        reset(client)
        served.until(lambda: not served.sockets.endpoints)
    timers = [timer for timers in served.loop._timers.values() for timer in timers]
    assert sum(timer.callback is not None for timer in timers) <= 2


# --- options ---


def is_tuned(sock: socket.socket) -> bool:
    tcp = socket.IPPROTO_TCP
    asks = not hasattr(socket, "TCP_KEEPIDLE") or (
        sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE
        and sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == 10
        and sock.getsockopt(tcp, socket.TCP_KEEPCNT) == 6
    )
    alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return bool(
        asks and alive and sock.getsockopt(tcp, socket.TCP_NODELAY) and not sock.getblocking()
    )


def test_an_accepted_socket_gets_its_options() -> None:
    with socket.socket() as sock:
        assert not is_tuned(sock)
        tune(sock)
        assert is_tuned(sock)


def test_every_accepted_socket_is_tuned(serve: Serve) -> None:
    """On Linux the listener is tuned, as the kernel decides what an accepted socket inherits."""
    served = serve()
    served.connect().send(b"raw")
    served.until(lambda: served.sockets.endpoints)
    assert all(is_tuned(endpoint.sock) for endpoint in served.sockets.endpoints)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
def test_a_unix_socket_gets_no_tcp_options() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        tune(sock)
        assert not sock.getblocking()


@pytest.mark.parametrize("ends_first", ["handlers", "socket"])
def test_an_ended_connection_is_freed_without_the_garbage_collector(
    serve: Serve, ends_first: str
) -> None:
    """Reference cycles would be left to the collector, which delays all clients while it runs."""
    served = serve()
    gc.collect()
    gc.disable()
    try:
        before = connections()
        client = served.connect()
        client.sendall(b"x")
        served.until(served.data)
        assert connections() == before + 1
        if ends_first == "handlers":
            served.linked.say(Close(served.con.id))
            served.until(lambda: OnClose in served.kinds())
        else:
            served.working = False
        client.close()
        served.until(lambda: not served.sockets.endpoints)
        served.working = True
        served.until(lambda: OnClose in served.kinds())
        served.until(lambda: connections() == before)
    finally:
        gc.enable()


def connections() -> int:
    return sum(type(each) is Connection for each in gc.get_objects())


# --- clients that send much, and clients that send little ---


def test_a_client_that_sends_much_is_read_from_a_queue_without_the_selector(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(UPGRADE % b"")
    served.until(lambda: served.con.entry)
    one = b"\x82\xa0" + bytes(4 + 32)
    for _ in range(5):
        client.send(one * 100)
        served.until(lambda: served.endpoint in served.sockets.shared.read_queue)
        assert not served.endpoint.reading
    served.until(lambda: served.endpoint.reading)
    assert served.endpoint not in served.sockets.shared.read_queue
    for _ in range(5):
        before = len(served.data())
        client.send(one)
        served.until(lambda before=before: len(served.data()) > before)  # type: ignore[misc]
        assert served.endpoint.reading, "it says little now"
    assert len(served.data()) == 505 * 32


def test_a_client_that_sends_many_frames_is_read_from_a_queue(serve: Serve) -> None:
    """The data is parsed in one turn, but the client does not count as one that sends little."""
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.con.entry)
    one = b"\x82\xe4" + bytes(4 + 100)
    assert LEAST_READ // len(one) < MOST_FRAMES
    client.send(one * 400)
    served.until(lambda: served.endpoint in served.sockets.shared.read_queue)
    assert not served.con.intake.has_more
    served.until(lambda: len(served.data()) == 400 * 100)
    served.until(lambda: served.endpoint.reading)


@pytest.mark.parametrize("size", [36, 100, 120])
def test_data_received_before_a_reset_is_delivered(serve: Serve, size: int) -> None:
    """A client that closes with unread data resets the connection, but it has sent its data
    before that.
    """
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.heard)
    count = 400
    client.send((b"\x82" + bytes([0x80 | size]) + bytes(4 + size)) * count)
    served.until(lambda: served.endpoint in served.sockets.shared.read_queue)
    reset(client)
    served.until(lambda: not served.sockets.endpoints, STEP)
    served.until(lambda: OnClose in served.kinds())
    # The kernel may drop data that it has not handed over.
    assert len(served.data()) >= 0.5 * count * size


def test_a_client_that_sends_much_can_be_paused(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.con.entry)
    client.send((b"\x82\xe4" + bytes(4 + 100)) * 400)
    served.until(lambda: served.endpoint in served.sockets.shared.read_queue)
    flow, entry = served.harness.registry.flow, entry_of(served.con)
    flow.pause(entry, PAUSED_COUPLED)
    served.until(lambda: served.con.intake.paused)
    for _ in range(20):
        served.turn()
    assert len(served.data()) < 400 * 100
    flow.resume(entry, PAUSED_COUPLED)
    served.until(lambda: len(served.data()) == 400 * 100)
    served.until(lambda: served.endpoint.reading)
    assert not served.con.intake.paused
    assert served.con.keepalive.deadline < math.inf, "its pings go on"


def test_a_client_that_sends_much_is_read_while_it_closes(serve: Serve) -> None:
    """The client's close frame comes after a flood."""
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.heard)
    client.send(b"\x89\x80\0\0\0\0" * 2000)
    served.until(lambda: served.con.intake.has_more)
    served.linked.say(Close(served.con.id, 4000, "done"))
    client.send(b"\x89\x80\0\0\0\0" * 2000 + b"\x88\x82\x00\x00\x00\x00\x0f\xa0")
    served.until(lambda: OnClose in served.kinds())
    assert served.heard[-1].code == 4000
    receive_all(served, client)
    client.close()
    served.until(lambda: not served.sockets.endpoints)


@pytest.mark.parametrize("way", ["reset", "fin"])
def test_a_client_that_sends_much_may_leave(serve: Serve, way: str) -> None:
    served = serve()
    client = served.connect()
    client.send(UPGRADE % b"")
    served.until(lambda: served.heard)
    client.send(b"\x8a\x80\0\0\0\0" * 5000)
    served.until(lambda: served.con.intake.has_more)
    if way == "reset":
        reset(client)
    else:
        client.close()
    served.until(lambda: not served.sockets.endpoints, STEP)
    served.until(lambda: OnClose in served.kinds())
    assert not served.sockets.shared.read_queue
    assert served.heard[-1].cause == "lost"


def test_the_next_request_is_not_lost_when_it_comes_in_the_turn_of_an_answer(
    serve: Serve,
) -> None:
    """A worker answers while sockets are read: the bytes that are read next belong to the next
    request.
    """
    served = serve(plain_http="handlers")
    served.working = False
    client = served.connect()
    client.sendall(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
    served.until(lambda: served.linked.events)
    [event] = served.linked.events
    served.linked.ack(event, commands=(Respond(event.con, body=b"ok"),))
    client.sendall(b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n")
    eventually(lambda: select.select([served.endpoint.sock], [], [], 0)[0])
    served.endpoint.handle(True, False)
    got = bytearray()

    def read() -> bool:
        try:
            got.extend(client.recv(1 << 20))
        except BlockingIOError:
            pass
        for event in list(served.linked.events):
            assert event.inf["url"] in ("/2", "/3")
            served.linked.ack(event, commands=(Respond(event.con, body=b"ok"),))
        return got.count(b"HTTP/1.1 200") == 3 and got.endswith(b"ok")

    served.until(read)


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("write_timeout", [60.0, 0.0])
def test_a_response_is_not_cut_off_by_close_timeout(
    serve: Serve, connection: str, write_timeout: float
) -> None:
    """A client that reads nothing for a while gets the whole response, as other clients get
    their messages.
    """
    served = serve(
        plain_http="handlers", close_timeout=2.0, write_timeout=write_timeout, output_limit=MUCH
    )
    client = ask_for_much(served, connection)
    for _ in range(int(20 / STEP)):
        served.turn(STEP)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(served, client, 1)
    assert receive(served, client, MUCH) == bytes(MUCH)
    assert not served.harness.registry.counters.counts
    if connection == "close":
        # From here on the connection is closing.
        served.until(lambda: not served.sockets.endpoints, STEP / 4)


def test_a_client_that_never_reads_its_response_is_closed_after_write_timeout(serve: Serve) -> None:
    served = serve(plain_http="handlers", close_timeout=2.0, write_timeout=30.0, output_limit=MUCH)
    client = ask_for_much(served, "keep-alive")
    served.until(lambda: not served.sockets.endpoints, STEP)
    assert served.harness.registry.counters.counts == {"write_timeout": 1}
    with pytest.raises(ConnectionResetError):
        receive_all(served, client)


@pytest.mark.parametrize("write_timeout", [60.0, 0.0])
def test_the_answer_to_a_half_closed_client_is_not_cut_off_by_close_timeout(
    serve: Serve, write_timeout: float
) -> None:
    """For example printf hi | nc, with a reader that starts late."""
    served = serve(close_timeout=2.0, write_timeout=write_timeout, output_limit=MUCH)
    client = half_closed(served)
    for _ in range(int(20 / STEP)):
        served.turn(STEP)
    assert receive_all(served, client) == b"x" * MUCH
    served.until(lambda: not served.sockets.endpoints)
    assert served.heard[-1].cause == "eof"
    assert not served.harness.registry.counters.counts


def test_a_half_closed_client_that_never_reads_is_closed_after_write_timeout(serve: Serve) -> None:
    served = serve(close_timeout=2.0, write_timeout=30.0, output_limit=MUCH)
    client = half_closed(served)
    for _ in range(int(35 / STEP)):
        served.turn(STEP)
        served.harness.deadlines.tick(served.loop.now)
    served.until(lambda: not served.sockets.endpoints)
    assert served.heard[-1].cause == "write-timeout"
    assert served.harness.registry.counters.counts == {"write_timeout": 1}
    with pytest.raises(ConnectionResetError):
        receive_all(served, client)


def half_closed(served: SocketHarness) -> socket.socket:
    """A raw client that has sent FIN, and whose answer is larger than the kernel takes."""
    served.handle = answer(MUCH)
    client = served.connect(buffer=256 * 1024)
    client.send(b"hi")
    client.shutdown(socket.SHUT_WR)
    served.until(lambda: OnMessage in served.kinds())
    return client


def ask_for_much(served: SocketHarness, connection: str) -> socket.socket:
    """An HTTP client that asks for a response larger than the kernel takes."""
    served.handle = lambda event: (Respond(event.con, body=bytes(MUCH)),)
    client = served.connect(buffer=256 * 1024)
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: %b\r\n\r\n" % connection.encode())
    served.until(lambda: served.con.state is CLOSED)
    return client
