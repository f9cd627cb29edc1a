"""I/O. The load: verified clients on a fixed schedule, in one process and one loop.

The schedule is open: a message is due when its time has come, whatever the server does, and its
latency counts from then on. A server that stalls cannot slow down its own examiner.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from wsraw.runtime.loop import Loop, Timer
from wsraw.tools.drill.figures import Histogram, Pause
from wsraw.tools.drill.load.clients import Address, Client, Hanger, Verified, Witness
from wsraw.tools.drill.load.record import HEADER, Checker, Findings
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.ends import Ends, Life
from wsraw.tools.drill.target.ledger import Ledger

OPEN_TIMEOUT: Final = 30.0
ANSWER_TIMEOUT: Final = 30.0
"""Seconds without any answer after which those that are missing are lost."""
CLOSE_TIMEOUT: Final = 15.0
HANG_TIMEOUT: Final = 60.0
"""Seconds after the load that the last hang may take until its connection is closed."""

NOT_CLOSED: Final = "it did not close"

CONNECTING_AT_ONCE: Final = 64
RECONNECT_AFTER: Final = 0.2
LOOK_EVERY: Final = 0.02


class LoadError(Exception):
    """The load could not begin; the text says why."""


class Phase(Enum):
    """Where the load is; each phase follows the one above it."""

    GREETING = "connecting"
    """The witness and the hanger."""
    OPENING = "connecting all"
    LOAD = "load"
    ANSWERS = "waiting for answers"
    CLOSING = "closing"


class Load:
    """The load of one drill. After `run` the figures stand in the attributes."""

    def __init__(
        self,
        plan: Plan,
        address: Address,
        loop: Loop,
        timeouts: float = 1.0,
        ledger: Ledger | None = None,
    ) -> None:
        """`timeouts` stretches or shortens all time limits. `ledger` is where the drill's handlers
        write down each end; without it a witness is told."""
        self.loop = loop
        self.plan = plan
        self.phase = Phase.GREETING
        self.findings = Findings()
        self.ends = Ends(plan.everybody_dies, plan.workers_die)
        self.latency = Histogram()
        self.pause = Pause()
        self.connection_pause = 0.0
        """The longest of a single connection."""
        self.sent = 0
        self.unsent = 0
        """Due while their connection was down."""
        self.lost = 0
        self.cut_off = 0
        """Unanswered when their connection was closed."""
        self.refused: list[str] = []
        """Connects that failed after the load had begun."""
        self.connects_lost = 0
        """Those that failed because the drill had killed their gateway, or the whole run."""
        self.late = 0.0
        """The longest that a message was sent after it was due: our own fault."""
        self.started = self.stopped = 0.0
        kinds = ["websocket"] * plan.websockets + ["raw"] * plan.raw
        self.clients = [
            Verified(self, address, kind, number, plan.size) for number, kind in enumerate(kinds)
        ]
        self.ledger = ledger
        # Where gateways die a witness would die with them; of use is then only what it is answered.
        is_told = ledger is not None or not plan.everybody_dies
        self.witness = Witness(self, address) if is_told else None
        self.witness_lost = ""
        """How the witness was disconnected, if it was."""
        self.hanger: Hanger | None = Hanger(self, address) if plan.hang_every else None
        self._timeouts = timeouts
        self._to_open: deque[Client] = deque()
        self._connecting = 0
        self._outstanding = 0
        self._slot = 0
        self._slots = max(1, int(plan.seconds * plan.rate))
        self._next_hang = 0.0
        self._until = 0.0
        self._last_answer = 0.0
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
        """Do it. `on_load` is called when the first message is due, `on_sent` after the last one.
        Raises LoadError."""
        self._on_load = on_load
        self._on_sent = on_sent
        self.loop.before_sleep = self._before_sleep
        self._enter(Phase.GREETING, OPEN_TIMEOUT)
        self._open(*self._specials())
        self.loop.run()
        for client in (*self._specials(), *self.clients):
            client.abort()
        if self._error:
            raise LoadError(self._error)
        self.ends.settle()

    def interrupt(self) -> None:
        """End the load early; what was sent is still waited for. Once more: leave at once."""
        if self._interrupted or self.phase in (Phase.GREETING, Phase.OPENING):
            self._fail("interrupted")
        self._interrupted = True

    def _fail(self, why: str) -> None:
        self._error = why
        self.loop.stop()

    def _specials(self) -> list[Client]:
        return [client for client in (self.witness, self.hanger) if client is not None]

    # --- phases ---

    def _enter(self, phase: Phase, timeout: float = 0.0) -> None:
        self.phase = phase
        self._until = time.monotonic() + timeout * self._timeouts

    def _before_sleep(self, loop_now: float) -> bool:
        now = time.monotonic()
        wake_in = LOOK_EVERY
        match self.phase:
            case Phase.GREETING:
                self._look_at_greeting(now)
            case Phase.OPENING:
                self._look_at_opening(now)
            case Phase.LOAD:
                wake_in = max(0.0, min(wake_in, self._send_due(now)))
            case Phase.ANSWERS:
                self._look_for_answers(now)
            case Phase.CLOSING:
                self._look_at_closing(now)
        if self._timer is None:
            self._timer = self.loop.call_at(loop_now + wake_in, self._wake)
        return False

    def _wake(self) -> None:
        self._timer = None

    def _look_at_greeting(self, now: float) -> None:
        if self.witness is not None:
            if not self.witness.answered:
                if now >= self._until:
                    self._fail("the server does not answer")
                return
            if self.witness.watching != self.witness.name:
                # Other handlers, or an address translation: it cannot tell who is who.
                self._dismiss_witness()
                self.ledger = None
            elif self.ledger is not None:
                # What has answered so writes the ledger; this end, too.
                self.ends.ended(Life("witness", self.witness.name))
                self._dismiss_witness()
        if self.hanger is not None and self.witness is None:
            self._fail("to hang workers, the run must use the drill's own handlers")
            return
        self._enter(Phase.OPENING, OPEN_TIMEOUT)
        self._open(*self.clients)

    def _dismiss_witness(self) -> None:
        assert self.witness is not None
        self.witness.abort()
        self.witness = None

    def _look_at_opening(self, now: float) -> None:
        standing = sum(client.stands for client in (*self._specials(), *self.clients))
        if standing == len(self.clients) + len(self._specials()):
            self._enter(Phase.LOAD)
            self.started = self._last_answer = now
            self._next_hang = now + self.plan.hang_every
            self._on_load()
        elif now >= self._until:
            self._fail(f"only {standing} connections of {len(self.clients)} are open")

    def _send_due(self, now: float) -> float:
        """Send what is due; returns the seconds until the next one is."""
        clients, rate, started = self.clients, self.plan.rate, self.started
        count = len(clients)
        due_slots = min(int((now - started) * rate) + 1, self._slots)
        if self._slot < due_slots:
            self.late = max(self.late, now - started - self._slot / rate)
        for slot in range(self._slot, due_slots):
            # First, so that a client that comes back while we send begins behind it.
            self._slot = slot + 1
            client = clients[slot % count]
            if not client.stands:
                self.unsent += 1
                continue
            due = started + slot / rate
            self._outstanding += 1
            self.pause.due(due)
            self.sent += 1
            client.send_next(due)
        if self.hanger is not None and now >= self._next_hang:
            self._next_hang += self.plan.hang_every
            self.hanger.hang()
        if self._slot >= self._slots or self._interrupted:
            self.stopped = time.monotonic()
            self._enter(Phase.ANSWERS)
            self._on_sent()
        return started + self._slot / rate - now

    def _look_for_answers(self, now: float) -> None:
        missing = any(client.checker.outstanding for client in self.clients if client.stands)
        patience = max(self._last_answer, self.stopped) + ANSWER_TIMEOUT * self._timeouts
        hanging = self.hanger is not None and self.hanger.busy
        if missing and now < patience:
            return
        if hanging and now < self.stopped + HANG_TIMEOUT * self._timeouts:
            return
        self.pause.give_up(now)
        for client in self.clients:
            client.pause.give_up(now)
        self._enter(Phase.CLOSING, CLOSE_TIMEOUT)
        for special in (*self.clients, self.hanger):
            if special is not None and special.stands:
                special.close()

    def _look_at_closing(self, now: float) -> None:
        self._hear_witness()
        clients: list[Client] = [*self.clients, *([self.hanger] if self.hanger else [])]
        standing = [client for client in clients if client.stands]
        heard = not self.hears_ends or self.ends.all_told()
        if (standing or not heard) and now < self._until:
            return
        for client in standing:
            self._end_life(client, NOT_CLOSED)
            client.abort()
        for verified in self.clients:
            self.connection_pause = max(self.connection_pause, verified.pause.longest)
        self.loop.stop()

    # --- connections ---

    def _open(self, *clients: Client) -> None:
        self._to_open.extend(clients)
        self._open_some()

    def _open_some(self) -> None:
        while self._to_open and self._connecting < CONNECTING_AT_ONCE:
            self._connecting += 1
            self._to_open.popleft().open()

    def handle_stands(self, client: Client) -> None:
        """It can carry data."""
        self._connecting -= 1
        self._open_some()
        if isinstance(client, Witness):
            client.watch()
        elif isinstance(client, Verified):
            count = len(self.clients)
            # The first round in which its turn is still to come.
            first = (self._slot - client.number + count - 1) // count
            client.begin(Checker(client.number, self.plan.size, first, self.findings))

    def handle_end(self, client: Client, how: str) -> None:
        """One is over, or never began."""
        if client.stood:
            self._end_life(client, "" if client.closed_in_order else how)
        else:
            self._connecting -= 1
            self._handle_refusal(how)
        if self.phase in (Phase.GREETING, Phase.OPENING):
            self._fail(how)
        elif self.phase is Phase.LOAD and client is not self.witness:
            self.loop.call_later(RECONNECT_AFTER, partial(self._reopen, client))

    def _handle_refusal(self, how: str) -> None:
        """A connect that failed. While the gateway is replaced none is refused; but one may be
        accepted, and be lost with it."""
        was_accepted = not how.startswith("connect: ")
        if self.plan.kill_supervisor_every or (was_accepted and self.plan.everybody_dies):
            self.connects_lost += 1
        else:
            self.refused.append(how)

    def _reopen(self, client: Client) -> None:
        if self.phase is Phase.LOAD:
            self._open(client)

    def _end_life(self, client: Client, how: str) -> None:
        if isinstance(client, Witness):
            self._hear_witness()
            self.witness, self.witness_lost = None, how
        elif isinstance(client, Hanger):
            client.busy = False
            self.ends.ended(Life("hanger", client.name, how=how))
        elif isinstance(client, Verified):
            checker = client.checker
            answered = checker.expected > checker.first
            sent = checker.next > checker.first
            header = checker.record(checker.first)[:HEADER].decode() if answered else ""
            # What a gateway took along had perhaps not reached a worker.
            heard_of = answered if self.ends.may_be_lost(how) else sent or client.kind != "raw"
            self.ends.ended(Life(client.kind, client.name, header, heard_of, how))
            # What was overtaken, or is missing though nothing cut it off, is lost.
            lost = checker.overtaken if how and how != NOT_CLOSED else checker.outstanding
            self.lost += lost
            self.cut_off += checker.outstanding - lost
            self._outstanding -= checker.outstanding
            client.pause.give_up(time.monotonic())

    @property
    def hears_ends(self) -> bool:
        """Whether we are told of each on_close."""
        return self.witness is not None or self.ledger is not None

    def _hear_witness(self) -> None:
        if self.ledger is not None:
            for told in self.ledger.read():
                self.ends.told(told)
        if self.witness is not None:
            for told in self.witness.told:
                self.ends.told(told)
            self.witness.told.clear()

    # --- answers ---

    def handle_answer(self, client: Verified, number: int, now: float) -> None:
        """The record of that round has come back."""
        due = self.started + (number * len(self.clients) + client.number) / self.plan.rate
        self.latency.add(now - due)
        self._outstanding -= 1
        self._last_answer = now
        self.pause.arrived(now, self._outstanding > 0)
