"""I/O. The load: verified clients on a fixed schedule, in one process and one asyncio loop.

A message is due at a fixed time, whatever the server does, and its latency is measured from that
time. So a server that stalls cannot slow down its own test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final

from wsraw.runtime.clock import monotonic
from wsraw.tools.drill.figures import Figures
from wsraw.tools.drill.load.clients import (
    NOT_CLOSED,
    Address,
    Client,
    HangClient,
    VerifiedClient,
)
from wsraw.tools.drill.load.schedule import Schedule
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.close_records import CloseRecords

OPEN_TIMEOUT: Final = 30.0
ANSWER_TIMEOUT: Final = 30.0
"""Seconds without any answer after which the missing ones are lost."""
CLOSE_TIMEOUT: Final = 15.0
"""Seconds without any end of a connection, seen or reported, after which the missing ones are
lost: workers are killed meanwhile, and each new one handles what it can."""
HANG_TIMEOUT: Final = 60.0
"""Seconds after the load until the connection of the last hang must be closed."""

CONNECTING_AT_ONCE: Final = 64
RECONNECT_AFTER: Final = 0.2
POLL_INTERVAL: Final = 0.02


class Phase(Enum):
    """The phases of the load, in order."""

    OPENING = "connecting"
    LOAD = "load"
    ANSWERS = "waiting for answers"
    CLOSING = "closing"


def _nothing() -> None:
    pass


class Load:
    """The load of one drill."""

    def __init__(
        self,
        plan: Plan,
        address: Address,
        timeouts: float = 1.0,
        close_log: CloseLog | None = None,
    ) -> None:
        """`timeouts` is a factor of all time limits. `close_log`: where the drill's handlers write
        each on_close; without it, on_close is not checked."""
        self.plan = plan
        self.phase = Phase.OPENING
        self.figures = Figures()
        self.close_records = CloseRecords(plan.kill_gateway_every > 0, plan.workers_die)
        self.schedule = Schedule(plan.websockets + plan.raw, plan.rate, plan.seconds)
        self.stopped = 0.0
        kinds = ["websocket"] * plan.websockets + ["raw"] * plan.raw
        self._verified = [
            VerifiedClient(address, kind, number, plan.size, self.schedule, self.figures)
            for number, kind in enumerate(kinds)
        ]
        self.hang_client = HangClient(address, plan.hang_every) if plan.hang_every else None
        self._clients: list[Client] = [*self._verified]
        if self.hang_client is not None:
            self._clients.append(self.hang_client)
        self._close_log = close_log
        self._timeouts = timeouts
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._interrupts = 0

    async def run(
        self,
        on_load: Callable[[], object] = _nothing,
        on_sent: Callable[[], object] = _nothing,
    ) -> None:
        """Run all phases. `on_load` is called when the first message is due, `on_sent` after the
        last one. Raises DrillError."""
        tasks = {client: asyncio.create_task(self._serve(client)) for client in self._clients}
        try:
            await self._open(list(tasks.values()))
            on_load()
            await self._send()
            on_sent()
            await self._wait_for_answers()
            await self._close(tasks)
        finally:
            for client, task in tasks.items():
                task.cancel()
                client.abort()
            for result in await asyncio.gather(*tasks.values(), return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        self.close_records.match()

    def interrupt(self) -> None:
        """End the load early and wait for the answers; the second time, stop at once. May be called
        in any thread."""
        self._interrupts += 1

    async def _sleep(self, seconds: float = POLL_INTERVAL) -> None:
        await asyncio.sleep(seconds)
        if self._interrupts > (self.phase is not Phase.OPENING):
            raise DrillError("interrupted")

    @property
    def checks_closes(self) -> bool:
        """Whether the handlers report each on_close."""
        return self._close_log is not None and self._close_log.exists()

    # --- phases ---

    async def _open(self, tasks: list[asyncio.Task[None]]) -> None:
        until = monotonic() + OPEN_TIMEOUT * self._timeouts
        while missing := sum(not client.is_open for client in self._clients):
            for task in tasks:
                if task.done():
                    # Raise the reason why its client could not connect.
                    task.result()
            if monotonic() >= until:
                raise DrillError(f"{missing} of {len(tasks)} connections did not open")
            await self._sleep()

    async def _send(self) -> None:
        """Send each message when it is due."""
        self.phase = Phase.LOAD
        figures, schedule = self.figures, self.schedule
        now = schedule.started = monotonic()
        if self.hang_client is not None:
            self.hang_client.start(now)
        while not schedule.is_over and not self._interrupts:
            for number, due in schedule.due(now):
                figures.late = max(figures.late, now - due)
                client = self._verified[number]
                if client.is_open:
                    client.send_next(due)
                else:
                    figures.unsent += 1
            if self.hang_client is not None:
                figures.hangs += self.hang_client.hang(now)
            await self._sleep(min(max(0.0, schedule.next_due - now), POLL_INTERVAL))
            now = monotonic()
        self.stopped = now

    async def _wait_for_answers(self) -> None:
        self.phase = Phase.ANSWERS
        pause = self.figures.pause
        while True:
            now = monotonic()
            missing = any(each.checker.outstanding for each in self._verified if each.is_open)
            last = max(pause.since or 0.0, self.stopped)
            is_late = now >= last + ANSWER_TIMEOUT * self._timeouts
            hanging = self.hang_client is not None and self.hang_client.busy
            is_hanging = hanging and now < self.stopped + HANG_TIMEOUT * self._timeouts
            if (is_late or not missing) and not is_hanging:
                break
            await self._sleep()
        for each in (pause, *(client.pause for client in self._verified)):
            each.arrived(now, False)

    async def _close(self, tasks: dict[Client, asyncio.Task[None]]) -> None:
        self.phase = Phase.CLOSING
        timeout = CLOSE_TIMEOUT * self._timeouts
        last, before = monotonic(), 0
        while True:
            for client in self._clients:
                client.close()
            reports = self._close_log.read() if self._close_log is not None else []
            for report in reports:
                self.close_records.report(report)
            reported = not self.checks_closes or self.close_records.all_reported()
            ended = sum(task.done() for task in tasks.values())
            if reported and ended == len(tasks):
                break
            if reports or ended > before:
                last, before = monotonic(), ended
            elif monotonic() >= last + timeout:
                break
            await self._sleep()
        for client, task in tasks.items():
            if client.connected and not task.done():
                self._record_end(client, NOT_CLOSED)
        self.figures.connection_pause = max(client.pause.longest for client in self._verified)

    # --- connections ---

    async def _serve(self, client: Client) -> None:
        """Keep a client connected until the load is over; the server closes it at the end."""
        while True:
            async with self._connecting:
                how = await client.connect()
            if not how:
                how = await client.ended
                self._record_end(client, "" if client.closed_in_order else how)
            elif self.phase is not Phase.OPENING:
                self._record_failed_connect(how)
            if self.phase is Phase.OPENING:
                raise DrillError(how)
            if self.phase is Phase.LOAD:
                await asyncio.sleep(RECONNECT_AFTER)
            if self.phase is not Phase.LOAD:
                return

    def _record_failed_connect(self, how: str) -> None:
        # While a gateway is replaced no connect is refused, but an accepted one can be lost.
        was_accepted = not how.startswith("connect: ")
        if was_accepted and self.plan.kill_gateway_every:
            self.figures.connects_lost += 1
        else:
            self.figures.refused[how] += 1

    def _record_end(self, client: Client, how: str) -> None:
        self.close_records.ended(client.end(how, self.close_records.looks_lost(how)))
