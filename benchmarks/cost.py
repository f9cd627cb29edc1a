"""Measure the cost of a message for the gateway and its worker, stage by stage: `python -m
benchmarks.cost`.

The stages of our own code run in one process over fake sockets. So the figures do not include the
kernel, and all caches are warm. The units are instructions (counted by valgrind) and microseconds.
The time of the kernel is measured separately, on real sockets. A running server shares its caches
with other processes: counting.py measures one.

Counts can be compared on a busy machine, times only on an idle one. Without `--counts` both are
printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from websockets.frames import Frame, Opcode

from benchmarks.counting import instructions, running
from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.link.worker_end import WorkerEnd
from wsraw.link.zmtp import ZmtpPeer
from wsraw.runtime.link.connection import LinkSocket
from wsraw.runtime.loop import Loop
from wsraw.workers.loading import handlers
from wsraw.workers.runtime import Runtime

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ECHO = "def on_message(msg, con):\n    return msg\n"

STAGES = {
    "read": "gateway: bytes to frames to events, each to its worker",
    "batches": "gateway: dispatch, encode",
    "send": "gateway: batches to the link",
    "w_read": "worker: link to batches",
    "w_decode": "worker: decode",
    "w_handle": "worker: the echo handler",
    "w_encode": "worker: encode",
    "w_send": "worker: a batch to the link",
    "receive": "gateway: link to batches",
    "apply": "gateway: decode, acks, sends to frames",
    "flush": "gateway: frames to the socket",
}
LINK = ("send", "w_read", "w_send", "receive")

LOADS = {
    "one message, 64 B": (1, 1, 64),
    "depth 1, 64 B": (28, 1, 64),
    "depth 16, 64 B": (16, 16, 64),
    "depth 1, 16 KiB": (8, 1, 16384),
}
"""Connections with data in a turn, messages of each, and their size. At 2,000/s a turn has one
message; at depth 1, some 28 of 64 connections have one; at depth 16, some 16 of 64 have 16 each.
"""

Clock = Callable[[], float]
Span = tuple[str, float, float]
"""A stage, and the clock before and after it."""


class Pipe:
    """A client's socket that returns given data, and accepts all output."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.says = b""

    def recv(self, size: int) -> bytes:
        return self.says

    def send(self, data: bytes) -> int:
        return len(data)


class Wire:
    """One end of a link: sent data waits at the other end."""

    def __init__(self) -> None:
        self.kept: deque[memoryview] = deque()
        self.other = self

    def send(self, data: bytes | memoryview) -> int:
        self.other.kept.append(memoryview(data))
        return len(data)

    def sendmsg(self, pieces: Sequence[memoryview]) -> int:
        return sum(map(self.send, pieces))

    def _take(self, size: int) -> Iterator[memoryview]:
        if not self.kept:
            raise BlockingIOError
        while size and self.kept:
            piece = self.kept.popleft()
            if len(piece) > size:
                self.kept.appendleft(piece[size:])
                piece = piece[:size]
            size -= len(piece)
            yield piece

    def recv(self, size: int) -> bytes:
        return b"".join(self._take(size))

    def recv_into(self, view: memoryview) -> int:
        at = 0
        for piece in self._take(len(view)):
            view[at : at + len(piece)] = piece
            at += len(piece)
        return at


def linked() -> tuple[LinkSocket, LinkSocket]:
    """The two ends of a link, of a gateway and of its worker, after the handshake."""
    near: Any = Wire()
    far: Any = Wire()
    near.other, far.other = far, near
    ends = (
        LinkSocket(near, ZmtpPeer("ROUTER", ("DEALER",), 1 << 26, as_server=True)),
        LinkSocket(far, ZmtpPeer("DEALER", ("ROUTER",), 1 << 26, as_server=False)),
    )
    while not all(end.peer.is_ready for end in ends):
        for end in ends:
            end.flush()
            end.receive()
    return ends


class Bench:
    """A gateway and a worker, without the kernel between them."""

    def __init__(self, connections: int) -> None:
        self.settings = Settings()
        self.loop = Loop()
        self.registry = Registry(self.settings, 1, 1 << 30)
        self.sessions = Sessions(self.registry)
        self.sessions.tokens.add("token", 1)
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(ECHO)
            file.flush()
            loaded = handlers.load(file.name)
        self.link = WorkerEnd(pool="default", token="token", instance="i", language="bench")
        self.runtime = Runtime(self.link, loaded, "close", threading.get_ident)
        self.gateway_socket, self.worker_socket = linked()
        self.clock: Clock = time.perf_counter
        self.spans: list[Span] = []
        self.messages = 0
        self.now = 1.0
        self.sessions.receive(b"w", b"", self.now)
        for _, reply in self.sessions.replies:
            self.runtime.receive(reply)
        self.sessions.replies.clear()
        hello = self.link.data_to_send()
        assert hello is not None
        self.sessions.receive(b"w", hello, self.now)
        owner = Sockets(self.loop, self.registry, self.settings)
        listen = parse_listen("127.0.0.1:1", self.settings)
        policy = self.registry.policy
        self.pipes: list[Pipe] = []
        self.endpoints: list[Endpoint] = []
        for _ in range(connections):
            about = {"peer": "127.0.0.1:1"}
            new = self.registry.ids.new()
            con = accepted(new, listen, self.settings, about, self.now, policy, None)
            pipe: Any = Pipe()
            self.pipes.append(pipe)
            self.endpoints.append(Endpoint(owner.shared, pipe, con))
            pipe.says = REQUEST
        for _ in range(30):
            self.turn()
            for pipe in self.pipes:
                pipe.says = b""
            self.endpoints, kept = [], self.endpoints
            self.turn()
            self.endpoints = kept
            if not self.registry.pools["default"].workers[0].window.in_flight:
                break

    def turn(self) -> None:
        """Take one turn of the gateway, and as many of the worker as are needed to answer
        everything.
        """
        clock, spans, sessions = self.clock, self.spans, self.sessions
        self.loop.now = self.registry.flow.now = self.now
        at = clock()
        for each in self.endpoints:
            each.handle(True, False)
        spans.append(("read", at, clock()))
        while True:
            at = clock()
            batches = sessions.batches(self.now)
            spans.append(("batches", at, clock()))
            if not batches:
                break
            at = clock()
            for _, batch in batches:
                self.gateway_socket.send(batch)
            spans.append(("send", at, clock()))
            self._work()
            self.loop.now = self.registry.flow.now = self.now
        at = clock()
        for con in list(self.registry.dirty):
            del self.registry.dirty[con]
            endpoint: Any = con.endpoint
            endpoint.flush()
        spans.append(("flush", at, clock()))

    def _work(self) -> None:
        """Let the worker read, handle and answer, and the gateway take the answer."""
        clock, spans, queue = self.clock, self.spans, self.runtime.queue
        begun = clock()
        received = self.worker_socket.receive()
        read = clock()
        for batch in received:
            self.runtime.receive(batch)
        decoded = clock()
        self.messages += len(queue)
        while queue:
            self.runtime.handle(queue.popleft())
        handled = clock()
        data = self.link.data_to_send()
        encoded = clock()
        spans += (
            ("w_read", begun, read),
            ("w_decode", read, decoded),
            ("w_handle", decoded, handled),
            ("w_encode", handled, encoded),
        )
        if data is None:
            return
        self.now += 0.0005
        at = clock()
        self.worker_socket.send(data)
        sent = clock()
        received = self.gateway_socket.receive()
        taken = clock()
        for batch in received:
            self.sessions.receive(b"w", batch, self.now)
        spans += (("w_send", at, sent), ("receive", sent, taken), ("apply", taken, clock()))


def warm(load: tuple[int, int, int], turns: int) -> Bench:
    """A bench whose clients send in each turn, after some turns to warm up."""
    connections, depth, size = load
    bench = Bench(connections)
    frame = Frame(Opcode.BINARY, bytes(size)).serialize(mask=True)
    for pipe in bench.pipes:
        pipe.says = frame * depth
    for _ in range(turns):
        bench.turn()
    gc.collect()
    return bench


def measure(bench: Bench, turns: int, clock: Clock) -> tuple[list[Span], int]:
    """The spans of some turns, and the number of their messages."""
    bench.clock, bench.spans, bench.messages = clock, [], 0
    for _ in range(turns):
        bench.turn()
    return bench.spans, bench.messages


def timed(load: tuple[int, int, int], turns: int) -> dict[str, float]:
    """Microseconds for a message, by stage, each from the best of some rounds."""
    bench = warm(load, turns // 4)
    best: dict[str, float] = {}
    for _ in range(7):
        spans, messages = measure(bench, turns, time.perf_counter)
        figures = dict.fromkeys(STAGES, 0.0)
        for stage, begun, ended in spans:
            figures[stage] += (ended - begun) / messages * 1e6
        if not best or sum(figures.values()) < sum(best.values()):
            best = figures
    bench.loop.close()
    return best


def mark_spans(warm_turns: int, turns: int) -> None:
    """Print the spans of all loads, by a clock that valgrind sees; valgrind runs this function."""
    count = 0

    def clock() -> float:
        nonlocal count
        os.getppid()
        count += 1
        return count

    for _ in range(10):
        clock()
    found: list[tuple[list[Span], int]] = []
    for load in LOADS.values():
        bench = warm(load, warm_turns)
        gc.disable()
        empty = ("", clock(), clock())
        spans, messages = measure(bench, turns, clock)
        gc.enable()
        found.append(([empty, *spans], messages))
        bench.loop.close()
    print(json.dumps(found))


# --- the kernel ---


def _time(call: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, time.perf_counter() - begun)
    return best / count * 1e6


def _transfer(ours: socket.socket, theirs: socket.socket, data: bytes) -> tuple[float, float]:
    """Microseconds to send and to receive, from the best of some rounds."""
    clock = time.perf_counter
    best = (float("inf"), float("inf"))
    for _ in range(5):
        sending = receiving = 0.0
        for _ in range(2000):
            begun = clock()
            ours.send(data)
            sent = clock()
            theirs.recv(65536)
            sending += sent - begun
            receiving += clock() - sent
        best = min(best, (sending / 2000 * 1e6, receiving / 2000 * 1e6), key=sum)
    return best


def _wake_up(data: bytes) -> float:
    """Microseconds until a sleeping process has read what was sent to it: half of the round
    trip.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        while got := theirs.recv(65536):
            theirs.send(got)
        os._exit(0)
    theirs.close()

    def there_and_back() -> None:
        ours.send(data)
        ours.recv(65536)

    both = _time(there_and_back, 500)
    ours.close()
    os.waitpid(child, 0)
    return both / 2


def system_calls(size: int) -> dict[str, float]:
    """Microseconds of each system call, on sockets of this machine."""
    data = bytes(size)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    near, far = socket.socketpair()
    figures = {}
    for name, pair in (("TCP", (ours, theirs)), ("unix socket", (near, far))):
        figures[f"send, {name}"], figures[f"recv, {name}"] = _transfer(*pair, data)
    if hasattr(select, "epoll"):
        poll = select.epoll()
        poll.register(theirs, select.EPOLLIN)
        ours.send(data)
        figures["epoll_wait"] = _time(lambda: poll.poll(0), 2000)
        poll.close()
    for sock in (ours, theirs, near, far):
        sock.close()
    figures["wake-up of another process"] = _wake_up(data)
    return figures


# --- the sheet ---


def show_stages(columns: list[dict[str, float]], digits: int, unit: str) -> None:
    """Print a table of the stages, with sums."""
    print(f"\n| {unit} | " + " | ".join(LOADS) + " |\n|---|" + "--:|" * len(LOADS))

    def show(title: str, figures: list[float]) -> None:
        print(f"| {title} | " + " | ".join(f"{figure:,.{digits}f}" for figure in figures) + " |")

    for key, title in STAGES.items():
        show(title, [column[key] for column in columns])
    show("all", [sum(column[key] for key in STAGES) for column in columns])
    ours = [key for key in STAGES if not key.startswith("w_")]
    show("of that the gateway's", [sum(column[key] for key in ours) for column in columns])
    show("of that the link's", [sum(column[key] for key in LINK) for column in columns])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a moment only")
    parser.add_argument("--counts", action="store_true", help="no times: the machine is busy")
    parser.add_argument("--mark-spans", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.mark_spans:
        mark_spans(*given.mark_spans)
        return
    turns = "20" if given.quick else "200"
    command = [sys.executable, "-m", "benchmarks.cost", "--mark-spans", turns, "4"]
    counted = instructions(command, Path(__file__).parent.parent)
    if counted:
        show_stages([dict.fromkeys(STAGES, 0.0) | column for column in counted], 0, "instructions")
    if not given.counts:
        turns_timed = 4 if given.quick else 400
        show_stages([timed(load, turns_timed) for load in LOADS.values()], 2, "microseconds")
        print("\n| call, microseconds | 70 B | 16 KiB |\n|---|--:|--:|")
        small, large = system_calls(70), system_calls(16384)
        for name, cost in small.items():
            print(f"| {name} | {cost:.2f} | {large[name]:.2f} |")
    running(0.5 if given.quick else 4.0, with_times=not given.counts)


if __name__ == "__main__":
    main()
