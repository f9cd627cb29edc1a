"""Hostile input of clients must not end the gateway, leak memory there, or disturb other
clients.
"""

from __future__ import annotations

import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.deadline import eventually
from tests.e2e.observer import Observer
from tests.e2e.serving import (
    ECHO,
    UPGRADE,
    Serving,
    frame,
    has_traceback,
    linux,
    read_frame,
    read_head,
    receive_all,
    serve,
)
from wsraw.gateway.system import ASKED_BY

pytestmark = linux

MIB = 1 << 20
TIMES = 2000
GROWTH = 16 * MIB
"""Memory that allocators keep; the attacks send many times as much, and a leak of 8 KiB in each
shows.
"""


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with serve(ECHO, workers=2) as serving:
        # The first attacks of each kind bring caches, buffers and pools to their final size.
        for attack in ATTACKS:
            for n in range(100):
                attack(serving, random.Random(n))
        yield serving
        assert len(serving.run.pids()) == 3, "somebody had to be started again"


def leave(sock: socket.socket, rng: random.Random) -> None:
    """Leave with a reset, with a FIN, or with both directions shut at once."""
    how = rng.randrange(3)
    try:
        if how == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == 1:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The gateway has closed the connection first.
        pass
    sock.close()


def push(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        # The gateway has closed the connection already.
        pass


def random_bytes(serving: Serving, rng: random.Random) -> None:
    sock = serving.tcp()
    push(sock, rng.randbytes(rng.randrange(3000)))
    leave(sock, rng)


def half_handshake(serving: Serving, rng: random.Random) -> None:
    sock = serving.tcp()
    push(sock, UPGRADE[: rng.randrange(len(UPGRADE))])
    leave(sock, rng)


def damaged_handshake(serving: Serving, rng: random.Random) -> None:
    head = bytearray(UPGRADE)
    for _ in range(rng.randrange(1, 4)):
        head[rng.randrange(len(head))] = rng.randrange(256)
    sock = serving.tcp()
    push(sock, bytes(head) + frame(1, b"x"))
    leave(sock, rng)


def long_head(serving: Serving, rng: random.Random) -> None:
    line = b"X-Padding: " + b"p" * rng.choice([80, 8000, 70_000]) + b"\r\n"
    sock = serving.tcp()
    push(sock, UPGRADE[:-2] + line * (MIB // len(line)) + b"\r\n")
    leave(sock, rng)


def huge(size: int) -> bytes:
    return b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + b"data"


WRONG_FRAMES: dict[str, tuple[bytes, int]] = {
    "reserved opcode": (frame(3, b"x"), 1002),
    "reserved control opcode": (frame(11, b"x"), 1002),
    "RSV1 without deflate": (frame(0, b"x", first=0xC1), 1002),
    "RSV2": (frame(0, b"x", first=0xA1), 1002),
    "RSV3 and all": (frame(0, b"x", first=0xF1), 1002),
    "unmasked": (b"\x81\x01x", 1002),
    "length of 2**63": (huge(1 << 63), 1009),
    "length of 2**62": (huge(1 << 62), 1009),
    "length of 1 GiB": (huge(1 << 30), 1009),
    "limit in fragments": (frame(2, bytes(MIB), final=False) + frame(0, b"x"), 1009),
    "text that is not UTF-8": (frame(1, b"\xff"), 1007),
    "text cut in a code point": (frame(1, b"\xe2\x82"), 1007),
    "surrogate in fragments": (frame(1, b"\xed", final=False) + frame(0, b"\xa0\x80"), 1007),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "message in a message": (frame(1, b"x", final=False) + frame(1, b"y"), 1002),
    "fragmented ping": (frame(9, b"x", final=False), 1002),
    "long ping": (frame(9, b"x" * 126), 1002),
    "close of one byte": (frame(8, b"\x03"), 1002),
    "close code 999": (frame(8, b"\x03\xe7"), 1002),
    "close code 1005": (frame(8, b"\x03\xed"), 1002),
    "close code 5000": (frame(8, b"\x13\x88"), 1002),
    "close reason not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
}


def bad_frames(serving: Serving, rng: random.Random) -> None:
    sock = serving.tcp()
    push(sock, UPGRADE + frame(1, b"hello"))
    if rng.random() < 0.5:
        read_head(sock)
    wrong = rng.choice(list(WRONG_FRAMES.values()))[0]
    push(sock, wrong)
    push(sock, rng.randbytes(rng.randrange(200)))
    leave(sock, rng)


def random_frames(serving: Serving, rng: random.Random) -> None:
    sock = serving.tcp()
    offer = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    push(sock, rng.choice([UPGRADE, offer]))
    read_head(sock)
    for _ in range(rng.randrange(1, 6)):
        data = rng.randbytes(rng.choice([0, 1, 2, 125, 126, 4000, 70_000]))
        first = rng.choice([rng.randrange(256), 0xC1, 0xC2, 0x81, 0x89, 0x02, 0x80])
        push(sock, frame(0, data, first=first))
    leave(sock, rng)


STAGES = [
    b"",
    b"G",
    b"raw data",
    b"raw data" * 10_000,
    UPGRADE[:60],
    UPGRADE,
    UPGRADE + frame(1, b"hello"),
    UPGRADE + frame(1, b"hello")[:1],
    UPGRADE + frame(1, b"hello")[:-2],
    UPGRADE + frame(1, b"hello", final=False),
    UPGRADE + frame(2, bytes(200_000)),
    UPGRADE + frame(2, bytes(200_000))[:-1],
    UPGRADE + frame(9, b"ping") * 100,
    UPGRADE + frame(8, b"\x03\xe8"),
    UPGRADE + frame(8, b"\x03\xe8")[:-1],
    UPGRADE + frame(1, b"hello") + frame(8, b"\x03\xe8"),
    UPGRADE + frame(8, b"\x03\xe8") + frame(1, b"too late"),
]


def every_stage(serving: Serving, rng: random.Random) -> None:
    sock = serving.tcp()
    push(sock, rng.choice(STAGES))
    if rng.random() < 0.3:
        # Some clients leave only after the gateway has had a turn.
        sock.settimeout(0.001)
        try:
            sock.recv(10)
        except OSError:
            pass
    leave(sock, rng)


Attack = Callable[[Serving, random.Random], None]
ATTACKS: list[Attack] = [
    random_bytes,
    half_handshake,
    damaged_handshake,
    long_head,
    bad_frames,
    random_frames,
    every_stage,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__ for attack in ATTACKS])
def test_thousands_of_hostile_clients_leave_no_trace(serving: Serving, attack: Attack) -> None:
    gateway = serving.gateway
    serving.begin_helper()
    eventually(lambda: is_settled(serving), "the warm-up to be over")
    descriptors, memory = serving.descriptors(), serving.rss()
    rng = random.Random(attack.__name__)
    with Observer(serving) as observer:
        for _ in range(TIMES):
            attack(serving, rng)
        echoes = observer.echoes
        eventually(lambda: observer.echoes > echoes, "the observer to be served")
    eventually(
        lambda: serving.descriptors() <= descriptors,
        "the descriptors to be free again",
    )
    assert serving.gateway == gateway
    assert serving.rss() - memory < GROWTH, f"{(serving.rss() - memory) / MIB:.1f} MiB more"
    assert not has_traceback(str(serving)), str(serving)


def is_settled(serving: Serving) -> bool:
    """Whether few descriptors are open: the listener, the links, and those that Python keeps."""
    return serving.descriptors() < 40


@pytest.mark.parametrize("name", WRONG_FRAMES)
def test_a_wrong_frame_is_answered_with_its_close_code(serving: Serving, name: str) -> None:
    wrong, code = WRONG_FRAMES[name]
    with serving.tcp() as sock:
        sock.sendall(UPGRADE)
        read_head(sock)
        sock.sendall(wrong)
        first, data = read_frame(sock)
        while first != 0x88:
            first, data = read_frame(sock)
        assert int.from_bytes(data[:2], "big") == code
        assert receive_all(sock) == b""


CROWD = 200
BLOCK = 64 * 1024
LONGEST_TURN = 0.1
"""Seconds of CPU in a turn. Without limits, each of these attacks causes turns of seconds. A
quiet machine stays below 10 ms, but CPU time grows where other programs use the same caches.
"""
OFFER = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
HEAD = UPGRADE[:-2] + b"".join(b"X-%02d: %s\r\n" % (n, b"x" * 150) for n in range(90)) + b"\r\n"


def repeated(one: bytes) -> bytes:
    return one * (BLOCK // len(one))


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return frame(0, (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4], first=0xC2)


AT_ONCE: dict[str, tuple[bytes, bytes]] = {
    "messages": (UPGRADE, repeated(frame(2, b""))),
    "pings": (UPGRADE, repeated(frame(9, b""))),
    "pongs": (UPGRADE, repeated(frame(10, b""))),
    "fragments": (UPGRADE + frame(2, b"", final=False), repeated(frame(0, b"", final=False))),
    "messages behind the request": (b"", UPGRADE + repeated(frame(1, b"hi"))),
    "pings behind the request": (b"", UPGRADE + repeated(frame(9, b""))),
    "requests": (b"", HEAD),
    "small and compressed": (OFFER, repeated(deflated(b"hello"))),
    "large and compressed": (OFFER, repeated(deflated(bytes(1_000_000)))),
    "resets": (UPGRADE, b""),
}


def send_some(sock: socket.socket, data: bytes) -> None:
    sock.setblocking(False)
    try:
        sock.send(data)
    except OSError:
        # The gateway does not read just now; the bytes that the kernel has taken are enough.
        pass


@pytest.fixture(scope="module")
def measured() -> Iterator[Serving]:
    with serve(ECHO, workers=2, env={ASKED_BY: "1"}) as serving:
        yield serving


def turns(serving: Serving) -> dict[str, float]:
    status: dict[str, float] = serving.status()["gateway"]["turns"]
    return status


@pytest.mark.parametrize("kind", AT_ONCE)
def test_hundreds_of_hostile_clients_do_not_delay_the_others(measured: Serving, kind: str) -> None:
    begin, block = AT_ONCE[kind]
    with Observer(measured) as observer, ExitStack() as stack:
        socks = [stack.enter_context(measured.tcp()) for _ in range(CROWD)]
        for sock in socks:
            if begin:
                sock.sendall(begin)
                read_head(sock)
        before = turns(measured)["turns"]
        for sock in socks:
            if block:
                send_some(sock, block)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        echoes = observer.echoes
        eventually(lambda: observer.echoes > echoes + 10, "the observer to be served")
        after = turns(measured)
    assert after["turns"] - before > 10
    assert after["longest"] < LONGEST_TURN
    assert not has_traceback(str(measured)), str(measured)


def test_a_megabyte_of_headers_is_answered_with_431(serving: Serving) -> None:
    with serving.tcp() as sock:
        push(sock, UPGRADE[:-2] + (b"X-Padding: " + b"p" * 1000 + b"\r\n") * 1000)
        assert receive_all(sock).startswith(b"HTTP/1.1 431 ")
