"""A stranger on the link of a run that speaks broken ZMTP (ZeroMQ RFC 37)."""

from __future__ import annotations

import random
import socket
from collections import deque
from typing import Final

from tests.deadline import DEADLINE
from tests.fuzz.mutate import Mutator
from wsraw.link.records import encode

OPEN_AT_ONCE: Final = 20
"""Connections that stay open."""

GREETING: Final = (b"\xff" + bytes(8) + b"\x7f\x03\x01NULL").ljust(64, b"\0")
READY: Final = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
PING: Final = b"\x04\x0b\x04PING\0\x0acont"
LARGE: Final = b"\x02" + (100_000).to_bytes(8, "big")

SEEDS: Final = [
    GREETING + READY,
    GREETING + READY + b"\0\0" + PING,
    GREETING + READY + b"\0\x03" + encode([0, []]) + b"\0\0",
    GREETING + READY + LARGE + b"\xc1" * 50_000,
    GREETING + READY + b"\1\x01x" * 300 + b"\0\x01x",
    GREETING[:10] + b"\x01\x05",
]
WORDS: Final = [READY, PING, LARGE, b"\1\0", b"\x06\xff\xff\xff\xff\xff\xff\xff\xff"]


class BadPeer:
    """Connections that send something and leave, or stay for a while."""

    def __init__(self, endpoint: str, choose: random.Random) -> None:
        self._scheme, _, self._place = endpoint.partition("://")
        self._choose = choose
        self._mutator = Mutator(choose, SEEDS, WORDS, 60_000)
        self._open: deque[socket.socket] = deque()

    def attack(self) -> None:
        """Send one input on a connection of its own."""
        sock = self._connect()
        self._open.append(sock)
        data = self._mutator.next()
        try:
            at = self._choose.randrange(len(data) + 1) if self._choose.random() < 0.5 else 0
            sock.sendall(data[:at])
            sock.sendall(data[at:])
            if self._choose.random() < 0.2:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The gateway has closed the connection for that input.
            pass
        if len(self._open) > OPEN_AT_ONCE:
            self._open.popleft().close()

    def _connect(self) -> socket.socket:
        if self._scheme == "tcp":
            host, _, port = self._place.rpartition(":")
            return socket.create_connection((host, int(port)), DEADLINE)
        sock = socket.socket(socket.AF_UNIX)
        # With a timeout, the socket would not wait for room in the queue of the listener.
        sock.connect(self._place)
        sock.settimeout(DEADLINE)
        return sock

    def close(self) -> None:
        """Close all connections."""
        while self._open:
            self._open.popleft().close()
