"""Features that authors of handlers rely on, in real runs: streams, timers of a pool,
cancellation.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, UNIT, eventually
from tests.e2e.serving import linux, posix
from wsraw.testing import Server

STREAM = """
SIZE = {size}
CHUNK = 256 * 1024

def piece(at):
    # Each eight bytes say where they are.
    return b"".join(n.to_bytes(8, "big") for n in range(at // 8, min(at + CHUNK, SIZE) // 8))

{define} on_message(msg, con):
    con.state = con.state or 0
    while con.state < SIZE:
        data = piece(con.state)
        con.send(data)
        con.state += len(data)
        if not {wait}:
            return
    con.close()
"""
PLAIN = {"define": "def", "wait": "con.drained().result(timeout=None)"}
ASYNC = {"define": "async def", "wait": "await con.drained()"}


class Reader:
    """Reads a stream of numbers, and checks each byte."""

    def __init__(self, client: socket.socket) -> None:
        self.at = 0
        self._client = client
        self._rest = b""

    def read_to(self, end: int, seconds: float = 0.0) -> None:
        """Read up to that position, spread over about that many seconds."""
        steps, begin = end - self.at, self.at
        until = time.monotonic() + seconds
        while self.at < end:
            data = self._client.recv(1 << 16)
            assert data, f"it ended at {self.at} of {end}"
            data = self._rest + data
            numbers = range(self.at // 8, self.at // 8 + len(data) // 8)
            whole = b"".join(n.to_bytes(8, "big") for n in numbers)
            assert data.startswith(whole), f"other bytes at {self.at}"
            self.at += len(whole)
            self._rest = data[len(whole) :]
            due = until - seconds * (1 - (self.at - begin) / steps)
            time.sleep(max(0.0, due - time.monotonic()))


def resident(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.long
@linux
@pytest.mark.parametrize("handlers", [PLAIN, ASYNC], ids=["plain", "async"])
def test_a_long_stream_survives_its_worker_and_takes_little_memory(
    handlers: dict[str, str], tmp_path: Path
) -> None:
    size = 32 << 20
    (tmp_path / "stream.py").write_text(STREAM.format(size=size, **handlers))
    file = tmp_path / "stream.py"
    with (
        Server(file, workers=2, timeout=DEADLINE, handler_timeout="1s") as server,
        server.raw() as client,
    ):
        client.settimeout(DEADLINE)
        gateway = server.status()["gateway"]["pid"]
        before = resident(gateway)
        client.sendall(b"go")
        reader = Reader(client)
        # Reading takes longer than `handler_timeout`.
        reader.read_to(size // 2, seconds=4.0)
        assert resident(gateway) - before < size // 4
        server.kill_worker(mid_event=True)
        reader.read_to(size)
        assert client.recv(1) == b""
        assert "hang" not in server.log


TIMER = """
import os
import time
import wsraw

def on_connect(inf, con):
    con.join("all")

@wsraw.every({seconds}, once=True)
{define} beat():
    wsraw.publish("all", f"{{os.getpid()}} {{time.monotonic()}}\\n")
"""


@posix
@pytest.mark.parametrize("define", ["def", pytest.param("async def", marks=pytest.mark.long)])
def test_a_timer_of_the_pool_is_called_by_one_worker_after_the_other(
    define: str, tmp_path: Path
) -> None:
    seconds = 0.2 * UNIT
    (tmp_path / "timer.py").write_text(TIMER.format(seconds=seconds, define=define))
    with (
        Server(tmp_path / "timer.py", workers=3, timeout=DEADLINE) as server,
        server.raw() as client,
        client.makefile("r") as lines,
    ):
        client.settimeout(DEADLINE)
        client.sendall(b"x")
        calls = [float(lines.readline().split()[1]) for _ in range(11)]
        # With a timer in each of three workers, ten calls would take a third of this time.
        assert calls[10] - calls[0] > 10 * seconds * 0.6
        for _ in range(2):
            server.kill_worker()
        server.reload()
        alive = {who["pid"] for who in server.status()["workers"]}
        eventually(lambda: int(lines.readline().split()[0]) in alive, "a call of a new worker")


HANGS = """
import asyncio

async def deeper():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        if not {gives_up}:
            await asyncio.sleep(3600)
        raise

async def on_message(msg, con):
    if msg["data"] == "hang":
        await deeper()
    return msg["data"]
"""


def test_an_async_handler_that_takes_too_long_is_cancelled_and_its_worker_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS.format(gives_up=True))
    with (
        Server(tmp_path / "hangs.py", timeout=DEADLINE, handler_timeout="1s") as server,
        server.connect() as hangs,
        server.connect() as other,
    ):
        [worker] = server.status()["workers"]
        hangs.send("hang")
        server.wait_for_line(r"TimeoutError: the handler was cancelled")
        assert re.search(r"the handler of connection \d+ awaits:(.*\n)+.*deeper", server.log)
        other.send("alive")
        assert other.recv(DEADLINE) == "alive"
        assert [who["pid"] for who in server.status()["workers"]] == [worker["pid"]]
        with pytest.raises(Exception, match="1011"):
            hangs.recv(DEADLINE)


@pytest.mark.long
def test_a_worker_whose_handler_does_not_end_when_it_is_cancelled_is_killed(
    tmp_path: Path,
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS.format(gives_up=False))
    with (
        Server(
            tmp_path / "hangs.py", timeout=DEADLINE, handler_timeout="1s", max_deliveries=1
        ) as server,
        server.connect() as hangs,
    ):
        hangs.send("hang")
        server.wait_for_line(r"has run for \d+ s")
        with pytest.raises(Exception, match="1011"):
            hangs.recv(DEADLINE)
