"""Measure the memory that each kind of connection really takes, and the gateway's account of it.

For each kind, a forked process makes many connections, and prints how much its memory and its
account have grown for each. The clients are only descriptors.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.authority import client_context, server_file
from tests.corpus import UPGRADE, frame
from tests.gateway.harness import Harness, LinkedWorker, entry_of
from tests.gateway.socket_harness import SocketHarness
from wsraw.gateway.connection.connection import Connection
from wsraw.link.records import Couple, Join, Mark, Open, Publish, Record, Send, State

WARM = 10
"""The first connections of each kind, which are not measured: their pages are touched already."""

CLIENT = client_context()

Kind = Callable[[], tuple[Harness, Callable[[int], None]]]
KINDS: dict[str, tuple[int, Kind]] = {}
"""How many connections of a kind are made; a function that makes the harness and returns one
that adds a connection.
"""


def kind(count: int) -> Callable[[Kind], Kind]:
    def add(make: Kind) -> Kind:
        KINDS[make.__name__.replace("_", " ")] = count, make
        return make

    return add


# --- with sockets ---


def serve(
    say: Callable[[SocketHarness, socket.socket], object], **settings: Any
) -> tuple[Harness, Callable[[int], None]]:
    served = SocketHarness(**settings)
    host, port = served.sockets.listeners[0].address.rsplit(":", 1)

    def add(n: int) -> None:
        before = len(served.sockets.endpoints)
        sock = socket.create_connection((host, int(port)))
        while len(served.sockets.endpoints) == before:
            served.turn()
        say(served, sock)
        for _ in range(3):
            served.turn()
        served.heard.clear()
        sock.detach()

    return served.harness, add


def says(data: bytes) -> Callable[[SocketHarness, socket.socket], None]:
    return lambda served, sock: sock.sendall(data)


def shake_hands(served: SocketHarness, sock: socket.socket, whole: bool = True) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = CLIENT.wrap_bio(incoming, outgoing, server_hostname="localhost")
    sock.settimeout(0)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.send(outgoing.read())
        while True:
            served.turn()
            try:
                incoming.write(sock.recv(1 << 16))
                break
            except BlockingIOError:
                pass
        if not whole:
            return
    client.write(b"hello")
    sock.send(outgoing.read())


def certificate() -> tuple[str]:
    return (server_file(Path(tempfile.mkdtemp())),)


def head(fill: bytes) -> bytes:
    return UPGRADE % b"".join(b"X-%02d: %b\r\n" % (n, fill * 150) for n in range(90))


@kind(400)
def silent_clients() -> Any:
    return serve(lambda served, sock: None)


@kind(300)
def raw_clients() -> Any:
    return serve(says(b"hello"))


@kind(300)
def websockets() -> Any:
    return serve(says(UPGRADE % (b"User-Agent: %b\r\nCookie: %b\r\n" % (b"a" * 120, b"b" * 100))))


@kind(100)
def long_heads() -> Any:
    return serve(says(head(b"y")))


@kind(100)
def long_heads_not_in_ASCII() -> Any:  # noqa: N802
    return serve(says(head(b"\xff")))


@kind(200)
def half_a_request() -> Any:
    return serve(says(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 7000 + b"\r\nY: " + b"y" * 7000))


@kind(100)
def half_a_client_hello() -> Any:
    body = b"\x01" + (32000).to_bytes(3) + b"y" * 31000
    records = [b"\x16\x03\x01\x00\x10" + body[at : at + 16] for at in range(0, 31000, 16)]
    return serve(says(b"".join(records)), tls_cert=certificate())


@kind(50)
def half_a_TLS_handshake() -> Any:  # noqa: N802
    return serve(partial(shake_hands, whole=False), tls_cert=certificate())


@kind(100)
def TLS_clients() -> Any:  # noqa: N802
    return serve(shake_hands, tls_cert=certificate())


@kind(10)
def output_of_those_who_have_left() -> Any:
    def say(served: SocketHarness, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(UPGRADE % b"")
        con: Connection
        [con] = [
            e.con for e in served.sockets.endpoints if not e.lingering and not e.con.output.chunks
        ]
        while con.entry is None or entry_of(con).in_flight or con.output.size:
            served.turn()
        served.linked.say(*(Send(con.id, os.urandom(40_000), "binary") for _ in range(100)))
        for _ in range(5):
            served.turn()
        sock.sendall(frame(0x88, (1000).to_bytes(2)))
        while not con.entry.gone:
            served.turn()

    return serve(say, deflate=False, high_water_mark=1 << 23)


# --- without ---


def stage_with(add: Callable[[Harness, LinkedWorker, int], object], **settings: Any) -> Any:
    harness = Harness(**settings)
    linked = harness.worker()

    def one(n: int) -> None:
        add(harness, linked, n)
        linked.work()
        linked.heard.clear()

    return harness, one


def standing(harness: Harness, linked: LinkedWorker, head: bytes = b"") -> Connection:
    con = harness.raw(UPGRADE % head)
    harness.write(con)
    linked.work()
    return con


def commands(record: Callable[[int, int], Record], count: int) -> Any:
    """A connection, and that many commands of its handler for it."""

    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        con = standing(harness, linked)
        harness.say(con, frame(0x82, b"x"))
        harness.turn()
        linked.say(*(record(con.id, 1000 * n + each) for each in range(count)))

    return stage_with(add)


@kind(100)
def states() -> Any:
    return commands(lambda con, n: State(con, os.urandom(60_000)), 1)


@kind(30)
def groups_of_their_own() -> Any:
    return commands(lambda con, n: Join(con, f"{n}".ljust(1000, "x")), 100)


@kind(100)
def groups_of_many() -> Any:
    return commands(lambda con, n: Join(con, f"room {n % 100:030}"), 100)


@kind(30)
def small_output() -> Any:
    return commands(lambda con, n: Send(con, b"x", "binary"), 2000)


@kind(50)
def large_output() -> Any:
    return commands(lambda con, n: Send(con, os.urandom(50_000), "binary"), 3)


@kind(100)
def marks() -> Any:
    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        con = standing(harness, linked)
        linked.say(Send(con.id, b"x", "binary"), *(Mark(con.id, ref) for ref in range(200)))

    return stage_with(add)


@kind(30)
def couples() -> Any:
    cons: list[int] = []

    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        con = standing(harness, linked)
        linked.say(*(Couple(con.id, other) for other in cons[-500:]))
        cons.append(con.id)
        if not n:
            cons.extend(standing(harness, linked).id for _ in range(500))

    return stage_with(add)


@kind(50)
def messages_for_many() -> Any:
    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        if not n:
            for con in [standing(harness, linked).id for _ in range(100)]:
                linked.say(Join(con, "g"))
        linked.say(Publish("g", os.urandom(30_000), "binary"))

    return stage_with(add)


@kind(50)
def events_that_wait() -> Any:
    harness = Harness()

    def add(n: int) -> None:
        con = harness.raw(b"", protocol="raw")
        for _ in range(200):
            harness.say(con, os.urandom(50))

    return harness, add


@kind(100)
def what_clients_left_behind() -> Any:
    harness = Harness()

    def add(n: int) -> None:
        con = harness.raw(UPGRADE % b"")
        harness.write(con)
        harness.say(con, frame(0x82, os.urandom(1000)) + frame(0x88, (1000).to_bytes(2)))

    return harness, add


@kind(50)
def messages_that_are_not_finished() -> Any:
    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        con = standing(harness, linked)
        data = frame(0x82, os.urandom(60_000))[:-1]
        for at in range(0, len(data), 4096):
            events = con.receive_data(data[at : at + 4096], 0.0)
            assert not events
            harness.registry.flow.read_part(con, len(data[at : at + 4096]))

    return stage_with(add)


@kind(50)
def contexts_of_compression() -> Any:
    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        con = standing(harness, linked, b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
        linked.say(Send(con.id, os.urandom(2000), "binary"))
        harness.write(con)

    return stage_with(add, deflate_context_takeover=True, deflate_window_bits=15)


@kind(100)
def connections_being_opened() -> Any:
    def add(harness: Harness, linked: LinkedWorker, n: int) -> None:
        options = {"reconnect": True, "headers": {f"X-{n}": "y" * 200 for n in range(40)}}
        con = linked.link.new_id()
        linked.say(Open(con, "127.0.0.1:9", "websocket", "/", "", "", options))

    return stage_with(add)


@kind(50)
def answers_of_servers_that_refuse() -> Any:
    """No worker has heard of these connections yet."""
    harness = Harness()
    linked = harness.worker()

    def add(n: int) -> None:
        con_id = linked.link.new_id()
        linked.say(Open(con_id, "127.0.0.1:9", "websocket"))
        harness.registry.to_dial.clear()
        con = harness.registry.entries[con_id].con
        harness.registry.take(con, con.connected(0.0), 0.0)
        harness.write(con)
        fields = b"".join(b"X-%02d: %b\r\n" % (n, b"y" * 150) for n in range(90))
        head = b"HTTP/1.1 403 No\r\nContent-Length: 65536\r\n%b\r\n" % fields
        events = con.receive_data(head + os.urandom(65536), 0.0)
        harness.registry.take(con, events, 0.0)

    return harness, add


# --- the scales ---


def memory() -> int:
    """The private memory of this process, in bytes."""
    text = Path("/proc/self/smaps_rollup").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("Private_Dirty:")]
    return int(line.split()[1]) * 1024


def weigh(count: int, make: Kind) -> tuple[float, float]:
    harness, add = make()
    registry = harness.registry
    deadlines = harness.deadlines
    for n in range(WARM):
        add(n)
    gc.collect()
    gc.freeze()
    deadlines.check_memory(0.0)
    before = memory(), registry.flow.accounted
    for n in range(WARM, WARM + count):
        add(n)
    gc.collect()
    deadlines.check_memory(0.0)
    return (memory() - before[0]) / count, (registry.flow.accounted - before[1]) / count


def main() -> None:
    found = {}
    for name, (count, make) in KINDS.items():
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(writer, json.dumps(weigh(count, make)).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        os.close(writer)
        with open(reader, "rb") as stream:
            found[name] = json.loads(stream.read() or "null")
        os.waitpid(child, 0)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
