"""Measure the cost of handing a gateway's state to another one: CPU time at both ends, and bytes.

``python -m benchmarks.frozen`` freezes and thaws gateways with 1,000 and 20,000 connections in this
process, without sockets (a socket adds about 10 µs, most of it to register it with the loop). The
times are CPU time, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.gateway import Frozen, Parts
from wsraw.gateway.frozen.records import EndpointState, LinkState, Shared
from wsraw.gateway.sessions.sessions import Sessions

HEAD = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: https://chat.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef\r\nCache-Control: no-cache\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
"""The request of a browser."""

NOW = 1000.0
ROUNDS = 3


class Load(NamedTuple):
    """The state of a gateway."""

    name: str
    connections: int
    busy: int = 0
    """How many of the connections have three waiting messages, some output, and half a frame."""
    takeover: bool = False
    """Whether each connection keeps a compression context with a full window."""


LOADS = (
    Load("idle", 1000),
    Load("busy", 1000, busy=1000),
    Load("idle, with a full compression window each", 1000, takeover=True),
    Load("idle, 1,000 of them busy", 20_000, busy=1000),
)


class Ends:
    """Ends without sockets."""

    def __init__(self) -> None:
        self.overdrawn: dict[int, None] = {}
        self.cons: list[Connection] = []

    def connections(self) -> list[Connection]:
        return self.cons

    def why_unmovable(self, con: Connection) -> str:
        return ""

    def freeze_endpoint(self, con: Connection, clock: Clock) -> tuple[EndpointState, Any] | None:
        return EndpointState(False, False, 0.0, 4096, False, False, False, False), self

    def is_stranger(self, worker: Worker) -> bool:
        return False

    def dying(self, worker: Worker) -> str | None:
        return None

    def freeze_link(self, worker: Worker) -> tuple[LinkState, Any] | None:
        return None

    def counts(self) -> tuple[int, int]:
        return 0, 0

    def listens(self) -> Iterable[Listen]:
        return ()

    def thaw_endpoint(self, con: Connection, state: EndpointState, sock: object) -> object:
        con.endpoint = sock
        return sock

    def begin(self, con: Connection, state: EndpointState, clock: Clock) -> None:
        pass

    def thaw_link(self, worker: Worker, state: LinkState, sock: object) -> None:
        pass

    def thaw_dying(self, worker: Worker, fault: str) -> None:
        pass

    def exited(self, worker: Worker) -> None:
        pass

    def thaw_counts(self, state: Shared) -> None:
        pass


def parts(load: Load) -> Parts:
    """An empty gateway."""
    settings = Settings(deflate=True, deflate_context_takeover=load.takeover)
    registry = Registry(settings, 1, 1 << 34)
    return Parts(registry, Sessions(registry), Deadlines(registry), Ends())


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """A client's frame, with a mask of zeros."""
    size = len(payload)
    head = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((first,)) + head + bytes(4) + payload


def fill(gateway: Parts, load: Load) -> None:
    """Let clients connect."""
    registry, ends = gateway.registry, gateway.sockets
    assert isinstance(ends, Ends)
    for number in range(load.connections):
        about = {"peer": f"10.0.{number >> 8}.{number & 255}:50000", "listener": "0.0.0.0:8080"}
        listen = Listen(name="0.0.0.0:8080")
        con = accepted(registry.ids.new(), listen, registry.settings, about, NOW)
        con.endpoint = ends
        ends.cons.append(con)
        registry.flow.weigh(con)
        registry.take(con, con.receive_data(HEAD, NOW), NOW)
        con.written(con.output.size, NOW)
        # The worker has handled on_connect.
        entry = registry.entries[con.id]
        entry.take_parked()
        entry.leave_queue()
        registry.dispatcher.recount(entry)
        if load.takeover:
            packer = zlib.compressobj(wbits=-registry.settings.deflate_window_bits)
            text = b"".join(b"%d" % each for each in range(number, number + 1500))
            packed = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
            con.receive_data(frame(packed[:-4], 0xC1), NOW)
        if number < load.busy:
            for data in (frame(b"x" * 200),) * 3:
                registry.take(con, con.receive_data(data, NOW), NOW)
            con.send(b"y" * 500, "text", True, NOW)
            con.receive_data(frame(b"half of it")[:10], NOW)


def measure(load: Load) -> str:
    """Measure one load; returns its row."""
    old = parts(load)
    fill(old, load)
    best = (float("inf"), float("inf"))
    size = 0
    for _ in range(ROUNDS):
        gc.collect()
        gc.disable()
        began = time.process_time()
        records: list[Frozen] = list(old.freeze(NOW))
        frozen = time.process_time()
        new = parts(load)
        ready = time.process_time()
        thawing = new.thawing(NOW)
        for data, sockets in records:
            thawing.take(data, sockets)
        thawing.finish()
        thawed = time.process_time()
        gc.enable()
        best = min(best[0], frozen - began), min(best[1], thawed - ready)
        size = sum(len(data) for data, _ in records)
        assert len(new.registry.entries) == load.connections
        assert new.registry.flow.accounted == old.registry.flow.accounted
    each = [seconds / load.connections * 1e6 for seconds in best]
    return (
        f"| {load.connections:,} | {load.name} | {best[0] * 1e3:.0f} ms | {best[1] * 1e3:.0f} ms "
        f"| {each[0]:.0f} + {each[1]:.0f} µs | {size / load.connections:,.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few connections")
    quick = parser.parse_args().quick
    print("| connections | what they are | freeze | thaw | each | bytes each |")
    print("|---|---|---|---|---|---|")
    for load in LOADS:
        few = load._replace(connections=50, busy=min(load.busy, 50)) if quick else load
        print(measure(few), flush=True)
    # Thawing would have raised if anything were missing.
    print("no breach")
    return 0


if __name__ == "__main__":
    sys.exit(main())
