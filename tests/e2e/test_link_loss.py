"""The network between gateway and worker is cut, stalled and restored, under load.

The tests use both links of the gateway: TCP with keys, as from another machine, and a unix socket,
as from a container.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e.load import Client, Load, RawClient, WebClient, echo
from tests.e2e.remote import Keys, Network, RemoteWorker, endpoint, gateway
from tests.e2e.serving import Serving, linux
from tests.needs import HAS_SIGNALS

pytestmark = linux

CLIENTS = 12


def clients() -> list[Client]:
    return [(WebClient, RawClient)[n % 2](60, 0.01, echo) for n in range(CLIENTS)]


def sessions(serving: Serving) -> list[dict[str, object]]:
    return serving.status()["by_hand"]


async def until_sessions(serving: Serving, load: Load, count: int) -> None:
    """Continue under load until that many workers from other machines have a session."""
    until = time.monotonic() + DEADLINE
    while len(await asyncio.to_thread(sessions, serving)) != count:
        await load.more(1)
        assert time.monotonic() < until, f"not {count} sessions\n{serving}"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    for name in ("alice", "bob"):
        made.add(name)
    return made


LINKS = ("remote", "local")


def socket_of(serving: Serving, link: str) -> str:
    """The endpoint for workers that are started by hand."""
    return serving.link if link == "local" else endpoint(serving)


def allowed(serving: Serving, link: str, keys: Keys, name: str) -> list[str]:
    """The options of a worker that may connect to that endpoint."""
    if link == "remote":
        return keys.of_worker(name)
    assert serving.folder is not None
    return [f"--token={(serving.folder / 'token').read_text().strip()}"]


def sessions_begun(serving: Serving) -> int:
    """How many workers that were started by hand have become ready so far."""
    return len(re.findall(r"worker (?!1 )\w+ .*is ready", str(serving)))


def connect(stack: ExitStack, serving: Serving, link: str, keys: Keys) -> Network:
    """Two workers that were started by hand, behind a network of their own."""
    network = stack.enter_context(Network(socket_of(serving, link)))
    for name in ("alice", "bob"):
        options = allowed(serving, link, keys, name)
        stack.enter_context(RemoteWorker(f"--connect={network.endpoint}", *options))
    eventually(lambda: sessions_begun(serving) == 2, "both to be ready")
    return network


def run(serving: Serving, act: Callable[[Load], Awaitable[None]]) -> None:
    """Run the load and the faults; every answer is checked for content and order."""

    async def main() -> None:
        async with Load(clients()) as load:
            await load.start(serving)
            await load.more(50)
            await act(load)
            await load.more(200)
            await load.finish()

    asyncio.run(main())


@pytest.mark.parametrize("link", ["local", pytest.param("remote", marks=pytest.mark.long)])
def test_links_that_are_cut_repeatedly_lose_nothing(link: str, keys: Keys) -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(gateway(*keys.of_gateway()))
        network = connect(stack, serving, link, keys)

        async def cut(load: Load) -> None:
            for _ in range(10):
                made = network.made
                network.cut()
                # Both workers have connected again.
                await load.until(lambda: network.made >= made + 2)  # noqa: B023
                # An event in flight during three cuts would become a dead letter, as documented.
                await load.caught_up()
            await until_sessions(serving, load, 2)

        async def go_on(load: Load) -> None:
            await load.more(50)

        run(serving, cut)
        # New clients go to the worker with the fewest connections.
        run(serving, go_on)
        seen = serving.status()
        assert seen["gateway"]["dead_letters"] == 0, serving
        names = {(each["key"], each["address"]) for each in seen["by_hand"]}
        who = {"remote": {("alice", "127.0.0.1"), ("bob", "127.0.0.1")}, "local": {("", "")}}
        assert names == who[link]
        # A worker that reconnects keeps its instance, on either link.
        instances = {each["instance"] for each in seen["by_hand"]}
        assert len(instances) == 2
        assert sum(each["acked"] for each in seen["by_hand"]) > 0


@pytest.mark.long
@pytest.mark.parametrize("link", LINKS)
def test_a_network_that_is_down_for_a_while_loses_nothing(link: str, keys: Keys) -> None:
    """All workers behind the network are lost at once; the local worker continues."""
    with ExitStack() as stack:
        serving = stack.enter_context(gateway(*keys.of_gateway()))
        network = connect(stack, serving, link, keys)

        async def away(load: Load) -> None:
            network.away = True
            network.cut()
            await until_sessions(serving, load, 0)
            await load.more(100)
            network.away = False
            await until_sessions(serving, load, 2)

        run(serving, away)
        assert serving.status()["gateway"]["dead_letters"] == 0, serving


def test_heartbeats_detect_a_network_that_carries_nothing(keys: Keys) -> None:
    """The stalled network sends no FIN and no RST, only silence. Late batches must have no
    effect.
    """
    with ExitStack() as stack:
        serving = stack.enter_context(gateway(*keys.of_gateway(), "--worker-heartbeat=0.8"))
        network = connect(stack, serving, "remote", keys)

        async def stall(load: Load) -> None:
            for _ in range(2):
                network.stalled = True
                # Other workers get their events: every client is answered during the stall.
                await until_sessions(serving, load, 0)
                await load.more(100)
                network.stalled = False
                await until_sessions(serving, load, 2)
                await load.more(50)

        run(serving, stall)
        assert serving.status()["gateway"]["dead_letters"] == 0, serving
        serving.run.line(r"worker \w+ \(alice at 127.0.0.1\) is gone; its events go to others")


@pytest.mark.long
@pytest.mark.parametrize("link", LINKS)
def test_a_worker_that_was_started_by_hand_is_killed_and_loses_nothing(
    link: str, keys: Keys
) -> None:
    """The end of its link reports the death, not a supervisor. A worker that is only stopped is
    not dead.
    """
    with ExitStack() as stack:
        serving = stack.enter_context(gateway(*keys.of_gateway()))
        options = [f"--connect={socket_of(serving, link)}", *allowed(serving, link, keys, "alice")]
        workers = [stack.enter_context(RemoteWorker(*options))]

        async def kill(load: Load) -> None:
            for n in range(1, 6):
                await load.until(lambda: sessions_begun(serving) == n)  # noqa: B023
                await load.more(30)
                workers.pop().process.kill()
                workers.append(stack.enter_context(RemoteWorker(*options)))
            await load.until(lambda: sessions_begun(serving) == 6)
            await until_sessions(serving, load, 1)

        async def stop(load: Load) -> None:
            process = workers[0].process
            for _ in range(3):
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.5)
                process.send_signal(signal.SIGCONT)
                await load.more(30)

        run(serving, kill)
        if HAS_SIGNALS:
            run(serving, stop)
        seen = serving.status()
        assert seen["gateway"]["dead_letters"] == 0, serving
        assert len(seen["by_hand"]) == 1
        assert not seen["workers"][0]["restarts"]
