"""Compare the cost of a message between two gateways with the cost within one: the latency, and the
CPU time of each process.

Two gateways and NATS on this machine, all over loopback. A client at the first gateway publishes to
a group whose other members are a client at the same gateway (near) and one at the second (far). It
sends one message at a time and waits until both have it, for the latency; then many on a fixed
schedule, for the CPU. A second group has no far member, to see what the first gateway alone needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from wsraw.supervisor.control import client

PATIENCE: Final = 60.0
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
WSRAW: Final = (sys.executable, "-P", "-m", "wsraw")

HANDLERS: Final = """
import wsraw


def on_message(msg, con):
    *lines, con.state = ((con.state or b"") + msg["data"]).split(b"\\n")
    for line in lines:
        word, _, group = line.partition(b" ")
        if word == b"join":
            con.join(group.decode())
            con.send(b"joined\\n")
        else:
            wsraw.publish(word.decode(), line + b"\\n", exclude=con)
"""


class Peer:
    """A raw client with a blocking socket."""

    def __init__(self, path: Path, group: str = "") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.lines = self.sock.makefile("rb")
        if group:
            self.say(f"join {group}")
            self.lines.readline()

    def say(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\n")

    def hear(self) -> bytes:
        return self.lines.readline()

    def drain(self) -> int:
        """Read all lines that have come; returns their number."""
        self.sock.setblocking(False)
        count = 0
        try:
            while part := self.sock.recv(1 << 16):
                count += part.count(b"\n")
        except BlockingIOError:
            pass
        self.sock.settimeout(PATIENCE)
        return count


class Node:
    """A run, and the CPU time of its processes."""

    def __init__(self, folder: Path, name: str, nats: str) -> None:
        self.path = folder / f"clients-{name}"
        self._run_dir = folder / name
        handlers = folder / "handlers.py"
        handlers.write_text(HANDLERS)
        command = [
            *WSRAW, "run", f"--workers={handlers}", f"--listen=raw://unix:{self.path}",
            f"--run-dir={self._run_dir}", f"--node={name}", f"--cluster={nats}",
        ]  # fmt: skip
        self.run = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = client.ask(
            client.find(str(self._run_dir)), "status", (), PATIENCE
        ).data
        return data

    def is_connected(self) -> bool:
        try:
            found = self.status()["gateway"]["cluster"]
        except (client.NoRunError, client.RequestRefusedError, TimeoutError):
            return False
        return bool(found) and len(found["nodes"]) == 1 and found["state"] == "connected"

    def pids(self) -> dict[str, int]:
        status = self.status()
        return {
            "gateway": status["gateway"]["pid"],
            "agent": status["agent"]["pid"],
            "worker": status["workers"][0]["pid"],
        }


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def nats_server(folder: Path) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-l", str(folder / "nats.log")]
    process = subprocess.Popen(command)
    try:
        yield f"nats://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def latency(sender: Peer, near: Peer, far: Peer, count: int) -> list[tuple[float, float]]:
    """Seconds to the near and to the far member, of each message."""
    found = []
    for n in range(count):
        began = time.perf_counter()
        sender.say(f"both {n}")
        near.hear()
        after_near = time.perf_counter() - began
        far.hear()
        found.append((after_near, time.perf_counter() - began))
    return found


def spend(
    sender: Peer, members: list[Peer], group: str, rate: int, seconds: float, pids: dict[str, int]
) -> dict[str, float]:
    """Microseconds of CPU for each message, by process, at that rate."""
    before = {name: cpu(pid) for name, pid in pids.items()}
    count, began = 0, time.monotonic()
    heard = dict.fromkeys(members, 0)
    while (now := time.monotonic() - began) < seconds or min(heard.values()) < count:
        due = int(min(now, seconds) * rate) - count
        if due > 0:
            sender.sock.sendall(b"".join(b"%s %064d\n" % (group.encode(), n) for n in range(due)))
            count += due
        for member in members:
            heard[member] += member.drain()
        if now > seconds + PATIENCE:
            break
        time.sleep(0.002)
    return {name: (cpu(pid) - before[name]) / count * 1e6 for name, pid in pids.items()}


def main() -> int:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if shutil.which("nats-server") is None:
        print("cannot: there is no nats-server: apt install nats-server", file=sys.stderr)
        return 2
    count, seconds, rates = (50, 1.0, (200,)) if args.quick else (2000, 10.0, (500, 2000))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsraw-")))
        url, nats_pid = stack.enter_context(nats_server(folder))
        nodes = [Node(folder, name, url) for name in ("one", "two")]
        for node in nodes:
            stack.callback(node.run.wait)
            stack.callback(node.run.terminate)
        until = time.monotonic() + PATIENCE
        while not all(node.is_connected() for node in nodes):
            if time.monotonic() > until:
                print("cannot: the nodes do not come up", file=sys.stderr)
                return 2
            time.sleep(0.1)
        one, two = nodes
        sender = Peer(one.path)
        near, far = Peer(one.path, "both"), Peer(two.path, "both")
        alone = Peer(one.path, "alone")
        time.sleep(1.0)
        found = latency(sender, near, far, count)
        columns = zip(*found, strict=True)
        for name, values in zip(("within one", "between two"), columns, strict=True):
            ordered = sorted(value * 1000 for value in values)
            print(
                f"latency {name}: median {statistics.median(ordered):.2f} ms, best tenth "
                f"{ordered[len(ordered) // 10]:.2f} ms, p99 {ordered[len(ordered) * 99 // 100]:.2f}"
                " ms"
            )
        pids = {f"{key} of one": pid for key, pid in one.pids().items()}
        pids |= {f"{key} of two": pid for key, pid in two.pids().items()} | {"NATS": nats_pid}
        del pids["worker of two"]
        for rate in rates:
            for group, members in (("alone", [alone]), ("both", [near, far])):
                used = spend(sender, members, group, rate, seconds, pids)
                told = ", ".join(f"{name} {value:.0f}" for name, value in used.items())
                what = "a near member" if group == "alone" else "a near and a far member"
                print(f"CPU a message at {rate}/s with {what}, in µs: {told}")
        counts = [node.status()["gateway"]["cluster"]["counts"] for node in nodes]
        lost = counts[1]["missed"] + counts[1]["undelivered"] + counts[0]["not_sent"]
        if lost:
            print(f"{lost} messages were lost")
            return 1
    print("no breach")
    return 0


if __name__ == "__main__":
    sys.exit(main())
