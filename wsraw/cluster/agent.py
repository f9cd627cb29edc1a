"""I/O. The agent: one loop between the link of its gateway and NATS."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import socket
import time
from typing import Final

from wsraw.cluster.bus import Bus, Servers
from wsraw.cluster.core import MOST_UNTAKEN, Core
from wsraw.cluster.nodes import BEAT, Nodes
from wsraw.config.settings import Settings
from wsraw.link.batches import RECORD_COST
from wsraw.link.records import PUSHING_POOL, Drain, Figures, Record, Refused, Relay
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.bell import Bell
from wsraw.runtime.clock import monotonic
from wsraw.workers.shells.local_dealer import LocalDealer

log = logging.getLogger("wsraw.cluster")

BATCHES_PER_TURN: Final = 16
"""Batches of the gateway before other callbacks of the loop run."""

TICK: Final = 0.25
"""Seconds between two looks at the clock."""

LAST_WORDS: Final = 0.5
"""Seconds for our goodbye to reach NATS."""


class Agent:
    """An agent, until the gateway drains it."""

    def __init__(self, settings: Settings, endpoint: str, token: str) -> None:
        """Raises OSError for an invalid endpoint."""
        instance = secrets.token_hex(8)
        nodes = Nodes(settings.node, instance, time.time())
        place = f"{socket.gethostname()}, process {os.getpid()}"
        servers = Servers(
            settings.cluster,
            f"wsraw {settings.node}",
            settings.cluster_credentials,
            settings.cluster_ca,
        )
        self._link = WorkerEnd(
            pool=PUSHING_POOL, token=token, instance=instance, language=language(), window=1
        )
        self._dealer = LocalDealer(endpoint, Bell())
        self._core = Core(settings.cluster_name, nodes, place, self._refusal, self._deliver)
        self._bus = Bus(servers, self._heard, self._connected, self._core.all_subjects)
        self._unsent: bytes | None = None
        """A batch that the gateway has not accepted yet."""
        self._untaken = 0
        """Bytes of records that wait for the gateway."""
        self._flush_due = False
        self._figures_at = 0.0
        self._over: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    async def run(self) -> None:
        """Work until the gateway ends it."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._dealer.attach(self._loop, self._handle_readable)
        bus = self._loop.create_task(self._bus.run())
        clock = self._loop.create_task(self._watch_clock())
        over = self._loop.create_task(self._over.wait())
        try:
            # A bug in one of these tasks ends the process: the supervisor starts another one.
            done, _ = await asyncio.wait({bus, clock, over}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._core.bye()
            self._carry_out()
            await asyncio.sleep(LAST_WORDS if self._bus.is_connected else 0.0)
        finally:
            for task in (bus, clock, over):
                task.cancel()
            self._dealer.close(after_bye=True)

    # --- the gateway ---

    def _handle_readable(self) -> None:
        now = monotonic()
        for _ in range(BATCHES_PER_TURN):
            batch = self._dealer.receive()
            if batch is None:
                if self._dealer.is_lost:
                    self._lose(now)
                break
            before = self._link.session
            for record in self._link.receive(batch):
                self._take(record, now)
            if before and self._link.session != before:
                # The gateway does not know us any more: it sends its groups again.
                self._core.lost(now)
        else:
            self._loop.call_soon(self._handle_readable)
        self._carry_out()
        self._flush()

    def _take(self, record: Record, now: float) -> None:
        if isinstance(record, Drain):
            self._link.bye()
            self._over.set()
        elif isinstance(record, Refused):
            if record.batch:
                log.warning("the gateway has refused: %s", record.why)
            else:
                log.error("the gateway has rejected this agent: %s", record.why)
                self._over.set()
        else:
            self._core.receive(record, now)

    def _lose(self, now: float) -> None:
        self._link.lost()
        self._core.lost(now)
        self._unsent = None
        self._untaken = 0
        self._dealer.reconnect()

    def _deliver(self, relay: Relay) -> bool:
        """Queue a record for the gateway, to be sent with all others of this turn; False if too
        much waits."""
        size = len(relay.data) + RECORD_COST
        if self._untaken and self._untaken + size > MOST_UNTAKEN:
            return False
        if not self._link.command(relay, size):
            return False
        self._untaken += size
        self._flush_later()
        return True

    def _flush_later(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        while True:
            if self._unsent is None:
                self._unsent = self._link.data_to_send()
                if self._unsent is None:
                    self._untaken = 0
                    return
            if not self._dealer.send(self._unsent):
                # The dealer calls when there is room again.
                return
            self._unsent = None

    # --- NATS ---

    def _refusal(self, size: int) -> str:
        return self._bus.refusal(size)

    def _heard(self, subject: str, data: bytes) -> None:
        self._core.heard(subject, data, monotonic())
        self._carry_out()

    def _connected(self) -> None:
        self._core.connected(monotonic())
        self._carry_out()

    def _carry_out(self) -> None:
        """Carry out what the core has decided."""
        core, bus = self._core, self._bus
        if core.wanted:
            wanted, core.wanted = core.wanted, {}
            for subject, on in wanted.items():
                bus.subscribe(subject, on)
        if core.to_bus:
            to_bus, core.to_bus = core.to_bus, []
            for subject, data in to_bus:
                bus.publish(subject, data)
        if core.news:
            news, core.news = core.news, []
            for level, text in news:
                getattr(log, level)("%s", text)

    # --- the clock ---

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = monotonic()
            self._core.tick(now)
            if now - self._figures_at >= BEAT and self._link.state is LinkState.READY:
                self._figures_at = now
                self._link.command(Figures(self._figures()))
            self._carry_out()
            self._flush()

    def _figures(self) -> dict[str, object]:
        bus = self._bus
        state = "connected" if bus.is_connected else "away"
        return self._core.figures(state, bus.server, "" if bus.is_connected else bus.why)


def language() -> str:
    """For the gateway's log: the language of this program."""
    return f"python/{platform.python_version()} agent"
