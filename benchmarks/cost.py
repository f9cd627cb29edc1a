"""What a message costs the gateway and its worker, stage by stage, in microseconds.

The stages of our own code are measured in one process, where the real parts call each other over
sockets that only pretend: so the figures hold nothing of the kernel, and all is warm. What the
kernel and ZeroMQ take is measured apart, on real sockets. A running server shares its caches with
others, and its figures (the last table) are about twice as high.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from websockets.frames import Frame, Opcode

from benchmarks.contenders import BUILD, CONTENDERS, build
from benchmarks.serving import serving
from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.link.worker_end import WorkerEnd
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
    "w_receive": "worker: decode",
    "w_handle": "worker: the echo handler",
    "w_send": "worker: encode",
    "apply": "gateway: decode, acks, sends to frames",
    "flush": "gateway: frames to the socket",
}


class Pipe:
    """A socket that says what it is told to, and takes all."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.says = b""

    def recv(self, size: int) -> bytes:
        return self.says

    def send(self, data: bytes) -> int:
        return len(data)


class Bench:
    """A gateway's middle and a worker's, without what is between them."""

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
        self.spent = dict.fromkeys(STAGES, 0.0)
        self.messages = 0
        self.now = 1.0
        self.sessions.receive(b"w", b"", self.now)
        for _, reply in self.sessions.replies:
            self.runtime.receive(reply)
        self.sessions.replies.clear()
        self._answer()
        owner = Sockets(self.loop, self.registry, self.settings)
        listen = parse_listen("127.0.0.1:1", self.settings)
        self.pipes: list[Pipe] = []
        self.endpoints: list[Endpoint] = []
        for _ in range(connections):
            about = {"peer": "127.0.0.1:1"}
            con = accepted(
                self.registry.ids.new(),
                listen,
                self.settings,
                about,
                self.now,
                self.registry.policy,
                None,
            )
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

    def _answer(self) -> None:
        data = self.link.data_to_send()
        if data is not None:
            self.now += 0.0005
            self.sessions.receive(b"w", data, self.now)

    def turn(self) -> None:
        """One turn of the gateway, with as many of the worker as it takes to answer all."""
        clock, spent, runtime = time.perf_counter, self.spent, self.runtime
        registry, sessions = self.registry, self.sessions
        self.loop.now = registry.flow.now = self.now
        at = clock()
        for endpoint in self.endpoints:
            endpoint.handle(True, False)
        spent["read"] += clock() - at
        while True:
            at = clock()
            batches = sessions.batches(self.now)
            spent["batches"] += clock() - at
            if not batches:
                break
            for _, batch in batches:
                at = clock()
                runtime.receive(batch)
                received = clock()
                queue = runtime.queue
                self.messages += len(queue)
                while queue:
                    runtime.handle(queue.popleft())
                handled = clock()
                data = self.link.data_to_send()
                encoded = clock()
                spent["w_receive"] += received - at
                spent["w_handle"] += handled - received
                spent["w_send"] += encoded - handled
                if data is not None:
                    self.now += 0.0005
                    at = clock()
                    sessions.receive(b"w", data, self.now)
                    spent["apply"] += clock() - at
            self.loop.now = registry.flow.now = self.now
        at = clock()
        for con in list(registry.dirty):
            del registry.dirty[con]
            con.endpoint.flush()
        spent["flush"] += clock() - at


def stages(connections: int, depth: int, size: int, turns: int) -> dict[str, float]:
    """Microseconds a message of each stage: those of the best of some rounds."""
    bench = Bench(connections)
    frame = Frame(Opcode.BINARY, bytes(size)).serialize(mask=True)
    for pipe in bench.pipes:
        pipe.says = frame * depth
    for _ in range(turns // 4):
        bench.turn()
    gc.collect()
    best: dict[str, float] = {}
    for _ in range(7):
        bench.spent = dict.fromkeys(STAGES, 0.0)
        bench.messages = 0
        for _ in range(turns):
            bench.turn()
        figures = {name: spent / bench.messages * 1e6 for name, spent in bench.spent.items()}
        if not best or sum(figures.values()) < sum(best.values()):
            best = figures
    bench.loop.close()
    return best


# --- the kernel and ZeroMQ ---


def _time(call: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, time.perf_counter() - begun)
    return best / count * 1e6


def system_calls(size: int) -> dict[str, float]:
    """Microseconds of each, on sockets of this machine."""
    listening = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listening.getsockname())
    theirs, _ = listening.accept()
    data = bytes(size)
    pair = _time(lambda: (ours.send(data), theirs.recv(65536)), 2000)
    send = 0.0
    for _ in range(2000):
        begun = time.perf_counter()
        ours.send(data)
        send += time.perf_counter() - begun
        theirs.recv(65536)
    figures = {"send": send / 2000 * 1e6, "recv": pair - send / 2000 * 1e6}
    if hasattr(select, "epoll"):
        poll = select.epoll()
        poll.register(theirs, select.EPOLLIN)
        ours.send(data)
        figures["epoll_wait"] = _time(lambda: poll.poll(0), 2000)
        poll.close()
    for sock in (listening, ours, theirs):
        sock.close()
    context: zmq.Context[Any] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind("inproc://cost")
    dealer.connect("inproc://cost")
    dealer.send(data)
    identity, _ = router.recv_multipart()
    more, now = int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.NOBLOCK)
    events = int(zmq.EVENTS)
    figures["ZeroMQ send, a batch"] = _time(
        lambda: (router.send(identity, more), router.send(data, now)), 100
    )
    for _ in range(500):
        dealer.recv()
    figures["ZeroMQ: is there something?"] = _time(lambda: router.get(events), 2000)
    context.destroy(linger=0)
    return figures


# --- a running server ---


def threads(connections: int, depth: int, size: int, seconds: float) -> list[tuple[str, ...]]:
    """CPU microseconds a message and waits a message of each thread of a run; on Linux."""
    wsload = build("wsload", "-lm")
    if wsload is None or not Path("/proc/self/schedstat").exists():
        return []
    with serving(CONTENDERS["wsraw"], BUILD / "cost.log") as (server, port):
        options = ("--conns", connections, "--depth", depth, "--size", size)
        command = [wsload, "echo", "--port", port, *options, "--duration", seconds + 1, "--json"]
        load = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
        time.sleep(1.5)
        before = _snapshot(server.pid)
        time.sleep(seconds)
        after = _snapshot(server.pid)
        count = json.loads(load.communicate()[0])["msgs_per_s"] * seconds
    rows: list[tuple[str, ...]] = []
    for key, (cpu, waits) in sorted(after.items()):
        old = before.get(key, (0.0, 0))
        if cpu - old[0] > 0.001 * seconds:
            each = (cpu - old[0]) / count * 1e6
            rows.append((key[0], key[2], f"{each:.2f}", f"{(waits - old[1]) / count:.3f}"))
    return rows


def _snapshot(parent: int) -> dict[tuple[str, int, str], tuple[float, int]]:
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{parent}\n" not in (process / "status").read_text():
                continue
            words = (process / "cmdline").read_bytes().split(b"\0")
            role = next((w.decode() for w in words if w in (b"gateway", b"worker")), "?")
            for task in (process / "task").iterdir():
                cpu = int((task / "schedstat").read_text().split()[0]) / 1e9
                status = (task / "status").read_text()
                waits = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
                name = (task / "comm").read_text().strip()
                found[role, int(task.name), "main" if task.name == process.name else name] = (
                    cpu,
                    waits,
                )
        except OSError:
            continue
    return found


# --- the sheet ---

LOADS = (
    ("depth 1, 64 B", 28, 1, 64),
    ("depth 16, 64 B", 16, 16, 64),
    ("depth 1, 16 KiB", 8, 1, 16384),
)
"""A turn at depth 1 meets some 28 of 64 connections; of 64 at depth 16, some 16 with 16 each."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a moment only")
    quick = parser.parse_args().quick
    turns = 4 if quick else 400
    columns = [stages(conns, depth, size, turns) for _, conns, depth, size in LOADS]
    print("| stage | " + " | ".join(name for name, *_ in LOADS) + " |")
    print("|---|" + "--:|" * len(LOADS))
    for key, title in STAGES.items():
        print(f"| {title} | " + " | ".join(f"{column[key]:.2f}" for column in columns) + " |")
    sums = [sum(column.values()) for column in columns]
    print("| all | " + " | ".join(f"{total:.2f}" for total in sums) + " |")
    ours = [sum(v for k, v in column.items() if not k.startswith("w_")) for column in columns]
    print("| of that the gateway's | " + " | ".join(f"{total:.2f}" for total in ours) + " |")
    print("\n| call | 70 B | 16 KiB |\n|---|--:|--:|")
    small, large = system_calls(70), system_calls(16384)
    for name, cost in small.items():
        print(f"| {name} | {cost:.2f} | {large[name]:.2f} |")
    print(
        "\n| load | process | thread | CPU us a message | waits a message |\n|---|---|---|--:|--:|"
    )
    for name, _, depth, size in LOADS:
        for row in threads(64, depth, size, 0.5 if quick else 4.0):
            print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
