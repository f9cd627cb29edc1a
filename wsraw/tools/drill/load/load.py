"""I/O. The load: verified clients on a fixed schedule, in one process and one loop.

A message is due at a fixed time, whatever the server does, and its latency counts from then on. So
a server that stalls cannot slow down its own test.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from wsraw.runtime.loop import Loop, Timer
from wsraw.tools.drill.figures import Figures
from wsraw.tools.drill.load.clients import Address, Client, HangClient, VerifiedClient
from wsraw.tools.drill.load.record import HEADER, Checker
from wsraw.tools.drill.load.schedule import Schedule
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.close_records import CloseRecords, ConnectionEnd

OPEN_TIMEOUT: Final = 30.0
ANSWER_TIMEOUT: Final = 30.0
"""Seconds without any answer after which the missing ones are lost."""
CLOSE_TIMEOUT: Final = 15.0
HANG_TIMEOUT: Final = 60.0
"""Seconds after the load until the connection of the last hang must be closed."""

NOT_CLOSED: Final = "it did not close"

CONNECTING_AT_ONCE: Final = 64
RECONNECT_AFTER: Final = 0.2
POLL_INTERVAL: Final = 0.02


class LoadError(Exception):
    """The load could not begin; the text says why."""


class Phase(Enum):
    """The phases of the load, in order."""

    OPENING = "connecting"
    LOAD = "load"
    ANSWERS = "waiting for answers"
    CLOSING = "closing"


class Connector:
    """Opens clients, a limited number at once."""

    def __init__(self) -> None:
        self._waiting: deque[Client] = deque()
        self._connecting = 0

    def open(self, *clients: Client) -> None:
        self._waiting.extend(clients)
        while self._waiting and self._connecting < CONNECTING_AT_ONCE:
            self._connecting += 1
            self._waiting.popleft().open()

    def done(self) -> None:
        """Note that a connect has succeeded or failed."""
        self._connecting -= 1
        self.open()


class Load:
    """The load of one drill."""

    def __init__(
        self,
        plan: Plan,
        address: Address,
        loop: Loop,
        timeouts: float = 1.0,
        close_log: CloseLog | None = None,
    ) -> None:
        """`timeouts` is a factor of all time limits. `close_log`: where the drill's handlers write
        each on_close; without it, on_close is not checked."""
        self.loop = loop
        self.plan = plan
        self.phase = Phase.OPENING
        self.figures = Figures()
        self.close_records = CloseRecords(plan.kills_gateways, plan.workers_die)
        self.schedule = Schedule(plan.websockets + plan.raw, plan.rate, plan.seconds)
        self.stopped = 0.0
        kinds = ["websocket"] * plan.websockets + ["raw"] * plan.raw
        self.clients = [
            VerifiedClient(self, address, kind, number, plan.size)
            for number, kind in enumerate(kinds)
        ]
        self.hang_client = HangClient(self, address, plan.hang_every) if plan.hang_every else None
        self._close_log = close_log
        self._timeouts = timeouts
        self._connector = Connector()
        self._outstanding = 0
        self._until = 0.0
        self._timer: Timer | None = None
        self._on_load: Callable[[], object] = lambda: None
        self._on_sent: Callable[[], object] = lambda: None
        self._error = ""
        self._interrupted = False

    def run(
        self,
        on_load: Callable[[], object] = lambda: None,
        on_sent: Callable[[], object] = lambda: None,
    ) -> None:
        """Run all phases. `on_load` is called when the first message is due, `on_sent` after the
        last one. Raises LoadError."""
        self._on_load = on_load
        self._on_sent = on_sent
        self.loop.before_sleep = self._before_sleep
        self._enter(Phase.OPENING, OPEN_TIMEOUT)
        self._connector.open(*self._all_clients())
        self.loop.run()
        for client in self._all_clients():
            client.abort()
        if self._error:
            raise LoadError(self._error)
        self.close_records.match()

    def interrupt(self) -> None:
        """End the load early and wait for the answers; the second time, stop at once."""
        if self._interrupted or self.phase is Phase.OPENING:
            self._fail("interrupted")
        self._interrupted = True

    def _fail(self, why: str) -> None:
        self._error = why
        self.loop.stop()

    def _all_clients(self) -> list[Client]:
        return [*self.clients, *([self.hang_client] if self.hang_client is not None else [])]

    @property
    def checks_closes(self) -> bool:
        """Whether the handlers report each on_close."""
        return self._close_log is not None and self._close_log.exists()

    # --- phases ---

    def _enter(self, phase: Phase, timeout: float = 0.0) -> None:
        self.phase = phase
        self._until = time.monotonic() + timeout * self._timeouts

    def _before_sleep(self, loop_now: float) -> bool:
        now = time.monotonic()
        wake_in = POLL_INTERVAL
        match self.phase:
            case Phase.OPENING:
                self._check_opening(now)
            case Phase.LOAD:
                wake_in = max(0.0, min(wake_in, self._send_due(now)))
            case Phase.ANSWERS:
                self._check_answers(now)
            case Phase.CLOSING:
                self._check_closing(now)
        if self._timer is None:
            self._timer = self.loop.call_at(loop_now + wake_in, self._wake)
        return False

    def _wake(self) -> None:
        self._timer = None

    def _check_opening(self, now: float) -> None:
        clients = self._all_clients()
        missing = sum(not client.is_open for client in clients)
        if not missing:
            self._enter(Phase.LOAD)
            self.schedule.started = now
            if self.hang_client is not None:
                self.hang_client.start(now)
            self._on_load()
        elif now >= self._until:
            self._fail(f"{missing} of {len(clients)} connections did not open")

    def _send_due(self, now: float) -> float:
        """Send what is due; returns the seconds until the next message is."""
        figures, schedule = self.figures, self.schedule
        for number, due in schedule.due(now):
            figures.late = max(figures.late, now - due)
            client = self.clients[number]
            if not client.is_open:
                figures.unsent += 1
                continue
            self._outstanding += 1
            figures.pause.due(due)
            figures.sent += 1
            client.send_next(due)
        if self.hang_client is not None:
            figures.hangs += self.hang_client.hang(now)
        if schedule.is_over or self._interrupted:
            self.stopped = time.monotonic()
            self._enter(Phase.ANSWERS)
            self._on_sent()
        return schedule.next_due - now

    def _check_answers(self, now: float) -> None:
        pause = self.figures.pause
        missing = any(client.checker.outstanding for client in self.clients if client.is_open)
        last = max(pause.since or 0.0, self.stopped)
        if missing and now < last + ANSWER_TIMEOUT * self._timeouts:
            return
        hanging = self.hang_client is not None and self.hang_client.busy
        if hanging and now < self.stopped + HANG_TIMEOUT * self._timeouts:
            return
        for each in (pause, *(client.pause for client in self.clients)):
            each.give_up(now)
        self._enter(Phase.CLOSING, CLOSE_TIMEOUT)
        for client in self._all_clients():
            if client.is_open:
                client.close()

    def _check_closing(self, now: float) -> None:
        for report in self._close_log.read() if self._close_log is not None else ():
            self.close_records.report(report)
        still_open = [client for client in self._all_clients() if client.is_open]
        waits = self.checks_closes and not self.close_records.all_reported()
        if (still_open or waits) and now < self._until:
            return
        for client in still_open:
            self._record_end(client, NOT_CLOSED)
            client.abort()
        self.figures.connection_pause = max(client.pause.longest for client in self.clients)
        self.loop.stop()

    # --- connections ---

    def handle_open(self, client: Client) -> None:
        self._connector.done()
        if isinstance(client, VerifiedClient):
            first = self.schedule.next_round(client.number)
            client.begin(Checker(client.number, self.plan.size, first, self.figures))

    def handle_end(self, client: Client, how: str) -> None:
        if client.was_open:
            self._record_end(client, "" if client.closed_in_order else how)
        else:
            self._connector.done()
            self._record_failed_connect(how)
        if self.phase is Phase.OPENING:
            self._fail(how)
        elif self.phase is Phase.LOAD:
            self.loop.call_later(RECONNECT_AFTER, partial(self._reopen, client))

    def _record_failed_connect(self, how: str) -> None:
        # While a gateway is replaced no connect is refused, but an accepted one can be lost.
        was_accepted = not how.startswith("connect: ")
        if self.plan.kill_supervisor_every or (was_accepted and self.plan.kills_gateways):
            self.figures.connects_lost += 1
        else:
            self.figures.refused[how] += 1

    def _reopen(self, client: Client) -> None:
        if self.phase is Phase.LOAD:
            self._connector.open(client)

    def _record_end(self, client: Client, how: str) -> None:
        if isinstance(client, HangClient):
            client.busy = False
            self.close_records.ended(ConnectionEnd("hang", client.name, how=how))
        elif isinstance(client, VerifiedClient):
            checker = client.checker
            answered = checker.expected > checker.first
            sent = checker.next > checker.first
            header = checker.record(checker.first)[:HEADER].decode() if answered else ""
            # Messages that were lost with a gateway had perhaps not reached a worker.
            looks_lost = self.close_records.looks_lost(how)
            is_known = answered if looks_lost else sent or client.kind != "raw"
            self.close_records.ended(ConnectionEnd(client.kind, client.name, header, is_known, how))
            # After a disconnection, only records that a later one has overtaken are lost.
            lost = checker.overtaken if how and how != NOT_CLOSED else checker.outstanding
            self.figures.lost += lost
            self.figures.cut_off += checker.outstanding - lost
            self._outstanding -= checker.outstanding
            client.pause.give_up(time.monotonic())

    def handle_answer(self, client: VerifiedClient, number: int, now: float) -> None:
        self.figures.latency.add(now - self.schedule.due_in_round(client.number, number))
        self._outstanding -= 1
        self.figures.pause.arrived(now, self._outstanding > 0)
