"""Compare bridges with websockify, one after the other in front of the same echo server: CPU and
rates, with every byte verified.

    python -m benchmarks.bridges            # 5 rounds, about four minutes
    python -m benchmarks.bridges --quick

wsload sends the small messages, one in flight on each of 16 connections. Bursts are like those of a
remote desktop: clients send blocks of 64 KiB and read at the same time, and compare the SHA-256 of
both directions. websockify has no raw listener for clients, so the column "raw to WebSocket" is of
wsraw only. Without websockify (`pip install websockify numpy`) only wsraw is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import processes
from benchmarks.contenders import build
from benchmarks.table import ended, machine

BLOCK: Final = 64 * 1024
CONNS: Final = 16
BURSTING: Final = 4
"""Connections that send bursts, each in a process of its own."""

READY_WITHIN: Final = 60.0
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AHEAD: Final = 1 << 20
"""How many bytes a bursting client may be ahead of the echo: like a viewer, it does not send for
ever without reading.
"""


# --- bursts ---


class WrongBytesError(Exception):
    """The received bytes are not the sent ones."""


def burst(port: int, size: int) -> float:
    """Send that many bytes through a bridge to an echo server, and read them; returns the
    seconds.
    """
    with socket.create_connection(("127.0.0.1", port), READY_WITHIN) as sock:
        return _push(sock, upgrade(sock), size)


def upgrade(sock: socket.socket) -> bytes:
    """Do a handshake; returns the bytes after its answer."""
    sock.sendall(HANDSHAKE)
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(4096)
        if not part:
            raise WrongBytesError("no answer to the handshake")
        head += part
    return head.partition(b"\r\n\r\n")[2]


def _push(sock: socket.socket, rest: bytes, size: int) -> float:
    # With a mask of zeros, the data in a frame is unchanged.
    blocks = [os.urandom(BLOCK) for _ in range(8)]
    frames = [b"\x82\xff" + BLOCK.to_bytes(8, "big") + bytes(4) + block for block in blocks]
    sent, got = hashlib.sha256(), hashlib.sha256()
    reader = _Frames(got.update)
    reader.feed(rest)
    out = memoryview(b"")
    pushed = 0
    sock.setblocking(False)
    began, deadline = time.perf_counter(), time.monotonic() + READY_WITHIN * 4
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while reader.count < size:
            may_push = bool(out) or (pushed < size and pushed - reader.count < AHEAD)
            selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if may_push else 0))
            for _, mask in selector.select(1.0):
                if mask & selectors.EVENT_READ:
                    data = sock.recv(1 << 18)
                    if not data:
                        raise WrongBytesError(f"it ended after {reader.count} bytes")
                    reader.feed(data)
                if mask & selectors.EVENT_WRITE and may_push:
                    if not out:
                        number = pushed // BLOCK % len(frames)
                        sent.update(blocks[number])
                        out = memoryview(frames[number])
                        pushed += BLOCK
                    out = out[sock.send(out) :]
            if time.monotonic() > deadline:
                raise WrongBytesError(f"only {reader.count} bytes came in time")
    if got.digest() != sent.digest():
        raise WrongBytesError("the digests differ")
    return time.perf_counter() - began


class _Frames:
    """Takes the data out of a server's frames, which are not masked."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.count = 0
        self._take = take
        self._buffer = b""
        self._left = 0

    def feed(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while at < end:
            if self._left:
                part = data[at : at + self._left]
                self._take(part)
                self.count += len(part)
                self._left -= len(part)
                at += len(part)
                continue
            short = data[at + 1] if end - at > 1 else 127
            extra = {126: 2, 127: 8}.get(short, 0)
            if end - at < 2 + extra:
                break
            if data[at] != 0x82:
                raise WrongBytesError(f"a frame that begins with {data[at]:#x}")
            long = int.from_bytes(data[at + 2 : at + 2 + extra], "big")
            self._left = long if extra else short
            at += 2 + extra
        self._buffer = data[at:]


# --- the contenders ---


@contextmanager
def process(
    command: list[str], port: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a process until its port answers; yields its pid."""
    with log.open("ab") as stream:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not start; see {log}") from None
                time.sleep(0.1)
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_ports(count: int) -> list[int]:
    """Ports on which no process listens; the next port of each is free, too."""
    found = []
    with ExitStack() as stack:
        port = 23_000 + os.getpid() % 1000
        while len(found) < count:
            try:
                for each in (port, port + 1):
                    stack.enter_context(socket.create_server(("127.0.0.1", each)))
                found.append(port)
            except OSError:
                pass
            port += 2
    return found


def problem(report: dict[str, Any]) -> str:
    """The error in a report, or "". On a busy machine, a time without any answer is not an
    error.
    """
    counted = {name: count for name, count in report.get("errors", {}).items() if count}
    return str(report["first_error"] or counted or "")


class Bench:
    """The running bridges, and the results so far."""

    def __init__(self, wsload: Path, seconds: float, burst_size: int) -> None:
        self.results: dict[tuple[str, str, str], list[float]] = {}
        self.wrong: list[str] = []
        self._wsload = wsload
        self._seconds = seconds
        self._burst_size = burst_size

    def echo(self, who: str, pid: int, port: int, size: int, raw: bool = False) -> None:
        """Run wsload, which compares each byte."""
        command = [
            str(self._wsload), "echo", "--conns", str(CONNS), "--size", str(size), "--binary",
            "--port", str(port), "--duration", str(self._seconds), "--warmup", "0.5",
            "--pids", str(pid), "--json", *(["--raw"] if raw else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            report: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            self.wrong.append(f"{who}, {size} bytes: {done.stderr.strip()}")
            return
        why = problem(report)
        if why:
            self.wrong.append(f"{who}, {size} bytes: {why}")
        if not report["ok"]:
            return
        work = f"{size} bytes"
        self._add(work, "messages/s", who, report["msgs_per_s"])
        # Both directions of 100,000 messages, in seconds.
        self._add(work, "µs of CPU each", who, report["server_cpu_s_per_100k"] * 10)
        self._add(work, "p50 in ms", who, report["lat_us"]["p50"] / 1000)

    def bursts(self, who: str, pid: int, port: int, pool: ProcessPoolExecutor) -> None:
        """Run all bursts at once, each verified by its SHA-256."""
        before, began = processes.cpu(pid), time.perf_counter()
        futures = [pool.submit(burst, port, self._burst_size) for _ in range(BURSTING)]
        for future in futures:
            try:
                future.result()
            except (WrongBytesError, OSError) as error:
                self.wrong.append(f"{who}, bursts: {error}")
                return
        took = time.perf_counter() - began
        there_and_back = 2 * BURSTING * self._burst_size
        self._add("bursts", "MB/s both ways", who, there_and_back / took / 1e6)
        # The CPU time of websockify's children is gone when they end.
        used = max(0.0, processes.cpu(pid) - before)
        if who != "websockify":
            self._add("bursts", "ms of CPU for each MB", who, used * 1e3 / (there_and_back / 1e6))

    def memory(self, who: str, pid: int, port: int) -> None:
        """Measure the memory with 16 open connections."""
        with ExitStack() as stack:
            for _ in range(CONNS):
                upgrade(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            time.sleep(0.5)
            self._add("memory", "MiB (PSS)", who, processes.memory(pid)[1] / 1024)

    def _add(self, work: str, figure: str, who: str, value: float) -> None:
        self.results.setdefault((work, figure, who), []).append(value)

    def table(self, names: list[str]) -> str:
        """The medians, as Markdown."""
        lines = [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
        for work, figure in dict.fromkeys(key[:2] for key in self.results):
            cells = []
            for name in names:
                values = self.results.get((work, figure, name))
                shown = (
                    f"{statistics.median(values):,.{0 if max(values) >= 100 else 1}f}"
                    if values
                    else "–"
                )
                cells.append(shown)
            lines.append(f"| {work}: {figure} | {' | '.join(cells)} |")
        return "\n".join(lines)


def main() -> int:
    """Measure, and print the results; returns 1 if a byte was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    wsload, echo = build("wsload", "-lm"), build("epoll_echo", "-lcrypto")
    if wsload is None or echo is None:
        print("cannot: a C compiler and OpenSSL's headers are needed", file=sys.stderr)
        return 2
    rounds, seconds, size = (1, 1.0, 4 << 20) if args.quick else (args.rounds, 3.0, 64 << 20)
    has_websockify = find_spec("websockify") is not None
    if not has_websockify:
        print("websockify is left out: pip install websockify numpy", file=sys.stderr)
    target, first, second, third = free_ports(4)
    raw_target = target + 1
    run = [sys.executable, "-P", "-m", "wsraw", "bridge", "--log-level=warning"]
    bench = Bench(wsload, seconds, size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsraw-")))

        def start(command: list[str], port: int) -> int:
            return stack.enter_context(process(command, port, folder / f"{port}.log"))

        start([str(echo), str(target), str(raw_target)], target)
        listen = f"127.0.0.1:{first}"
        ours = start([*run, f"--listen=ws://{listen}", f"--to=tcp://127.0.0.1:{raw_target}"], first)
        to = f"--to=ws://127.0.0.1:{target}/"
        reverse = start([*run, f"--listen=raw://127.0.0.1:{third}", to], third)
        whos = [("wsraw", ours, first)]
        if has_websockify:
            words = [sys.executable, "-m", "websockify", f"127.0.0.1:{second}"]
            pid = start([*words, f"127.0.0.1:{raw_target}"], second)
            whos.append(("websockify", pid, second))
        pool = stack.enter_context(ProcessPoolExecutor(BURSTING))
        for number in range(rounds):
            for small in (64, 4096):
                for who, pid, port in whos:
                    bench.echo(who, pid, port, small)
                bench.echo("wsraw, raw to WebSocket", reverse, third, small, raw=True)
            for who, pid, port in whos:
                bench.bursts(who, pid, port, pool)
                bench.memory(who, pid, port)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    print(f"{machine()} Medians of {rounds} rounds of {seconds:g} s, in turn.\n")
    print(bench.table([who for who, _, _ in whos] + ["wsraw, raw to WebSocket"]))
    return ended(bench.wrong)


if __name__ == "__main__":
    sys.exit(main())
