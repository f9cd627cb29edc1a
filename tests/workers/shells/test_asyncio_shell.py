"""The shell of async handlers in a loop whose clock only the handlers move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deadline import DEADLINE
from tests.workers.conftest import Pair, con_id, message, take_acks
from wsraw.link.records import Drain, Event, OnClose, OnError, OnRequest, Stats
from wsraw.testing.memory import MemoryDealer
from wsraw.workers.shells import asyncio_shell
from wsraw.workers.shells.asyncio_shell import AsyncioShell
from wsraw.workers.shells.shell import Stopper

UNIT = 2**-17
"""Seconds on that clock, so short that everything is in one run of the shell."""

HANDLERS = """
import asyncio
now = 0.0

def take(units):
    global now
    now += units * 2**-17

async def on_message(msg, con):
    first, waits, rest, later = map(int, msg["data"].split())
    take(first)
    if waits:
        await asyncio.sleep(0)
        take(rest)
    if later:
        asyncio.get_running_loop().call_soon(take, later)
"""


@pytest.fixture
def dealer() -> Iterator[MemoryDealer]:
    made = MemoryDealer(b"identity")
    yield made
    made.close()


class Driven:
    """A shell with a gateway in memory."""

    def __init__(self, pair: Pair, dealer: MemoryDealer) -> None:
        self.pair, self.dealer = pair, dealer
        self.commands: list[Any] = []
        self.shell = AsyncioShell(pair.runtime, dealer, Stopper(dealer.bell), 64)

    def run(self, *batches: list[Event]) -> list[Stats]:
        """Handle batches, with time between them that belongs to no handler. Returns the
        statistics of the handlers.
        """
        # A worker uses this loop, too, as the default loop of Windows watches no sockets.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(asyncio.wait_for(self._run(batches), DEADLINE))
        return [each for each in self.commands if type(each) is Stats]

    async def _run(self, batches: tuple[list[Event], ...]) -> None:
        serving = asyncio.create_task(self.shell.serve())
        gateway = self.pair.gateway
        for batch in batches:
            self.pair.module.now += 1000 * UNIT
            for event in batch:
                gateway.deliver(event, None, 0, 0.0)
            self._tell()
            while gateway.window.in_flight:
                await asyncio.sleep(0)
                self._take()
        gateway.notice(Drain(1.0))
        self._tell()
        await serving
        self._take()

    def _tell(self) -> None:
        batch = self.pair.gateway.data_to_send()
        assert batch is not None
        self.dealer.put(batch)

    def _take(self) -> None:
        while self.dealer.sent:
            self.commands += take_acks(self.pair.gateway, self.dealer.sent.popleft())


def event(n: int, text: str) -> Event:
    """A message of connection n, or with - of connection 1. Missing numbers are 0."""
    numbers = text.lstrip("-").split()
    data = " ".join([*numbers, *["0"] * (4 - len(numbers))])
    return message(1 if text[0] == "-" else n, data.encode())


@pytest.mark.parametrize(
    ("batches", "units", "slow"),
    [
        ([["1"], ["2"]], 3, 0),
        ([["1", "2", "4"]], 7, 0),
        ([["1", "20", "1"]], 22, 1),
        # The second handler waits while the third runs.
        ([["1", "2 1 4", "16"]], 1 + (2 + 16 + 4) + 16, 2),
        # The time of later work does not count for the next call, nor for the next batch.
        ([["1 0 0 100", "2"], ["4"]], 7, 0),
        # One connection.
        ([["1 0 0 100", "-2 0 0 100", "-4"], ["-8"]], 15, 0),
    ],
    ids=["alone", "neighbours", "slow", "waiting", "others", "one after the other"],
)
def test_each_call_takes_its_own_time(
    pair: Callable[..., Pair],
    dealer: MemoryDealer,
    monkeypatch: pytest.MonkeyPatch,
    batches: list[list[str]],
    units: int,
    slow: int,
) -> None:
    p = pair(HANDLERS)
    monkeypatch.setattr(asyncio_shell, "monotonic", lambda: p.module.now)
    told = Driven(p, dealer).run(
        *[[event(n, text) for n, text in enumerate(batch, 1)] for batch in batches]
    )
    assert sum(each.calls for each in told) == sum(map(len, batches))
    assert sum(each.seconds for each in told) == units * UNIT
    assert sum(sum(each.slower) for each in told) == slow


@pytest.mark.parametrize("word", ["def", "async def"])
def test_the_end_of_a_request_is_no_call(
    pair: Callable[..., Pair], dealer: MemoryDealer, word: str
) -> None:
    p = pair(f"""
import time
UNIT = now = 1.0
{word} on_request(request, con): return "hello"
{word} on_error(error_message, con): 1 / 0
{word} on_close(con): 1 / 0
async def on_message(msg, con): ...
""")
    inf = {"method": "GET", "url": "/", "Protocol": "http"}
    asked = OnRequest(0, con_id(1), inf, about={"kind": "http"})
    ends = [OnError(0, con_id(1), "lost"), OnClose(0, con_id(1), 1006, "", "lost")]
    told = Driven(p, dealer).run([asked, *ends])
    assert [(each.handler, each.calls, each.exceptions) for each in told] == [("on_request", 1, 0)]
