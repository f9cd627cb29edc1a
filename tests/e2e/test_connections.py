"""A connection's life as its handlers see it, whatever its client does, and the limits on it."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.deadline import UNIT, eventually
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    UPGRADE,
    Serving,
    frame,
    linux,
    posix,
    read_frame,
    read_head,
    receive_all,
    receive_exactly,
    serve,
)
from tests.needs import KILL

Write = Callable[[str], Path]
MIB = 1 << 20

DIARY = """
    import os

    diary = open(f"{__file__}.{os.getpid()}", "a", buffering=1)

    def on_connect(inf, con):
        diary.write(f"{con.id} connect\\n")

    def on_message(msg, con):
        diary.write(f"{con.id} message\\n")
        return msg

    def on_close(con):
        diary.write(f"{con.id} close\\n")
"""


def lives(file: Path) -> dict[str, list[str]]:
    """What happened to each connection. A worker writes its events in order, into a file of its
    own.
    """
    found: dict[str, list[str]] = {}
    for diary in file.parent.glob(f"{file.name}.*"):
        for line in diary.read_text().splitlines():
            con, what = line.split()
            found.setdefault(con, []).append(what)
    return found


def abandon(serving: Serving, rng: random.Random) -> None:
    """Connect, perhaps send something, and leave in a random way."""
    sock = serving.tcp()
    web = rng.random() < 0.5
    data = UPGRADE + rng.randrange(3) * frame(1, b"hello") if web else b"hello" * rng.randrange(3)
    sock.sendall(data)
    if web and rng.random() < 0.5:
        read_head(sock)
        if rng.random() < 0.5:
            sock.sendall(frame(8, b"\x03\xe8"))
    how = rng.randrange(3)
    if how == 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == 1:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(TIMEOUT)
        try:
            receive_all(sock)
        except ConnectionResetError:
            pass
    sock.close()


@linux
@pytest.mark.parametrize("dispatch", ["any", "sticky"])
def test_each_connection_is_closed_once_for_its_handler(handlers: Write, dispatch: str) -> None:
    file = handlers(DIARY)
    with serve(file, f"--dispatch={dispatch}", workers=3) as serving:
        rng = random.Random(dispatch)
        threads = [
            threading.Thread(
                target=lambda seed=seed: [
                    abandon(serving, random.Random(seed * 1000 + n)) for n in range(200)
                ]
            )
            for seed in (rng.randrange(1000) for _ in range(3))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def counts() -> Counter[str]:
            return Counter(what for life in lives(file).values() for what in set(life))

        eventually(lambda: counts()["connect"] == counts()["close"] > 100, "all to be closed")
    for con, life in lives(file).items():
        assert life.count("connect") == 1, (con, life)
        assert life.count("close") == 1, (con, life)


@linux
def test_a_close_is_not_lost_with_its_worker(handlers: Write) -> None:
    file = handlers(DIARY)
    with serve(file, workers=2) as serving:
        rng = random.Random(1)
        serving.run.line(r" is ready \(", 2)
        for killed in range(1, 5):
            for _ in range(60):
                abandon(serving, rng)
            os.kill(serving.run.pids("worker [0-9]+")[-1], KILL)
            for _ in range(60):
                abandon(serving, rng)
            serving.run.line(r" is ready \(", 2 + killed)

        def unfinished() -> list[str]:
            return [con for con, life in lives(file).items() if "close" not in life]

        eventually(lambda: not unfinished(), "all to be closed")


# --- raw, half-closed ---


def test_a_half_closed_connection_waits_for_a_slow_handler(handlers: Write) -> None:
    text = """
    import time

    def on_message(msg, con):
        time.sleep(0.5)
        return b"answer"

    def on_close(con):
        print("cause", con.close_cause)
    """
    with serve(handlers(text)) as serving:
        with serving.tcp() as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"answer"
        serving.run.line("cause eof")


def test_a_close_by_a_handler_comes_after_what_it_sent(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        con.send(b"y" * 2_000_000)
        con.close()
    """
    with serve(handlers(text)) as serving:
        with serving.tcp() as sock:
            sock.sendall(b"go")
            assert receive_all(sock) == b"y" * 2_000_000
        with serving.ws() as client:
            client.send("go")
            assert client.recv(TIMEOUT) == b"y" * 2_000_000


# --- clocks ---

# Clients that stay have a second for each answer, as this machine may be busy.
QUICK = ["--ping-interval=0.3", "--ping-timeout=1"]


def test_a_client_that_does_not_answer_pings_is_closed() -> None:
    with serve(ECHO, *QUICK) as serving, serving.tcp() as dead, serving.ws() as alive:
        dead.sendall(UPGRADE)
        read_head(dead)
        frames = []
        while not frames or frames[-1][0] != 0x88:
            frames.append(read_frame(dead))
        assert frames[0][0] == 0x89
        assert int.from_bytes(frames[-1][1][:2], "big") == 1011
        alive.send("still here")
        assert alive.recv(TIMEOUT) == "still here"


@posix
@pytest.mark.parametrize("who", ["worker 1", "gateway"])
def test_a_paused_client_is_not_taken_for_a_dead_one(who: str) -> None:
    """A paused connection is not read, so its pongs are not seen: that must not count as
    silence.
    """
    with serve(ECHO, *QUICK) as serving, serving.ws(compression=None) as client:
        client.send("before")
        assert client.recv(TIMEOUT) == "before"
        pid = serving.run.pid(who)
        os.kill(pid, signal.SIGSTOP)
        count = 100
        pusher = threading.Thread(target=lambda: [client.send(b"z" * 50_000) for _ in range(count)])
        pusher.start()
        time.sleep(2.5)  # The pause is longer than both timeouts together, as the test requires.
        os.kill(pid, signal.SIGCONT)
        for _ in range(count):
            assert client.recv(TIMEOUT) == b"z" * 50_000
        pusher.join()


# --- bounds ---


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@linux
@pytest.mark.parametrize(
    "takeover", ["--no-deflate-context-takeover", "--deflate-context-takeover"]
)
def test_a_deflate_bomb_is_closed_with_1009_and_costs_little(takeover: str) -> None:
    bomb = deflated(bytes(60 * MIB))
    assert len(bomb) < 100_000
    with serve(ECHO, takeover) as serving:
        before = serving.rss()
        offer = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        for _ in range(20):
            with serving.tcp() as sock:
                sock.sendall(offer)
                assert b"permessage-deflate" in read_head(sock)
                sock.sendall(frame(2, bomb, first=0xC2))
                first, data = read_frame(sock)
                assert (first, int.from_bytes(data[:2], "big")) == (0x88, 1009)
        assert serving.rss() - before < 16 * MIB


@pytest.mark.long
@linux
def test_small_compressed_frames_do_not_accumulate() -> None:
    """Each message is below the limit; together they inflate to a thousand times the bytes sent."""
    message = frame(2, deflated(bytes(MIB)), first=0xC2)
    with serve(ECHO) as serving:
        before = serving.rss()
        offer = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        with serving.tcp() as sock:
            sock.sendall(offer)
            read_head(sock)
            # The frames inflate to 200 MiB, and their echoes are not read for a while.
            sender = threading.Thread(target=sock.sendall, args=(message * 200,))
            sender.start()
            until = time.monotonic() + 2 * UNIT
            most = 0
            while time.monotonic() < until:
                most = max(most, serving.rss())
                time.sleep(0.02)
            assert most - before < 24 * MIB, f"{(most - before) / MIB:.1f} MiB more"
            size = 0
            for _ in range(200):
                size += len(inflate(*read_frame(sock)))
            assert size == 200 * MIB
            sender.join()


def inflate(first: int, data: bytes) -> bytes:
    assert first & 0x8F == 0x82
    if not first & 0x40:
        return data
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


@pytest.mark.long
@linux
def test_a_published_flood_closes_only_the_reader_that_sleeps(handlers: Write) -> None:
    text = """
    from wsraw import publish

    def on_connect(inf, con):
        con.join("all")
        con.send("in")

    def on_message(msg, con):
        publish("all", msg["data"])
    """
    with serve(handlers(text)) as serving:
        before = serving.rss()
        with serving.tcp() as asleep, serving.ws(compression=None) as awake:
            assert awake.recv(TIMEOUT) == "in"
            asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asleep.sendall(UPGRADE)
            read_head(asleep)
            assert read_frame(asleep) == (0x81, b"in")
            # Up to a second of output may exceed output_limit before the check closes the client.
            n = held = 0
            while "output_limit" not in str(serving.run):
                awake.send(b"%04d" % n + bytes(100_000))
                data = awake.recv(TIMEOUT)
                assert isinstance(data, bytes)
                assert data[:4] == b"%04d" % n
                held = max(held, serving.rss() - before)
                n += 1
                assert n < 5000, serving.run
            assert held < (4 + 64 + 16) * MIB
            # The client was closed by output_limit, and does not get a part of a frame without the
            # rest.
            with pytest.raises((ConnectionResetError, ValueError)):
                while True:
                    first, data = read_frame(asleep)
                    if first == 0x88:
                        assert int.from_bytes(data[:2], "big") == 1008
                        raise ConnectionResetError


def test_fragments_are_joined_if_the_setting_says_so(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        return f"{len(msg['data'])} {msg['final']}"
    """
    with serve(handlers(text), "--messages=whole") as serving, serving.ws() as client:
        client.send(["a" * 10, "b" * 20, "c" * 30])
        assert client.recv(TIMEOUT) == "60 True"
        client.send(["a" * (MIB // 2)] * 3)
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_a_flood_of_output_of_a_worker_is_cut_into_lines(handlers: Write) -> None:
    text = """
    import sys

    def on_message(msg, con):
        sys.stdout.write("w" * 1_000_000)
        print()
        print("after that")
        return msg
    """
    with serve(handlers(text)) as serving, serving.tcp() as sock:
        sock.sendall(b"x")
        assert receive_exactly(sock, 1) == b"x"
        serving.run.line("worker 1: after that")
    lines = [line for line in serving.run.lines if "w" * 100 in line]
    assert sum(line.count("w") for line in lines) >= 1_000_000
    assert max(map(len, lines)) < 17_000


def is_standing(sock: socket.socket) -> bool:
    """Whether the connection is neither closed nor reset; received data is dropped."""
    sock.setblocking(False)
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def test_messages_that_are_never_finished_count_as_memory() -> None:
    """The data that the parser holds counts towards the total, and so towards the limit (rule
    6).
    """
    limit = 32 * MIB
    with (
        serve(ECHO, f"--memory-limit={limit}") as serving,
        ExitStack() as stack,
        serving.ws() as client,
    ):
        socks = [stack.enter_context(serving.tcp()) for _ in range(150)]
        for sock in socks:
            try:
                sock.sendall(UPGRADE + frame(2, bytes(MIB))[:-1])
            except OSError:
                # The gateway is full and closes this connection, or (TimeoutError) does not read
                # from it.
                pass
        eventually(
            lambda: sum(map(is_standing, socks)) * MIB <= limit,
            f"some of {len(socks)} MiB to be let go of, with a limit of {limit // MIB}",
        )
        client.send("not my fault")
        assert client.recv(TIMEOUT) == "not my fault"


@linux
def test_floods_of_small_messages_hold_no_more_than_the_limit(tmp_path: Path) -> None:
    """A check by the clock alone would let the floods exceed the limit ten times within a
    second.
    """
    limit = 16 * MIB
    handlers = tmp_path / "slow.py"
    handlers.write_text("import time\n\n\ndef on_message(msg, con):\n    time.sleep(0.01)\n")
    flood = frame(2, b"") * 10_000
    options = (f"--memory-limit={limit}", "--stop-timeout=1")
    with serve(handlers, *options) as serving, ExitStack() as stack:
        before = serving.rss()
        socks = [stack.enter_context(serving.tcp()) for _ in range(300)]
        for sock in socks:
            sock.sendall(UPGRADE)
            sock.setblocking(False)
        held = [0]

        def push() -> int:
            for sock in socks:
                try:
                    sock.send(flood)
                except BlockingIOError:
                    pass
            held.append(serving.status()["gateway"]["bytes"])
            return held[-1]

        eventually(lambda: push() > 0.85 * limit, "the flood to be large enough")
        for _ in range(10):
            push()
        assert max(held) < 1.1 * limit
        assert serving.rss() - before < 4 * limit
        assert all(is_standing(sock) for sock in socks), "nobody is closed for what waits"
