"""Publish a message to all members of a group: wsraw compared with `broadcast` of `websockets`, and
with Pushpin.

    python -m benchmarks.fanout            # three rounds, about two minutes
    python -m benchmarks.fanout --quick

One publisher has one message in flight: it sends the next one when the last member has received it.
wsload has the members, and checks that each gets every message once and in order. In `never read`,
as many more members read nothing at all, which should not change the times of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bridges import HANDSHAKE, READY_WITHIN, free_ports, problem, process, upgrade
from benchmarks.contenders import COMPILED, HERE, SERVERS, build
from benchmarks.table import ended, machine

FIGURES: Final = {
    "deliveries/s": lambda report: report["deliveries_per_s"],
    "until the last has it, p50 in ms": lambda report: report["last_delivery_us"]["p50"] / 1000,
    "the same, p99 in ms": lambda report: report["last_delivery_us"]["p99"] / 1000,
    "µs of CPU for each delivery": lambda report: report["server_cpu_s_per_100k"] * 10,
}


class Deaf:
    """Members that never read."""

    def __init__(self, port: int, count: int) -> None:
        self._sockets = []
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            upgrade(sock)
            self._sockets.append(sock)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def wait_for_handlers(port: int) -> None:
    """Wait until a handshake is answered with 101."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), READY_WITHIN) as sock:
            sock.sendall(HANDSHAKE)
            if sock.recv(4096).startswith(b"HTTP/1.1 101 "):
                return
    raise RuntimeError("no handshake is answered")


def contenders() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name → the command, to which the port is appended, and its environment."""
    handlers = SERVERS / "wsraw_fanout.py"
    run = [sys.executable, "-P", "-m", "wsraw", "run", f"--workers={handlers}"]
    # With the verdict, a client is a member before its handshake is answered.
    run += ["--log-level=warning", "--no-deflate", "--verdict=handlers"]
    found = {
        "wsraw": ([*run, "--listen=ws://127.0.0.1:"], {"PYTHONPATH": str(HERE.parent)}),
        "websockets": ([sys.executable, str(SERVERS / "websockets_fanout.py"), ""], {}),
    }
    if shutil.which("pushpin"):
        # Debian has Pushpin; Centrifugo and GatewayWorker are not on PyPI, npm or Debian.
        found["pushpin"] = ([sys.executable, str(SERVERS / "pushpin_fanout.py"), ""], {})
    if (COMPILED / ".built").exists():
        found["wsraw-compiled"] = (found["wsraw"][0], {"PYTHONPATH": str(COMPILED)})
    return found


def measure(wsload: Path, pid: int, port: int, members: int, seconds: float) -> dict[str, Any]:
    """The report of wsload."""
    command = [
        str(wsload), "fanout", "--conns", str(members), "--port", str(port), "--pub-path", "/pub",
        "--duration", str(seconds), "--warmup", "0.5", "--pids", str(pid), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"ok": False, "first_error": done.stderr.strip() or "wsload said nothing"}
    return report


class Bench:
    """The results so far."""

    def __init__(self, wsload: Path, seconds: float, sizes: tuple[int, ...], deaf: int) -> None:
        self.results: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By title and contender: reports of wsload."""
        self.wrong: list[str] = []
        self._wsload = wsload
        self._seconds = seconds
        self._sizes = sizes
        self._deaf = deaf

    def round(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        """Measure all sizes of one contender. Raises RuntimeError or OSError if it does not run."""
        [port] = free_ports(1)
        command = [*command[:-1], f"{command[-1]}{port}"]
        with process(command, port, log, os.environ | env) as pid:
            wait_for_handlers(port)
            for members in self._sizes:
                for silent in (0, self._deaf):
                    others = Deaf(port, silent)
                    report = measure(self._wsload, pid, port, members, self._seconds)
                    others.close()
                    title = f"{members:,} members"
                    title += f", {silent} more never read" if silent else ""
                    self.results.setdefault((title, name), []).append(report)
                    why = problem(report)
                    if why:
                        self.wrong.append(f"{name}, {title}: {why}")


def main() -> int:
    """Measure, and print the results; returns 1 if a message was lost, duplicated or out of
    order.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    wsload = build("wsload", "-lm")
    if wsload is None:
        print("cannot: a C compiler is needed", file=sys.stderr)
        return 2
    rounds, seconds, sizes, deaf = (
        (1, 1.0, (100,), 5) if args.quick else (args.rounds, 3.0, (1000, 5000), 50)
    )
    bench = Bench(wsload, seconds, sizes, deaf)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsraw-")))
        found = contenders()
        for number in range(rounds):
            for name, (command, env) in found.items():
                try:
                    bench.round(name, command, env, folder / f"{name}.log")
                except (RuntimeError, OSError) as error:
                    bench.wrong.append(f"{name}: {error}")
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    names = list(found)
    print(f"{machine()} Medians of {rounds} rounds of {seconds:g} s, in turn.\n")
    print(f"| | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for title in dict.fromkeys(title for title, _ in bench.results):
        for figure, of in FIGURES.items():
            cells = []
            for name in names:
                reports = bench.results.get((title, name), [])
                values = [of(report) for report in reports if report["ok"]]
                cells.append(f"{statistics.median(values):,.1f}" if values else "–")
            print(f"| {title}: {figure} | {' | '.join(cells)} |")
    return ended(bench.wrong)


if __name__ == "__main__":
    sys.exit(main())
