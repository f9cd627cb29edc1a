"""A real gateway under attack, on its sockets and its worker link, while a client works.

The attacker is a single thread of Python. The gateway treats its input like that of any client.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable

from tests.corpus import OFFER, UPGRADE
from tests.deadline import eventually
from tests.e2e.serving import ECHO, Serving, has_traceback, serve
from tests.e2e.test_hostile import Observer
from tests.fuzz.bad_peer import BadPeer
from tests.fuzz.bad_worker import BadWorker
from tests.fuzz.mutate import Mutator
from tests.fuzz.target import load
from tests.fuzz.targets.deflate import frames_of, wire_of
from tests.needs import HAS_UNIX
from wsraw.runtime.link import place

OPEN_AT_ONCE = 100
"""Connections that the attacker keeps, so that the gateway has time to answer."""

AHEAD = 200
"""Inputs after which the attacker waits for the gateway. Otherwise thousands of connections
would wait in the kernel to be accepted, and be closed before that.
"""

TO_THE_LINK = 0.1
"""The share of the inputs that go to the worker links, from workers with the token."""

TO_THE_SOCKET = 0.05
"""The share of the inputs that go to the socket of the local link, from strangers."""

WARM_UP = 3000
GROWTH = 32.0
"""MiB by which the gateway's memory may grow: allocators keep some. It has processed gigabytes."""

_RESET = struct.pack("ii", 1, 0)


class Clients:
    """Sockets that send something and leave, in several ways."""

    def __init__(self, serving: Serving, choose: random.Random) -> None:
        self._serving = serving
        self._choose = choose
        self._tcp = next(a for a in serving.addresses if not isinstance(a, str))
        self._unix = next((a for a in serving.addresses if isinstance(a, str)), "")
        # Ports are scarce, so every few connections have a source address of their own.
        self._sources = itertools.cycle(f"127.0.{n // 250}.{2 + n % 250}" for n in range(5000))
        self._open: deque[socket.socket] = deque()
        self._ways: list[Callable[[], bytes]] = []
        for name, make in (
            ("sniff", lambda data: data),
            ("handshake", lambda data: data[1:]),
            ("frames", lambda data: UPGRADE % b"" + data[1:]),
            ("frames", lambda data: UPGRADE % OFFER + data[1:]),
            ("deflate", lambda data: UPGRADE % OFFER + wire_of(frames_of(data[1:]))),
        ):
            target = load(name)
            seeds = [seed for seed in target.seeds if len(seed) < 4000]
            mutator = Mutator(choose, seeds, target.words, 4000)
            self._ways.append(lambda mutator=mutator, make=make: make(mutator.next()))

    def attack(self) -> None:
        data = self._choose.choice(self._ways)()
        sock = self._connect()
        self._open.append(sock)
        try:
            if self._choose.random() < 0.2:
                at = self._choose.randrange(len(data) + 1)
                sock.sendall(data[:at])
                data = data[at:]
            sock.sendall(data)
            if self._choose.random() < 0.2:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The gateway has closed the connection.
            pass
        if len(self._open) > OPEN_AT_ONCE:
            self._leave(self._open.popleft())

    def _connect(self) -> socket.socket:
        if self._unix and self._choose.random() < 0.7:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(30)
            sock.connect(self._unix)
            return sock
        return socket.create_connection(self._tcp, 30, (next(self._sources), 0))

    def _leave(self, sock: socket.socket) -> None:
        try:
            if self._choose.random() < 0.3:
                sock.setblocking(False)
                sock.recv(65536)
            if sock.family == socket.AF_INET and self._choose.random() < 0.9:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass
        sock.close()

    def catch_up(self) -> None:
        """Wait until the gateway has accepted all connections: it accepts in order."""
        for n in range(len(self._serving.addresses)):
            with self._serving.tcp(n) as sock:
                sock.sendall(b"here?")
                assert sock.recv(100) == b"here?"

    def close(self) -> None:
        while self._open:
            self._leave(self._open.popleft())
        self.catch_up()


def attack(seed: int, inputs: int, seconds: float, warm_up: int = WARM_UP) -> int:
    """Attack, and print the result; the exit code is 1 if the gateway has changed."""
    if not sys.platform.startswith("linux"):
        print("gateway: left out, it looks into /proc")
        return 0
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        listen = ["127.0.0.1:0"]
        if HAS_UNIX:
            listen.append(f"unix:{os.path.join(folder, 's')}")
        remote = "--worker-listen=tcp://127.0.0.1:0"
        with serve(ECHO, remote, workers=2, listen=listen) as serving:
            faults = _attack(serving, choose, seed, inputs, seconds, warm_up)
    for fault in faults:
        print(f"gateway: {fault}")
    return 1 if faults else 0


def _attack(
    serving: Serving,
    choose: random.Random,
    seed: int,
    inputs: int,
    seconds: float,
    warm_up: int,
) -> list[str]:
    pid = serving.gateway
    clients = Clients(serving, choose)
    worker = BadWorker(serving, choose)
    assert serving.folder is not None
    peer = BadPeer(place.endpoint(serving.folder), choose)
    serving.begin_helper()
    for n in range(warm_up):
        _one(n, clients, worker, peer, choose)
    clients.close()
    worker.leave()
    peer.close()
    eventually(lambda: serving.descriptors() < 60, "the warm-up to be over")
    descriptors, memory = serving.descriptors(), serving.rss() / (1 << 20)
    faults: list[str] = []
    began = time.monotonic()
    until = began + seconds if not inputs else float("inf")
    count = 0
    with Observer(serving) as observer:
        while (not inputs or count < inputs) and (count % 64 or time.monotonic() < until):
            _one(count, clients, worker, peer, choose)
            count += 1
        spent = time.monotonic() - began
        clients.close()
        worker.close()
        peer.close()
        echoes = observer.echoes
        eventually(lambda: observer.echoes > echoes, "the client beside to be served")
    try:
        eventually(lambda: serving.descriptors() <= descriptors)
    except AssertionError:
        faults.append(f"{serving.descriptors()} descriptors, there were {descriptors}")
    gc.collect()
    after = serving.rss() / (1 << 20)
    print(
        f"gateway: seed {seed}, {count:,} inputs in {spent:.0f} s ({count / spent:,.0f}/s), "
        f"{worker.batches:,} of them on the worker links in {worker.sessions:,} sessions; "
        f"{observer.echoes:,} verified echoes beside; pid {pid} before, {serving.gateway} after; "
        f"descriptors {descriptors} before, {serving.descriptors()} after; "
        f"RSS {memory:.1f} MiB before, {after:.1f} after",
        flush=True,
    )
    if serving.gateway != pid or len(serving.run.pids()) != 3:
        faults.append("somebody had to be started again")
    if after - memory > GROWTH:
        faults.append(f"it holds {after - memory:.1f} MiB more")
    if has_traceback(str(serving)):
        faults.append(f"a traceback in the log\n{serving}")
    return faults


def _one(
    number: int, clients: Clients, worker: BadWorker, peer: BadPeer, choose: random.Random
) -> None:
    if number % AHEAD == 0:
        clients.catch_up()
    to = choose.random()
    if to < TO_THE_LINK:
        worker.attack()
    elif to < TO_THE_LINK + TO_THE_SOCKET:
        peer.attack()
    else:
        clients.attack()
