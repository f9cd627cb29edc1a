"""Under load, workers are stopped or killed, and no client may notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.load import Client, Load, RawClient, WebClient, echo
from tests.e2e.serving import ECHO, Serving, linux, serve
from tests.needs import KILL, signals
from tests.running import is_alive

pytestmark = linux

MIB = 1 << 20

COUNTS = """
    def on_message(msg, con):
        # A raw chunk may hold a part of a message, or several: 64 bytes each.
        n, rest = con.state or (0, b"")
        rest += msg["data"]
        while len(rest) >= 64:
            con.send(rest[:64] + b"%08d" % n)
            n, rest = n + 1, rest[64:]
        con.state = (n, rest)
"""


def counted(data: bytes, n: int) -> bytes:
    """The answer of COUNTS, with a number that is kept in con.state."""
    return data + b"%08d" % n


@pytest.mark.long
@signals
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_worker_delays_messages_and_loses_none(workers: int) -> None:
    with serve(ECHO, workers=workers) as serving:
        asyncio.run(stand_still(serving))


async def stand_still(serving: Serving) -> None:
    talkers = Load([kind(64, 0.05, echo) for kind in [WebClient] * 20 + [RawClient] * 5])
    # Each pusher sends 24 MiB, more than the gateway takes while no worker handles it.
    pushers = Load([kind(16384, 0, echo) for kind in [WebClient, WebClient, RawClient]], 1536)
    async with talkers, pushers:
        await talkers.start(serving)
        await talkers.more(500)
        before = serving.rss()
        worker = serving.worker(1)
        os.kill(worker, signal.SIGSTOP)
        try:
            await pushers.start(serving)
            most = await watch(serving, talkers, pushers)
            if len(workers(serving)) == 1:
                # Reading is paused: buffers hold what was sent so far, and the rest waits.
                assert pushers.answered == 0
                assert all(client.sent < 1536 for client in pushers.clients)
            assert most - before < 16 * MIB, f"{(most - before) / MIB:.1f} MiB more"
        finally:
            os.kill(worker, signal.SIGCONT)
        await pushers.finish()
        await talkers.more(500)
        await talkers.finish()


async def watch(serving: Serving, *loads: Load) -> int:
    """Watch the memory for the five seconds of the stop; returns the most that was used."""
    most = 0
    clock = asyncio.get_running_loop().time
    until = clock() + 5
    while clock() < until:
        await asyncio.sleep(0.1)
        for load in loads:
            load.check()
        most = max(most, serving.rss())
    return most


def test_killed_workers_lose_double_and_reorder_nothing(handlers: Callable[[str], Path]) -> None:
    with serve(handlers(COUNTS), workers=2) as serving:
        asyncio.run(kill_workers(serving))


async def kill_workers(serving: Serving) -> None:
    async with Load(counting_clients()) as load:
        await load.start(serving)
        await load.more(500)
        for n in range(4):
            os.kill(next(filter(is_alive, workers(serving))), KILL)
            await load.until(lambda n=n: str(serving).count(" is ready (") == 3 + n)
            await load.more(500)
        await load.finish()


def counting_clients() -> list[Client]:
    return [kind(64, 0.02, counted) for kind in [WebClient] * 15 + [RawClient] * 5]


def workers(serving: Serving) -> list[int]:
    return serving.run.pids("worker [0-9]+")


def test_all_workers_killed_at_once_are_waited_for(handlers: Callable[[str], Path]) -> None:
    with serve(handlers(COUNTS), workers=2) as serving:
        asyncio.run(kill_all(serving))


async def kill_all(serving: Serving) -> None:
    async with Load(counting_clients()) as load:
        await load.start(serving)
        await load.more(500)
        for pid in workers(serving):
            os.kill(pid, KILL)
        await load.until(lambda: str(serving).count(" is ready (") == 4)
        await load.more(500)
        await load.finish()
