from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import DEADLINE
from tests.needs import signals, unix_sockets
from tests.runtime.link.ends import READY, Served, take, work
from wsraw.link.batches import Batch
from wsraw.link.zmtp import GREETING, header
from wsraw.runtime.link import connection, server
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.link.server import Link


@pytest.fixture(params=["unix", "tcp"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    if request.param == "unix" and not HAS_UNIX:
        pytest.skip("no unix sockets here")
    made = Served(tmp_path if request.param == "unix" else "")
    yield made
    made.close()


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Served]:
    if not HAS_UNIX:
        pytest.skip("no unix sockets here")
    made = Served(tmp_path)
    yield made
    made.close()


# --- batches ---


def test_batches_go_both_ways(served: Served) -> None:
    client, link = served.joined()
    batches = [bytes(size) for size in (0, 10, 100_000, 3_000_000)]
    for batch in batches:
        assert client.send(batch)
    served.until(lambda: work(client) and served.batches[link] == [b"hello", *batches])
    for batch in batches:
        link.send(batch)
    found: list[bytes] = []
    served.until(lambda: found.extend(take(client)) or len(found) == len(batches))
    assert found == batches
    assert link.unsent == 0
    client.close()


def test_a_dealer_of_libzmq_is_served(served: Served) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.PROBE_ROUTER, 1)
    dealer.setsockopt(zmq.HEARTBEAT_IVL, 20)
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 600_000)
    dealer.connect(served.server.endpoint)
    dealer.send(b"hello")
    served.until(lambda: served.links and served.links[0].is_admitted)
    (link,) = served.links
    for batch in (b"x" * 1000, b"y" * 5_000_000):
        dealer.send(batch)
    served.until(lambda: len(served.batches[link]) == 4)
    assert served.batches[link] == [b"", b"hello", b"x" * 1000, b"y" * 5_000_000]
    for batch in served.batches[link]:
        link.send(batch)
    found: list[bytes] = []
    served.until(lambda: (dealer.poll(0) and found.append(dealer.recv())) or len(found) == 4)
    assert found == served.batches[link]
    dealer.close()
    context.term()
    served.until(lambda: served.ends)
    assert served.ends == [(link, "")]


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.REQ, zmq.SUB])
def test_other_sockets_of_libzmq_are_not_served(served: Served, kind: int) -> None:
    context = zmq.Context()
    other = context.socket(kind)
    other.setsockopt(zmq.LINGER, 0)
    monitor = other.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)
    other.connect(served.server.endpoint)
    served.until(lambda: monitor.poll(0))
    other.disable_monitor()
    monitor.close(0)
    other.close()
    context.term()
    assert not served.batches


def test_all_batches_of_a_peer_that_has_gone_come_before_its_end(served: Served) -> None:
    client, link = served.joined()
    count = 0
    while not client.unsent and count < 20_000:
        count += 1
        assert client.send(b"%d" % count)
    leaving = threading.Thread(target=client.close, args=(DEADLINE,))
    leaving.start()
    served.until(lambda: served.ends)
    leaving.join()
    assert served.batches[link] == [b"hello"] + [b"%d" % (n + 1) for n in range(count)]
    assert served.ends == [(link, "")]
    assert link.ended
    assert not link.send(b"for nobody")


def test_a_dealer_of_libzmq_comes_back_after_it_was_cut(served: Served) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.PROBE_ROUTER, 1)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.connect(served.server.endpoint)
    served.until(lambda: dealer.poll(0, zmq.POLLOUT))
    dealer.send(b"hello")
    served.until(lambda: served.links and served.links[0].is_admitted)
    served.links[0].cut("again, please")
    # The probe is sent when the dealer's thread looks at its socket.
    served.until(lambda: not dealer.poll(0) and len(served.links) == 2)
    assert served.batches[served.links[1]] == [b""]
    served.until(lambda: dealer.poll(0, zmq.POLLOUT))
    dealer.send(b"hello again")
    served.until(lambda: len(served.batches[served.links[1]]) == 2)
    assert not served.ends
    dealer.close()
    context.term()


# --- bounds of output, of input, and of a turn ---


def flooded(link: Link) -> int:
    """Send until the system takes no more; returns how many batches were sent."""
    count = 1
    while link.send(bytes(10_000)):
        count += 1
    return count


def test_output_waits_for_a_peer_that_does_not_read(served: Served) -> None:
    client, link = served.joined()
    count = flooded(link)
    assert link.unsent
    for _ in range(10):
        link.send(bytes(10_000))
    before = link.unsent
    served.turn()
    assert link.unsent == before
    found: list[bytes] = []
    served.until(lambda: found.extend(take(client)) or len(found) == count + 10)
    assert link.unsent == 0
    assert not link.unsent_batches()
    client.close()


def test_a_peer_that_is_cut_learns_the_reason(served: Served) -> None:
    client, link = served.joined()
    link.cut("it does not fit")
    assert link.ended
    served.until(lambda: work(client) and client.is_lost)
    assert "it does not fit" in client.why
    assert not served.ends
    served.until(lambda: link not in served.server._links)
    client.close()


def test_a_peer_that_is_cut_while_it_does_not_read_learns_the_reason_later(served: Served) -> None:
    client, link = served.joined()
    flooded(link)
    link.send(b"this is dropped")
    link.cut("it does not read")
    found: list[bytes] = []
    served.until(lambda: found.extend(take(client)) or client.is_lost)
    assert set(found) == {bytes(10_000)}
    assert "it does not read" in client.why
    client.close()


def test_a_peer_that_does_not_know_an_error_finds_the_end_behind_it(unix: Served) -> None:
    sock = unix.raw_ready()
    sock.sendall(header(5) + b"hello")
    unix.until(lambda: unix.links)
    (link,) = unix.links
    link.cut("enough")
    told = b""
    while piece := sock.recv(1000):
        told += piece
    assert b"enough" in told
    assert link in unix.server._links, "it is not waited for"
    sock.close()
    unix.until(lambda: link not in unix.server._links)


def test_a_peer_that_never_reads_does_not_keep_its_socket(served: Served) -> None:
    client, link = served.joined()
    flooded(link)
    link.cut("it does not read")
    since = time.monotonic()
    served.until(lambda: link not in served.server._links)
    assert time.monotonic() - since >= server.CLOSE_TIMEOUT / 2
    client.close()


def test_a_flood_of_one_peer_leaves_turns_to_others(unix: Served) -> None:
    sock = unix.raw_ready()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    sock.sendall(header(5) + b"hello")
    unix.until(lambda: unix.links)
    (link,) = unix.links
    flood = header(0) * 50_000
    sock.sendall(flood)
    most = 0
    while len(unix.batches[link]) < 50_001:
        before = len(unix.batches[link])
        unix.turn()
        most = max(most, len(unix.batches[link]) - before)
    # The handler reads once and the timer reads once.
    assert most <= 2 * server.MOST_BATCHES
    sock.close()


def test_a_turn_reads_a_bounded_number_of_bytes_of_one_peer(unix: Served) -> None:
    client, link = unix.joined()
    client._socket._sock.setsockopt(  # type: ignore[union-attr]
        socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22
    )
    while not client.unsent:
        client.send(bytes(20_000))
    most = 0
    total = 0
    while True:
        unix.turn()
        size = sum(map(len, unix.batches[link])) - total
        total += size
        most = max(most, size)
        if not size:
            break
    assert most <= connection.READ_BUDGET + connection.LARGE_READ
    client.close()


def test_a_paused_link_is_not_read_until_it_is_resumed(served: Served) -> None:
    client, link = served.joined()
    link.pause()
    for n in range(3):
        client.send(b"%d" % n)
    client.close(linger=1)
    turns = 0
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        served.turn()
        turns += 1
    # The end of the peer does not make the loop spin.
    assert turns < 50
    assert served.batches[link] == [b"hello"]
    assert not served.ends
    assert not link.read()
    link.resume()
    served.until(lambda: served.ends)
    assert served.batches[link] == [b"hello", b"0", b"1", b"2"]


def test_a_link_that_is_paused_in_the_middle_of_a_read_keeps_the_rest(served: Served) -> None:
    client, link = served.joined()
    receive = served.server.receive

    def pause(link: Link, batch: bytes) -> None:
        receive(link, batch)
        link.pause()

    served.server.receive = pause  # type: ignore[assignment]
    for n in range(10):
        client.send(b"%d" % n)
    for n in range(10):
        served.until(lambda n=n: len(served.batches[link]) == 2 + n)
        served.turn()
        assert len(served.batches[link]) == 2 + n
        link.resume()
    assert served.batches[link][1:] == [b"%d" % n for n in range(10)]
    client.close()


def test_an_end_that_was_read_with_the_last_batch_waits_for_a_paused_link(served: Served) -> None:
    receive = served.server.receive

    def pause(link: Link, batch: bytes) -> None:
        receive(link, batch)
        link.pause()

    served.server.receive = pause  # type: ignore[assignment]
    sock = served.raw_ready()
    sock.sendall(header(5) + b"hello" + b"\xff\xff")
    served.until(lambda: served.links)
    for _ in range(3):
        served.turn()
    assert not served.ends
    served.links[0].resume()
    served.until(lambda: served.ends)
    sock.close()


def test_an_owner_may_read_later_in_its_turn(tmp_path: Path) -> None:
    waiting: list[Link] = []
    served = Served(tmp_path, readable=waiting.append)

    def read(now: float) -> bool:
        links = list(waiting)
        waiting.clear()
        for link in links:
            link.read()
        return False

    served.loop.before_sleep = read
    client, link = served.joined()
    client.send(b"more")
    served.until(lambda: len(served.batches[link]) == 2)
    client.close()
    served.until(lambda: served.ends)
    served.close()


def test_a_link_can_be_read_without_the_loop(served: Served) -> None:
    """After the exit of a process was reported, all its batches are read at once."""
    client, link = served.joined()
    for n in range(1000):
        client.send(b"%d" % n)
    client.close(linger=DEADLINE if served.server.endpoint.startswith("ipc") else 0.1)
    until = time.monotonic() + DEADLINE
    while not link.ended:
        link.read()
        assert time.monotonic() < until
    assert served.batches[link] == [b"hello"] + [b"%d" % n for n in range(1000)]
    assert served.ends == [(link, "")]


def test_a_peer_that_sends_on_is_not_read_out_for_ever(unix: Served) -> None:
    """A child of a dead process may have its socket, and send."""
    client, link = unix.joined()
    frame = b"\2" + (300_000).to_bytes(8, "big") + bytes(300_000)
    count = 0

    def write_on(link: Link, batch: Batch) -> None:
        nonlocal count
        count += 1
        assert client._socket is not None
        assert client._socket._sock.send(frame) == len(frame)

    unix.server.receive = write_on
    for _ in range(3):
        write_on(link, b"")
    link.read_out()
    assert server.LAST_READS / 4 < count <= server.LAST_READS + 3
    client.close()


# --- strangers, and those who break the protocol ---


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\0", GREETING, GREETING + READY],
    ids=["silent", "part", "greeting", "ready"],
)
def test_a_connection_that_does_not_get_on_is_closed(
    unix: Served, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client, link = unix.joined()
    sock = unix.raw()
    sock.sendall(data)
    sock.setblocking(False)
    unix.pass_time(server.HELLO_TIMEOUT / 2)
    assert not closed(sock)
    unix.pass_time(server.HELLO_TIMEOUT)
    # libzmq never reconnects after an ERROR before READY.
    assert (b"ERROR" in sock.recv(1000, socket.MSG_PEEK)) is (READY in data)
    assert closed(sock)
    sock.close()
    what = "good first batch" if READY in data else "ZMTP handshake"
    process = f" by process {os.getpid()}" if sys.platform == "linux" else ""
    assert f"closed a connection to {unix.server.endpoint}{process}: no {what}" in caplog.text
    assert not link.ended
    assert len(unix.server._links) == 1
    client.close()


@pytest.mark.parametrize("sent", [GREETING + READY, GREETING + READY + b"\0\5hello"])
def test_data_of_a_late_stranger_is_read_before_it_is_refused(tmp_path: Path, sent: bytes) -> None:
    """The owner may be too busy to read the batch in time."""
    waiting: dict[Link, None] = {}
    served = Served(tmp_path, readable=lambda link: waiting.setdefault(link))
    sock = served.raw()
    sock.sendall(sent)
    sock.setblocking(False)
    served.pass_time(server.HELLO_TIMEOUT + 1)
    assert not closed(sock)
    [link] = waiting
    link.read()
    served.pass_time(server.HELLO_TIMEOUT - 1)
    link.read()
    assert not closed(sock)
    assert not link.ended
    assert link.is_admitted is (b"hello" in sent)
    served.pass_time(2)
    link.read()
    served.turn()
    assert link.ended is (b"hello" not in sent)
    sock.close()
    served.close()


def test_a_stranger_that_speaks_another_protocol_is_closed_at_once(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    sock = served.raw()
    sock.sendall(b"GET / HTTP/1.1\r\n")
    sock.setblocking(False)
    served.until(lambda: closed(sock))
    sock.close()
    assert "HTTP" in caplog.text


def test_strangers_do_not_flood_the_log(unix: Served, caplog: pytest.LogCaptureFixture) -> None:
    def speak_http() -> None:
        sock = unix.raw()
        sock.sendall(b"GET / HTTP/1.1\r\n")
        sock.setblocking(False)
        unix.until(lambda: closed(sock))
        sock.close()

    began = unix.loop.now
    for _ in range(20):
        speak_http()
    # There is one line, unless the machine is very slow.
    assert 1 <= len(caplog.records) <= 1 + (unix.loop.now - began) / server.COMPLAIN_EVERY
    before = len(caplog.records)
    unix.pass_time(server.COMPLAIN_EVERY + 1)
    speak_http()
    assert len(caplog.records) == before + 1


def test_a_turn_accepts_a_bounded_number_of_connections(unix: Served) -> None:
    socks = [unix.raw() for _ in range(2 * server.ACCEPT_BUDGET + 5)]
    portions = []
    while unix.server._accepted < len(socks):
        before = unix.server._accepted
        unix.turn()
        portions.append(unix.server._accepted - before)
    assert max(portions) == server.ACCEPT_BUDGET
    for sock in socks:
        sock.close()


def test_a_stranger_that_only_connects_and_leaves_is_not_reported(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.raw().close()
    served.until(lambda: served.server._accepted)
    served.until(lambda: not served.server._links)
    assert not caplog.text


def test_the_oldest_of_too_many_greetings_is_closed(unix: Served) -> None:
    client, link = unix.joined()
    socks = []
    for _ in range(server.MOST_GREETING + 20):
        socks.append(unix.raw())
        unix.turn()
    unix.until(lambda: len(unix.server._links) == server.MOST_GREETING + 1)
    for sock in socks:
        sock.setblocking(False)
    states = [closed(sock) for sock in socks]
    assert states == [True] * 20 + [False] * server.MOST_GREETING
    assert not link.ended
    for sock in socks:
        sock.close()
    client.close()


def closed(sock: socket.socket) -> bool:
    """Whether the other end has closed; its data is read first."""
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_the_oldest_of_too_many_strangers_is_closed(tmp_path: Path) -> None:
    served = Served(tmp_path, most_strangers=5)
    served.admits = False
    clients = [served.client(probe=True) for _ in range(8)]
    for number, client in enumerate(clients, 1):
        served.until(lambda client=client, n=number: work(client) and len(served.links) == n)
    assert [link.ended for link in served.links] == [True] * 3 + [False] * 5
    assert [link for link, _ in served.ends] == served.links[:3]
    assert "5 connections" in served.ends[0][1]
    for client in clients:
        client.close()
    served.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x01\x01x" * 100_000, "frames"),
        (b"\x02" + (1 << 30).to_bytes(8, "big"), "1,073,741,824"),
        (b"\xff\xff", "0xff"),
    ],
)
def test_a_peer_that_breaks_the_protocol_ends_alone(served: Served, data: bytes, why: str) -> None:
    client, link = served.joined()
    sock = served.raw_ready()
    sock.sendall(header(5) + b"hello")
    served.until(lambda: len(served.links) == 2)
    told = []

    def talk() -> None:
        try:
            sock.sendall(data)
        except OSError:
            pass  # The server closed the connection before all data was sent.
        try:
            while data_in := sock.recv(10_000):
                told.append(data_in)
        except OSError:
            pass
        sock.close()

    thread = threading.Thread(target=talk)
    thread.start()
    served.until(lambda: not thread.is_alive())
    ((ended, text),) = served.ends
    assert ended is served.links[1]
    assert why in text
    assert why.encode() in b"".join(told)
    client.send(b"still here")
    served.until(lambda: served.batches[link][-1] == b"still here")
    client.close()


def test_an_admitted_peer_may_send_longer_batches_than_a_stranger(tmp_path: Path) -> None:
    served = Served(tmp_path, stranger_limit=1000)
    client = served.client()
    served.until(lambda: work(client) and client.is_connected)
    client.send(bytes(1001))
    served.until(lambda: work(client) and client.is_lost)
    assert "1,001" in client.why
    assert not served.batches
    client.close()
    client, link = served.joined()
    client.send(bytes(1001))
    served.until(lambda: len(served.batches[link]) == 2)
    client.close()
    served.close()


def test_an_exception_of_the_owner_ends_one_link(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client, link = served.joined()
    other, _ = served.joined()
    receive = served.server.receive

    def fail(link: Link, batch: bytes) -> None:
        if batch == b"bad":
            raise ValueError(batch)
        receive(link, batch)

    served.server.receive = fail  # type: ignore[assignment]
    client.send(b"bad")
    served.until(lambda: served.ends)
    assert served.ends[0][0] is link
    assert "ValueError" in caplog.text
    other.send(b"good")
    served.until(lambda: served.batches[served.links[1]][-1] == b"good")
    client.close()
    other.close()


# --- the process is stopped, out of descriptors; the file is gone ---


CLIENT = """
import select, sys, time
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.link.connection import HAS_UNIX
client = LinkClient(sys.argv[1])
while not client.is_connected:
    client.work(time.monotonic())
client.send(b"stopped one")
while not client.is_lost:
    select.select([client.fileno()], [], [])
    client.work(time.monotonic())
    while client.receive() is not None:
        pass
"""


@signals
def test_a_stopped_peer_holds_up_nobody(served: Served) -> None:
    process = subprocess.Popen([sys.executable, "-c", CLIENT, served.server.endpoint])
    try:
        served.until(lambda: served.links)
        (stopped,) = served.links
        if sys.platform == "linux" and served.server.endpoint.startswith("ipc"):
            assert stopped.pid == process.pid
        process.send_signal(signal.SIGSTOP)
        client, _link = served.joined()
        while stopped.unsent < 5_000_000:
            stopped.send(bytes(100_000))
        served.echoes = True
        client.send(b"ping")
        found: list[bytes] = []
        served.until(lambda: found.extend(take(client)) or found)
        assert found == [b"ping"]
        process.send_signal(signal.SIGCONT)
        served.until(lambda: not stopped.unsent)
        process.send_signal(signal.SIGSTOP)
        while not stopped.unsent:
            stopped.send(bytes(100_000))
        stopped.cut("it is stopped")
        served.until(lambda: stopped not in served.server._links)
        client.close()
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit there")
def test_without_descriptors_a_server_accepts_later(
    unix: Served, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    client, link = unix.joined()
    waiting = unix.client()
    waiting.work(time.monotonic())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            os.dup(0)
        unix.until(lambda: caplog.records)
        client.send(b"still served")
        unix.until(lambda: unix.batches[link][-1] == b"still served")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    record = caplog.records[0]
    assert record.levelno == logging.ERROR
    assert "cannot accept" in record.message
    unix.until(lambda: work(waiting) and waiting.is_connected)
    client.close()
    waiting.close()


@unix_sockets
def test_the_socket_is_private(unix: Served, tmp_path: Path) -> None:
    assert unix.server.endpoint == f"ipc://{tmp_path}/link.sock"
    assert stat.S_IMODE(os.stat(tmp_path / "link.sock").st_mode) == 0o600


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can be another user"
)
@unix_sockets
def test_another_user_is_not_let_in(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(folder)
        os.chmod(folder, 0o755)
        os.chmod(f"{folder}/link.sock", 0o666)
        os.seteuid(65534)
        try:
            sock = served.raw()
        finally:
            os.seteuid(0)
        served.until(lambda: caplog.records)
        assert "another user, 65534" in caplog.text
        assert sock.recv(1000) == b""
        sock.close()
        served.close()


@unix_sockets
def test_a_server_can_listen_again_when_its_file_was_removed(unix: Served, tmp_path: Path) -> None:
    client, link = unix.joined()
    unix.server.bind(str(tmp_path))
    path = tmp_path / "link.sock"
    path.unlink()
    unix.server.bind(str(tmp_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other, _ = unix.joined()
    client.send(b"still here")
    unix.until(lambda: unix.batches[link][-1] == b"still here")
    client.close()
    other.close()


@unix_sockets
def test_a_server_can_move_to_another_folder(unix: Served, tmp_path: Path) -> None:
    client, link = unix.joined()
    other = tmp_path / "other"
    other.mkdir()
    unix.server.bind(str(other))
    assert unix.server.endpoint == f"ipc://{other}/link.sock"
    assert not (tmp_path / "link.sock").exists()
    unix.joined()[0].close()
    assert not link.ended
    with pytest.raises(OSError, match="nowhere"):
        unix.server.bind(str(tmp_path / "nowhere"))
    unix.joined()[0].close()
    client.close()


@unix_sockets
def test_the_file_of_a_dead_run_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "link.sock"))
    served = Served(tmp_path)
    served.joined()[0].close()
    served.close()
    assert not (tmp_path / "link.sock").exists()


@unix_sockets
def test_the_file_of_another_run_is_left_alone(tmp_path: Path) -> None:
    served = Served(tmp_path)
    (tmp_path / "link.sock").unlink()
    another = Served(tmp_path)
    served.close()
    another.joined()[0].close()
    with pytest.raises(OSError, match="in use"):
        Served(tmp_path)
    another.close()


def test_the_last_words_are_sent_when_it_closes(served: Served) -> None:
    """The batches reach all clients that read, although one client does not."""
    client, link = served.joined()
    deaf, other = served.joined()
    flooded(other)
    link.send(bytes(5_000_000))
    found: list[bytes] = []

    def read() -> None:
        until = time.monotonic() + DEADLINE
        while not client.is_lost and time.monotonic() < until:
            found.extend(take(client))
            if found:
                # The server need not wait for this client any longer.
                deaf.close()

    thread = threading.Thread(target=read)
    thread.start()
    served.server.close(linger=DEADLINE)
    thread.join()
    assert found == [bytes(5_000_000)]
    assert not served.ends
    client.close()
