"""Sans-I/O. The registry of connections, by id, by name and by group; and how they are ended.

After each turn the sockets do what the registry asks for: `dirty` connections have output to write
or a close to finish, `to_dial` are to be connected, `flow.changed` have a pause to apply.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final

from wsraw.config.pools import in_force
from wsraw.config.settings import Settings
from wsraw.config.units import human_size
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.counters import FAULT, LEFT, Counters
from wsraw.gateway.delivery.accounts import MARK, Flow
from wsraw.gateway.delivery.dispatcher import Dispatcher
from wsraw.gateway.delivery.entry import PAUSED_STOPPING, Entry, Pool, Worker
from wsraw.gateway.delivery.groups.groups import Groups
from wsraw.gateway.delivery.outgoing import Outgoing
from wsraw.gateway.delivery.worker import ID_RANGE, IdRange
from wsraw.gateway.totals import UNKNOWN, ConnectionTotals
from wsraw.link.records import (
    DEFAULT_POOL,
    ID_EPOCH_SHIFT,
    Event,
    OnClose,
    OnMessage,
    Reached,
)
from wsraw.link.states import GONE

ALIASES_KEPT: Final = 10_000
"""Ids of `open` commands that were answered with an existing connection; further ones replace the
oldest."""


KICKED: Final = "kicked"
"""The cause of a close by an operator."""

UPGRADE: Final = "upgrade"
"""The cause of the end of a connection that an upgrade cannot move, or cannot keep any longer."""

RESTART: Final = 1012
"""The close code of that end, Service Restart: the client may connect again (IANA)."""


class Ids:
    """Connection ids from one counter, so that none is reused while a gateway lives."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        """The number of this gateway among those of its run folder, a prefix of each id."""
        self.next = 1

    def new(self) -> int:
        """An id for a connection."""
        n = self.next
        self.next = n + 1
        return self.epoch << ID_EPOCH_SHIFT | n

    def new_range(self, worker: Worker) -> range:
        """Ids for a session to open connections with."""
        first = self.epoch << ID_EPOCH_SHIFT | self.next
        self.next += ID_RANGE
        worker.ids.append(IdRange(first))
        return range(first, first + ID_RANGE)

    def was_given(self, con: int) -> bool:
        """Whether this gateway or an earlier one has given out the id."""
        epoch, n = con >> ID_EPOCH_SHIFT, con & ((1 << ID_EPOCH_SHIFT) - 1)
        return 0 < epoch < self.epoch or (epoch == self.epoch and 0 < n < self.next)


class _Phase(Enum):
    """A phase of a stop (stop.py)."""

    RUNNING = 0
    STOPPING = 1
    CLOSING = 2


class Registry:
    """All connections that have an entry, and what they share."""

    def __init__(
        self, settings: Settings, epoch: int, memory_limit: int, instance: str = ""
    ) -> None:
        """`instance`: a text that no other gateway uses."""
        self.settings = settings
        self.ids = Ids(epoch)
        self.flow = Flow(settings, memory_limit)
        self.counters = Counters()
        self.dispatcher = Dispatcher(self.flow, settings.max_deliveries)
        self.policy = AdmissionPolicy(settings, self.counters)
        self.entries: dict[int, Entry] = {}
        self._unanswered: dict[Entry, tuple[int, float]] = {}
        """Half-closed connections that wait for those opened for them: how many bytes each was
        sent, and since when it has been sent no more."""
        self.pools = {name: Pool(name, own) for name, own in in_force(settings).items()}
        self.totals: dict[tuple[str, str, str, bool], ConnectionTotals] = {}
        """By kind, pool, listener, and whether handlers have opened the connections."""
        self.dirty: dict[Connection, None] = {}
        self.to_dial: list[Entry] = []
        self.ended: list[Entry] = []
        """Ended connections that may get a successor."""
        self.outgoing = Outgoing(
            self.flow, settings, self.dirty, self._overflow, self.close, self.fault
        )
        self.groups = Groups(self.flow, self.outgoing, settings, instance)
        self.groups.tell = self.dispatcher.take
        self.dispatcher.ending = self.groups.end
        self._phase = _Phase.RUNNING
        self.unknown_ids = 0
        """Commands for closed connections, which are normal: they cross the close."""
        nothing = ConnectionTotals("", "", "", False)
        self._nowhere = Entry(Connection.ended(0, settings), Pool("", settings), nothing, 0.0)
        """The entry of forgotten connections: their events are dropped."""
        self._nowhere.gone = True
        self._names: dict[tuple[str, str], Entry] = {}
        self._aliases: dict[int, int] = {}

    # --- ids and names ---

    def find(self, con: int) -> Entry | str | None:
        """The connection with an id, None if it is closed already, or why the id cannot be
        right."""
        entry = self.entries.get(self._aliases.get(con, con) if self._aliases else con)
        if entry is not None:
            return entry
        if self.ids.was_given(con):
            self.unknown_ids += 1
            return None
        return f"connection {con} was never given out"

    def succeed(self, entry: Entry, successor: Entry) -> None:
        """Give a connection's name to its successor, and the ids by which workers know it."""
        if entry.name is None:
            return
        self._names[entry.pool.name, entry.name] = successor
        for asked, con in self._aliases.items():
            if con == entry.id:
                self._aliases[asked] = successor.id

    def alias(self, asked: int, entry: Entry) -> None:
        """Accept another id for a connection: the one that a worker uses until it has read our
        `opened`."""
        self._aliases[asked] = entry.id
        if len(self._aliases) > ALIASES_KEPT:
            del self._aliases[next(iter(self._aliases))]

    def named(self, pool: Pool, name: str) -> Entry | None:
        """The connection that was opened with this name, unless it is closing."""
        entry = self._names.get((pool.name, name))
        return entry if entry is not None and entry.con.state in (CONNECTING, OPEN) else None

    def give_name(self, entry: Entry, name: str) -> None:
        """Name a connection; a name is unique in its pool."""
        entry.name = name
        self._names[entry.pool.name, name] = entry

    # --- entries ---

    def pool(self, name: str = DEFAULT_POOL) -> Pool:
        """The pool with this name. A worker may name one that the settings do not have: no client
        is given to it, but connections that its workers open belong there."""
        pool = self.pools.get(name)
        if pool is None:
            pool = self.pools[name] = Pool(name, self.settings, stays=False)
        return pool

    def pool_of(self, worker: Worker) -> Pool:
        """The pool that a worker with a session belongs to."""
        pool = self.pool(worker.session.pool)
        canary = pool.canary
        return canary.own if canary is not None and worker.number in canary.numbers else pool

    def raised_in(self, pool: Pool, count: int) -> None:
        """Handlers of a pool have raised; if it is a canary, the supervisor is told at once."""
        of = self.pools.get(pool.name)
        if of is not None and of is not pool and of.canary is not None:
            of.canary.raised += count

    def release(self, pool: Pool) -> None:
        """Delete an empty pool that the settings do not name."""
        if not (pool.stays or pool.sessions or pool.connections):
            del self.pools[pool.name]

    def take(self, con: Connection, events: list[Event], now: float) -> None:
        """Count and dispatch events of a connection."""
        self.dispatch(con, events, now)
        if con.entry is not None:
            con.entry.totals.events += len(events)

    def dispatch(self, con: Connection, events: list[Event], now: float) -> None:
        """Dispatch events of a connection, in order; the first one makes its entry. The caller
        counts them."""
        # Not an assertion, which would cost a call for each read.
        entry: Entry | None = con.entry  # type: ignore[assignment]
        if entry is None:
            if not events:
                return
            entry = self.add(con, self.pool(con.pool), now)
        elif entry.gone:
            return
        for event in events:
            self.dispatcher.take(entry, event, now)
        state = con.state
        if state is CLOSED:
            self._handle_closed(entry, now)
        elif state is CLOSING and con.intake.half_closed:
            self.end_if_drained(entry, now)

    def _handle_closed(self, entry: Entry, now: float) -> None:
        """Forget a connection that ended before any worker heard of it, with its parked events,
        unless its client closed it properly and left messages."""
        if entry.reopening is not None:
            self.ended.append(entry)
        if entry.marks:
            # Its on_close may wait for the handler of those messages.
            self._answer_marks(entry, math.inf, is_open=False)
        if entry.splice is not None:
            self.dispatcher.spliced.ended(entry, now)
        if entry.heard or entry.gone:
            return
        has_messages = OnMessage in [type(event) for event, _, _ in entry.parked]
        if entry.con.ending.cause == "peer" and has_messages:
            if self.dispatcher.keep_left_behind(entry):
                return
            self.counters.hit(LEFT, now, entry.con.subject)
        self.forget(entry)

    def add(self, con: Connection, pool: Pool, now: float) -> Entry:
        """Give a connection its entry."""
        if pool.canary is not None and not con.opened and pool.canary.takes(con.id):
            pool = pool.canary.own
        totals = self.totals_of(con, con.kind or UNKNOWN, pool.name)
        totals.open += 1
        totals.total += 1
        entry = Entry(con, pool, totals, now)
        con.entry = self.entries[con.id] = entry
        pool.connections += 1
        self.flow.weigh(con)
        if self.stopping:
            self.flow.pause(entry, PAUSED_STOPPING)
        return entry

    def stand_in(self, about: dict[str, Any], pool: Pool) -> Entry:
        """An entry for events of an absent member of a group: its connection is closed, and counted
        nowhere. The caller forgets it."""
        con = Connection.ended(self.ids.new(), self.settings)
        con.about = about
        entry = Entry(con, pool, self._nowhere.totals, self.flow.now)
        entry.is_open = False
        # So that its worker gets all that is known about it.
        entry.heard = True
        con.entry = self.entries[con.id] = entry
        pool.connections += 1
        self.flow.weigh(con)
        return entry

    def totals_of(self, con: Connection, kind: str, pool: str) -> ConnectionTotals:
        """Where a connection is counted."""
        listener = con.about.get("listener", "")
        key = kind, pool, listener, con.opened
        totals = self.totals.get(key)
        if totals is None:
            totals = self.totals[key] = ConnectionTotals(*key)
        return totals

    def sum_totals(self, *, long_only: bool = False) -> None:
        """Sum what was read and written since the last call."""
        for totals in self.totals.values():
            if not long_only or totals.is_long:
                totals.sum_up()

    def receive_eof(self, con: Connection, now: float) -> None:
        """Handle a half-close; a raw connection ends when what it sent has been handled."""
        self.take(con, con.receive_eof(now), now)

    def end_if_drained(self, entry: Entry, now: float) -> None:
        """End a half-closed connection that has no parked events, no events in flight and no
        answers to expect."""
        if entry.splice is not None and self.dispatcher.spliced.half_closed(entry, now):
            return
        if not entry.in_flight and not entry.parked and not self._may_be_answered(entry, now):
            self._unanswered.pop(entry, None)
            self.outgoing.catch_up(entry, now)
            events = entry.con.drained(now)
            if events:
                self.take(entry.con, events, now)
            self.dirty[entry.con] = None

    def end_unwanted(self, now: float) -> None:
        """End half-closed connections whose last event was dropped."""
        unwanted, self.dispatcher.unwanted = self.dispatcher.unwanted, []
        for entry in unwanted:
            if not entry.gone:
                self.end_if_drained(entry, now)

    def check_unanswered(self, now: float) -> None:
        """Once a second: end half-closed connections that get no more answers."""
        for entry in list(self._unanswered):
            if entry.con.state is CLOSED:
                del self._unanswered[entry]
            else:
                self.end_if_drained(entry, now)

    def _may_be_answered(self, entry: Entry, now: float) -> bool:
        """Whether a connection that was opened for this one may still bring an answer: until it has
        ended, or has brought nothing for close_timeout. Only a close tells a WebSocket that no more
        questions come, and after it no answer comes."""
        con = entry.con
        if con.opened or con.state is CLOSED or con.websocket is not None:
            return False
        states = [
            other.con.state for other in entry.couples or () if other.con.opened and not other.name
        ]
        if CONNECTING not in states and OPEN not in states:
            return False
        said = entry.sent
        known, since = self._unanswered.get(entry, (-1, now))
        if known != said or CONNECTING in states:
            self._unanswered[entry] = (said, now)
            return True
        timeout = self.settings.close_timeout
        return not timeout or now - since < timeout

    def fault(self, con: Connection, error: BaseException, now: float) -> None:
        """End a connection, and no other one, because of a bug in wsraw. A WebSocket gets 1011, a
        raw connection a reset. Never raises."""
        self.counters.fault(con.label, error, con.subject)
        entry = con.entry if isinstance(con.entry, Entry) else None
        try:
            if entry is not None and not entry.gone:
                self.dispatcher.recount(entry)
            why = "a bug in wsraw; see the gateway's log"
            # No close frame before its on_connect: no handler would be told of its end.
            end = con.close_now if con.announced else con.abort
            self.take(con, end(1011, "internal error", FAULT, why, now), now)
            if entry is not None:
                self.flow.output_changed(entry)
        except Exception as second:
            self.counters.fault(f"{con.label}, while it was closed,", second, con.subject)
            con.force_end()
        self.dirty[con] = None
        if entry is None or entry.gone or con.state is not CLOSED:
            return
        if not (entry.heard or con.opened):
            # No handler needs to be told of its end.
            self.forget(entry)
        else:
            self._tell_end(entry, now)

    def _tell_end(self, entry: Entry, now: float) -> None:
        """Dispatch the on_close of an ended connection if a bug has lost it."""
        con = entry.con
        try:
            self.dispatcher.recount(entry)
            if self.dispatcher.has_end(entry):
                return
            end = OnClose(0, entry.id, con.ending.code, con.ending.reason, con.ending.cause)
            self.take(con, [end], now)
        except Exception as error:
            self.counters.fault(f"the entry of {con.label}", error, con.subject)
            self.forget(entry)

    def end_failed(self, now: float) -> None:
        """End the connections with which something has failed in the dispatcher."""
        failed, self.dispatcher.failed = self.dispatcher.failed, []
        for entry, error in failed:
            if entry.gone:
                continue
            if entry.con.ending.cause == FAULT:
                # Not even its on_close can be dispatched.
                self.counters.fault(f"the entry of {entry.con.label}", error, entry.con.subject)
                self.forget(entry)
                continue
            # A parked event may raise each time that it is delivered.
            self.dispatcher.drop_messages(entry)
            self.fault(entry.con, error, now)

    def forget(self, entry: Entry) -> None:
        """Remove a connection whose on_close is acked, or that no worker ever heard of."""
        if entry.splice is not None:
            self.dispatcher.spliced.forget(entry)
        entry.gone = True
        if entry.is_open:
            # Its on_close was lost by a bug, or no handler would get it.
            self.dispatcher.count_end(entry, entry.con.ending.cause or UNKNOWN)
        if entry.con.endpoint is None:
            # Otherwise its endpoint does it: a reference cycle would wait for the garbage
            # collector.
            entry.con.entry = self._nowhere
        for step in (
            self.dispatcher.forget,
            self.outgoing.forget,
            self.groups.forget,
            self._forget_names,
            self.flow.forget,
        ):
            for _ in range(2):
                # A step that raises is retried once, then skipped.
                try:
                    step(entry)
                    break
                except Exception as error:
                    self.counters.fault(f"the entry of {entry.con.label}", error, entry.con.subject)
        self.entries.pop(entry.id, None)

    def follow(self, con: Connection, now: float) -> Connection | None:
        """A request is answered: forget it, and return the connection that continues on its socket,
        if there is one. Its `first_events` come next."""
        entry = con.entry
        if isinstance(entry, Entry) and not entry.gone:
            self.forget(entry)
        make = con.ending.successor
        if make is None or self.stopping or con.output.size:
            return None
        successor = make(self.ids.new(), now)
        successor.rate_limit = con.rate_limit
        limits = self.policy.address_limits
        if successor.address_key != con.address_key:
            limits.leave(con.address_key)
            limits.enter(successor.address_key)
        self.flow.socket_closed(con)
        return successor

    def _forget_names(self, entry: Entry) -> None:
        for worker in (entry.opener, entry.owner):
            if worker is not None:
                worker.ties.discard(entry)
        if self.entries.pop(entry.id, None) is not None:
            entry.pool.connections -= 1
            self.release(entry.pool)
        self._unanswered.pop(entry, None)
        self._answer_marks(entry, math.inf, is_open=False)
        if entry.name is not None and self._names.get((entry.pool.name, entry.name)) is entry:
            del self._names[entry.pool.name, entry.name]
            self._aliases = {a: con for a, con in self._aliases.items() if con != entry.id}

    def close(self, entry: Entry, code: int, reason: str, cause: str, now: float) -> None:
        """Close a connection in order."""
        self.take(entry.con, entry.con.close(code, reason, cause, now), now)
        self.dirty[entry.con] = None

    def kick(self, con: Connection, code: int, reason: str) -> None:
        """Close a connection for an operator, without writing the output that waits, because the
        client may not read it. What the client has sent is still handled."""
        flow = self.flow
        entry = con.entry if isinstance(con.entry, Entry) else None
        try:
            if con.state is CLOSING:
                # It has had its chance to close in order.
                self.take(con, con.abort(code, reason, KICKED, "", flow.now), flow.now)
            else:
                if entry is not None:
                    self.outgoing.forget(entry)
                con.output.drop_waiting()
                self.take(con, con.close(code, reason, KICKED, flow.now), flow.now)
            if entry is not None and not entry.gone:
                flow.output_changed(entry)
        except Exception as error:
            self.fault(con, error, flow.now)
        self.dirty[con] = None

    def abort(self, entry: Entry, code: int, cause: str, message: str, now: float) -> None:
        """Close a connection without writing the output that waits."""
        reason = message if len(message) < 100 else ""
        self.take(entry.con, entry.con.close_now(code, reason, cause, message, now), now)
        if entry.splice is not None:
            # A WebSocket may take a while to answer, and its output counts in memory.
            entry.splice.buffer.clear()
        self.flow.output_changed(entry)
        self.dirty[entry.con] = None

    def wrote(self, entry: Entry) -> None:
        """Recount the output after a write, and answer the marks that it has reached."""
        self.flow.output_changed(entry)
        if entry.marks:
            self._answer_marks(entry, entry.written)

    def _answer_marks(self, entry: Entry, written: float, *, is_open: bool = True) -> None:
        """Answer marks up to byte `written` of the output: those bytes are written, or never will
        be."""
        marks, entry.marks = entry.marks or [], []
        for mark in marks:
            if mark[0] > written:
                entry.marks.append(mark)
                continue
            self.flow.keep(entry, -MARK)
            if mark[1].session.state is not GONE:
                mark[1].session.notice(Reached(entry.id, mark[2], is_open))
                mark[1].window.touch(entry, self.flow.now)
                self.dispatcher.with_output.add(mark[1])

    def _overflow(self, entry: Entry, now: float) -> None:
        message = f"more than {human_size(self.settings.output_limit)} of output waits for the peer"
        self.end_for_limit(entry, "output_limit", "overflow", message, now)

    def count(self, limit: str, con: Connection, now: float) -> None:
        """Count that a connection ends because of a limit; only the first limit counts."""
        if not con.ending.cause:
            self.counters.hit(limit, now, con.subject)

    def end_for_limit(self, entry: Entry, limit: str, cause: str, message: str, now: float) -> None:
        """Close a connection that has exceeded a limit, at once (1008), and drop its messages."""
        self.count(limit, entry.con, now)
        self.dispatcher.drop_messages(entry)
        # Data that waits behind another worker's unfinished message is dropped, too.
        self.outgoing.forget(entry)
        self.abort(entry, 1008, cause, message, now)

    # --- stop ---

    @property
    def stopping(self) -> bool:
        """Whether nothing new is read."""
        return self._phase is not _Phase.RUNNING

    @property
    def has_closed_all(self) -> bool:
        """Whether no connection is opened any more, because no handler would be told of its end."""
        return self._phase is _Phase.CLOSING

    def stop(self) -> None:
        """Read nothing new; received data is still handled."""
        self._phase = _Phase.STOPPING
        for entry in self.entries.values():
            self.flow.pause(entry, PAUSED_STOPPING)

    def is_waited_for(self) -> bool:
        """Whether an on_close is not acked yet, and a worker can handle it."""
        return any(entry.pool.workers for entry in self.entries.values())

    def close_all(self, now: float) -> None:
        """Close all connections with 1001, and open none any more."""
        self._phase = _Phase.CLOSING
        for entry in list(self.entries.values()):
            try:
                self.close(entry, 1001, "the server is going away", "going-away", now)
            except Exception as error:
                self.fault(entry.con, error, now)
