"""Three gateways and NATS in four network namespaces: check what is lost in a failure, and that it
is counted. For root on Linux, with iproute2 and nats-server.

300 clients, a third of them at each gateway, are in one group. Some of each third publish numbered
lines on a fixed schedule, while NATS is killed and started again, a cable is cut and repaired, and
a whole node is killed. Each client checks every line: from each publisher the numbers must rise, so
nothing is duplicated or reordered; from those at its own gateway none may be missing. The missing
lines of other gateways must be exactly as many as the nodes have counted. For each member of a node
that is cut off or killed, handlers of one other node must be told once that the member has left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.netns import CannotMake
from benchmarks.star import HUB_AT, Star, inside
from wsraw.supervisor.control import client

CANNOT = 2
NODES: Final = 3
PUBLISHERS: Final = 3
"""Publishers at each node."""
PATIENCE: Final = 120.0
"""Seconds to wait for steps that are not measured, such as a start: the machine may be busy."""
GONE_WITHIN: Final = 5.0
"""Seconds after which the members of a dead node are not counted any more."""
URL: Final = f"nats://{HUB_AT}:4222"
WSRAW: Final = (sys.executable, "-P", "-m", "wsraw")

HANDLERS: Final = """
import wsraw

# References of members elsewhere, each time that handlers were told.
told = {b"left": [], b"back": []}


def note(word, con):
    if con.closed and "ref" in con.about:
        told[word].append(con.ref)


def on_join(group, con):
    note(b"back", con)


def on_leave(group, con):
    note(b"left", con)


async def on_message(msg, con):
    *lines, con.state = ((con.state or b"") + msg["data"]).split(b"\\n")
    for line in lines:
        if line == b"join":
            con.join("all")
            con.join("here")
            con.send(b"joined\\n")
        elif line in told:
            con.send(line + b" " + " ".join(told[line]).encode() + b"\\n")
            told[line] = []
        elif line == b"count":
            con.send(b"count %d\\n" % await wsraw.count("all"))
        else:
            wsraw.publish("all", line + b"\\n")
"""


class Member:
    """A client. For each publisher it has the number of lines, and the last line's number."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.seen: dict[bytes, list[int]] = {}
        self.wrong: list[str] = []
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._task: asyncio.Task[None]
        self._writer: asyncio.StreamWriter

    async def connect(self, path: Path) -> None:
        reader, self._writer = await asyncio.open_unix_connection(str(path))
        self._task = asyncio.get_running_loop().create_task(self._read(reader))
        self.say(b"join")
        await asyncio.wait_for(self.answers.get(), PATIENCE)

    def say(self, line: bytes) -> None:
        self._writer.write(line + b"\n")

    async def count(self) -> int:
        """The number of members in the group, as the client's gateway knows it."""
        self.say(b"count")
        return int((await asyncio.wait_for(self.answers.get(), PATIENCE)).split()[1])

    async def told(self, word: bytes) -> list[str]:
        """Members of other nodes that have left, or are back, as the handlers were told since
        the last call.
        """
        self.say(word)
        answer = await asyncio.wait_for(self.answers.get(), PATIENCE)
        return answer.decode().split()[1:]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            name, _, number = line.rstrip().partition(b" ")
            if name in (b"joined", b"count", b"left", b"back"):
                self.answers.put_nowait(line)
                continue
            count_and_last = self.seen.setdefault(name, [0, 0])
            if int(number) <= count_and_last[1]:
                self.wrong.append(f"{name!r} {number!r} after {count_and_last[1]}")
            count_and_last[0] += 1
            count_and_last[1] = int(number)

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()


class Cluster:
    """The processes of the cluster. Raises CannotMake if they do not start."""

    def __init__(self, star: Star, folder: Path) -> None:
        self.star = star
        self._folder = folder
        self._log = (folder / "log").open("wb")
        self._runs: list[subprocess.Popen[bytes]] = []
        self._nats: subprocess.Popen[bytes] | None = None
        (folder / "handlers.py").write_text(HANDLERS)

    def socket(self, node: int) -> Path:
        return self._folder / f"clients{node}"

    def start(self) -> None:
        self.start_nats()
        for node in range(NODES):
            self._runs.append(
                self._spawn(
                    self.star.nodes[node],
                    *WSRAW,
                    "run",
                    f"--workers={self._folder}/handlers.py",
                    f"--listen=raw://unix:{self.socket(node)}",
                    f"--run-dir={self._folder}/run{node}",
                    f"--cluster={URL}",
                    f"--node=n{node}",
                    "--presence=here",
                )
            )
        self.wait("the nodes to know each other", lambda: self._are_connected(NODES))

    def _spawn(self, namespace: str, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*inside(namespace), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def start_nats(self) -> None:
        self._nats = self._spawn(self.star.hub, "nats-server", "-a", HUB_AT, "-p", "4222")

    def kill_nats(self) -> None:
        assert self._nats is not None
        self._nats.kill()
        self._nats.wait()

    def kill_node(self, node: int) -> None:
        """Kill all processes of the node at once, so that none can say goodbye."""
        status = self.status(node)
        pids = [self._runs[node].pid, status["gateway"]["pid"], status["agent"]["pid"]]
        for pid in [*pids, *(each["pid"] for each in status["workers"])]:
            os.kill(pid, signal.SIGKILL)
        self._runs[node].wait()

    def status(self, node: int) -> dict[str, Any]:
        folder = client.find(str(self._folder / f"run{node}"))
        data: dict[str, Any] = client.ask(folder, "status", (), PATIENCE).data
        return data

    def cluster(self, node: int) -> dict[str, Any]:
        found: dict[str, Any] = self.status(node)["gateway"]["cluster"]
        return found

    def _are_connected(self, count: int) -> bool:
        try:
            found = [self.cluster(node) for node in range(count)]
        except (client.NoRunError, client.RequestRefusedError, TimeoutError):
            return False
        # The status is None while a gateway does not answer.
        others = [len(each["nodes"]) for each in found if each and each["state"] == "connected"]
        return others == [count - 1] * count

    def wait_connected(self) -> None:
        self.wait("all to be connected again", lambda: self._are_connected(NODES))

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > until:
                text = (self._folder / "log").read_text(errors="replace")
                raise CannotMake(f"waited in vain for {what}\n{text}")
            time.sleep(0.1)

    def close(self) -> None:
        for run in self._runs:
            if run.poll() is None:
                run.terminate()
        for run in self._runs:
            try:
                run.wait(20)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
        if self._nats is not None and self._nats.poll() is None:
            self.kill_nats()
        self._log.close()


class Drill:
    """The clients, the lines that they have sent, and the checks."""

    def __init__(self, cluster: Cluster, conns: int, rate: float) -> None:
        self.cluster = cluster
        self.members = [Member(n % NODES) for n in range(conns)]
        self.breaches: list[str] = []
        self._pause = NODES * PUBLISHERS / rate
        self._sent: dict[bytes, int] = {}
        self._publishers: dict[bytes, Member] = {}
        for node in range(NODES):
            own = [each for each in self.members if each.node == node]
            for n in range(PUBLISHERS):
                name = b"p%d.%d" % (node, n)
                self._publishers[name] = own[n]
                self._sent[name] = 0

    async def connect(self) -> None:
        for member in self.members:
            await member.connect(self.cluster.socket(member.node))
        await self.wait("all members", self._all_known)
        # Publish once, so that each stream is known before the first failure.
        self._publish_all()
        await self._settle()

    async def _all_known(self) -> bool:
        return [await self.members[n].count() for n in range(NODES)] == [len(self.members)] * NODES

    def _publish_all(self) -> None:
        for name, member in self._publishers.items():
            self._sent[name] += 1
            member.say(b"%s %d" % (name, self._sent[name]))

    async def publish(self, seconds: float, acts: list[tuple[float, Callable[[], None]]]) -> None:
        """Publish on schedule, and act at these times."""
        began = time.monotonic()
        turn = 0
        while (now := time.monotonic() - began) < seconds:
            while acts and now >= acts[0][0]:
                await asyncio.to_thread(acts.pop(0)[1])
            self._publish_all()
            turn += 1
            await asyncio.sleep(max(0.0, began + turn * self._pause - time.monotonic()))
        for _, act in acts:
            await asyncio.to_thread(act)

    async def _settle(self) -> None:
        """Wait until every member has the last line of every publisher."""

        async def is_so() -> bool:
            return all(
                member.seen.get(name, [0, 0])[1] == sent
                for member in self.members
                for name, sent in self._sent.items()
            )

        await self.wait("the last lines", is_so)

    async def wait(self, what: str, is_so: Callable[[], Any]) -> None:
        until = time.monotonic() + PATIENCE
        while not await is_so():
            if time.monotonic() > until:
                raise CannotMake(f"waited in vain for {what}")
            await asyncio.sleep(0.05)

    async def end_phase(self, name: str) -> None:
        """After the failure, a last line of each publisher shows what was missed. All missing
        lines must be counted.
        """
        await asyncio.to_thread(self.cluster.wait_connected)
        self._publish_all()
        await self._settle()
        # The agents send their counts to their gateways once a second.
        await asyncio.sleep(2.5)
        lost = [self._lost(node) for node in range(NODES)]
        counts = [self.cluster.cluster(node)["counts"] for node in range(NODES)]
        counted = [
            sum(each["not_sent"] for n, each in enumerate(counts) if n != node)
            + counts[node]["missed"]
            + counts[node]["undelivered"]
            for node in range(NODES)
        ]
        if lost != counted:
            self.breaches.append(f"{name}: {lost} were lost, and {counted} counted")
        sent = sum(self._sent.values())
        delivered = sum(each[0] for member in self.members for each in member.seen.values())
        wrong = sum(len(member.wrong) for member in self.members)
        missed = [each["missed"] for each in counts]
        not_sent = [each["not_sent"] for each in counts]
        print(
            f"{name}: {sent} published so far, {delivered} delivered, {wrong} duplicated or "
            f"reordered; lost on the way to each node {lost}: not sent by each {not_sent}, "
            f"missed by each {missed}",
            flush=True,
        )

    def _lost(self, node: int) -> int:
        """The number of lines that did not reach a node. All its clients must have the same
        lines.
        """
        own = [member for member in self.members if member.node == node]
        first = own[0]
        for member in own:
            if member.seen != first.seen:
                self.breaches.append(f"two clients of node {node} differ")
                break
        lost = 0
        for name, sent in self._sent.items():
            away = sent - first.seen[name][0]
            if self._publishers[name].node != node:
                lost += away
            elif away:
                self.breaches.append(f"node {node} has lost {away} lines of its own {name!r}")
        return lost

    async def end_presence(self, name: str, left: int, back: int) -> None:
        """Check that handlers were told of that many members of other nodes, once in the cluster
        for each.
        """
        first = {member.node: member for member in reversed(self.members)}
        for word, many in ((b"left", left), (b"back", back)):
            told: list[str] = []
            until = time.monotonic() + PATIENCE
            while len(told) < many and time.monotonic() < until:
                for member in first.values():
                    told += await member.told(word)
                await asyncio.sleep(0.05)
            if len(told) != many or len(set(told)) != many:
                text = f"handlers were told of {len(told)} and not {many} members: {word.decode()}"
                self.breaches.append(f"{name}: {text}; {len(set(told))} different ones")

    async def kill_node(self, node: int) -> None:
        """Kill a node. The other nodes must stop counting its members in time, and continue."""
        left = [member for member in self.members if member.node != node]
        await asyncio.to_thread(self.cluster.kill_node, node)
        began = time.monotonic()
        while await left[0].count() != len(left):
            await asyncio.sleep(0.05)
            if time.monotonic() - began > PATIENCE:
                break
        took = time.monotonic() - began
        if took > GONE_WITHIN:
            self.breaches.append(f"the members of a dead node were counted for {took:.1f} s")
        gone, self.members = len(self.members) - len(left), left
        await self.end_presence("one node killed", gone, 0)
        known = time.monotonic() - began
        for name in [name for name, each in self._publishers.items() if each.node == node]:
            del self._publishers[name], self._sent[name]
        for _ in range(5):
            self._publish_all()
        await self._settle()
        print(f"one node killed: its members were gone after {took:.1f} s", flush=True)
        print(f"handlers of one other node were told so, all after {known:.1f} s", flush=True)

    async def close(self) -> None:
        for member in self.members:
            await member.close()
            self.breaches += member.wrong


async def drill(cluster: Cluster, conns: int, rate: float, quick: bool) -> list[str]:
    made = Drill(cluster, conns, rate)
    await made.connect()
    print(f"{conns} members in one group at {NODES} nodes", flush=True)
    calm, cut = (1.0, 6.0) if quick else (5.0, 10.0)
    await made.publish(calm, [])
    await made.end_phase("calm")
    acts = [(0.5, cluster.kill_nats), (0.5 + calm, cluster.start_nats)]
    await made.publish(2 * calm + 1.0, acts)
    await made.end_phase(f"NATS killed, away for {calm:g} s")
    await made.end_presence("NATS killed", 0, 0)
    acts = [(0.5, lambda: cluster.star.cut(1)), (0.5 + cut, lambda: cluster.star.heal(1))]
    await made.publish(cut + 2.0, acts)
    await made.end_phase(f"a cable cut for {cut:g} s")
    there = sum(member.node == 1 for member in made.members)
    await made.end_presence("a cable cut", there, there)
    await made.kill_node(2)
    await made.close()
    return made.breaches


def main() -> int:
    """Run the drill; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--conns", type=int, default=300)
    parser.add_argument("--rate", type=float, default=27.0, help="lines a second, of all")
    args = parser.parse_args()
    if shutil.which("nats-server") is None:
        print("cannot: there is no nats-server: apt install nats-server", file=sys.stderr)
        return CANNOT
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="wsraw-") as folder, Star(NODES) as star:
            cluster = Cluster(star, Path(folder))
            try:
                cluster.start()
                breaches = asyncio.run(drill(cluster, args.conns, args.rate, args.quick))
            finally:
                cluster.close()
    except CannotMake as error:
        print(f"cannot: {error}", file=sys.stderr)
        return CANNOT
    print("\n".join(breaches[:20]) or "no breach", flush=True)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
