"""Both ends of a link, over real sockets."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.deadline import DEADLINE
from wsraw.link.batches import Batch
from wsraw.link.zmtp import GREETING, ZmtpPeer
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.link.connection import LinkSocket, tune
from wsraw.runtime.link.server import Link, LinkServer
from wsraw.runtime.loop import Loop

READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def pair(limit: int = 1 << 30, buffer: int | None = None) -> tuple[LinkSocket, LinkSocket]:
    """The ends of a server and a client, connected, before READY. `buffer` is SO_SNDBUF."""
    near, far = socket.socketpair()
    for sock in (near, far):
        tune(sock)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return serving(near, limit), calling(far, limit)


def serving(sock: socket.socket, limit: int = 1 << 30) -> LinkSocket:
    return LinkSocket(sock, ZmtpPeer("ROUTER", ("DEALER",), limit, as_server=True))


def calling(sock: socket.socket, limit: int = 1 << 30) -> LinkSocket:
    return LinkSocket(sock, ZmtpPeer("DEALER", ("ROUTER",), limit, as_server=False))


def ready_pair(limit: int = 1 << 30, buffer: int | None = None) -> tuple[LinkSocket, LinkSocket]:
    """The same ends after the handshake."""
    server, client = pair(limit, buffer)
    for _ in range(6):
        for end in (server, client):
            end.flush()
            assert end.receive() == []
    assert server.peer.is_ready
    assert client.peer.is_ready
    assert not server.unsent
    assert not client.unsent
    return server, client


class Served:
    """A LinkServer in a loop of this thread, and what it has reported to its owner."""

    def __init__(self, folder: Path | str, **options: Any) -> None:
        self._ahead = 0.0
        self.loop = Loop(lambda: time.monotonic() + self._ahead)
        self.batches: dict[Link, list[bytes]] = {}
        self.ends: list[tuple[Link, str]] = []
        self.admits = True
        """Whether the first batch that is not empty is accepted."""
        self.echoes = False
        try:
            self.server = LinkServer(
                self.loop,
                str(folder),
                "link",
                receive=self._receive,
                ended=lambda link, why: self.ends.append((link, why)),
                **options,
            )
        except OSError:
            self.loop.close()
            raise

    def _receive(self, link: Link, batch: Batch) -> None:
        self.batches.setdefault(link, []).append(bytes(batch))
        if batch and self.admits and not link.is_admitted:
            link.admit()
        if self.echoes:
            link.send(bytes(batch))

    @property
    def links(self) -> list[Link]:
        """The links that have sent a batch."""
        return list(self.batches)

    def turn(self) -> None:
        """One turn, of a few milliseconds if there is nothing to do."""
        timer = self.loop.call_later(0.005, lambda: None)
        self.loop.turn()
        timer.cancel()

    def pass_time(self, seconds: float) -> None:
        """Advance the clock of the loop in steps that the loop does not take for a suspension."""
        for _ in range(round(seconds / 0.25)):
            self._ahead += 0.25
            self.turn()

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Take turns until the condition is true."""
        until = time.monotonic() + DEADLINE
        while not condition():
            self.turn()
            assert time.monotonic() < until, what

    def client(self, **options: Any) -> LinkClient:
        return LinkClient(self.server.endpoint, **options)

    def joined(self, hello: bytes = b"hello") -> tuple[LinkClient, Link]:
        """A client that is connected and admitted, and its link."""
        client = self.client()
        before = len(self.batches)
        self.until(lambda: work(client) and client.is_connected)
        assert client.send(hello)
        self.until(lambda: len(self.batches) > before)
        return client, self.links[-1]

    def raw(self) -> socket.socket:
        """A plain socket that is connected to the server."""
        return plain(self.server.endpoint)

    def raw_ready(self) -> socket.socket:
        """The same after the handshake; the server's greeting and READY are read."""
        sock = self.raw()
        sock.sendall(GREETING + READY)
        got = b""
        while len(got) < len(GREETING) + len(READY):
            self.turn()
            if select.select([sock], [], [], 0)[0]:
                got += sock.recv(1000)
        return sock

    def close(self) -> None:
        self.server.close()
        self.loop.close()


def plain(endpoint: str) -> socket.socket:
    """A plain socket that is connected to the endpoint of a link."""
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(place)
    else:
        host, _, port = place.rpartition(":")
        sock = socket.create_connection((host, int(port)))
    sock.settimeout(DEADLINE)
    return sock


def work(client: LinkClient) -> bool:
    """Do the work of a shell in one turn, without sleeping. Returns True."""
    now = time.monotonic()
    descriptor = client.fileno()
    if now >= client.wait_until or (
        descriptor >= 0
        and any(select.select([descriptor], [descriptor] if client.wants_write else [], [], 0)[:2])
    ):
        client.work(now)
    return True


def take(client: LinkClient) -> list[bytes]:
    """All batches that the client has received."""
    work(client)
    return [bytes(batch) for batch in iter(client.receive, None)]
