"""Sans-I/O. The table of connections: each one's place, its id, its name, and how it is ended.

What the shell asks for after each turn: `dirty` connections have output to write or a close to
finish, `to_dial` are to be connected, `flow.changed` have a pause to apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import wsraw.messages as m
from wsraw.gateway.connection import CLOSED, CONNECTING, OPEN, Connection
from wsraw.gateway.dispatch import Dispatcher
from wsraw.gateway.entrance import Entrance
from wsraw.gateway.flow import Flow
from wsraw.gateway.groups import Groups
from wsraw.gateway.limits import FAULT, LEFT, Limits
from wsraw.gateway.outgoing import Outgoing
from wsraw.gateway.route import ID_RANGE, IdRange, Pool, Route, Worker
from wsraw.gateway.weights import MARK
from wsraw.link import LARGEST_BATCH, LinkState
from wsraw.messages import DEFAULT_POOL
from wsraw.pools import in_force
from wsraw.settings import Settings
from wsraw.units import human_size

AT_ONCE: Final = 1.0
"""Seconds within which what is queued for a connection is queued at once."""

ALIASES_KEPT: Final = 10_000
"""Ids under which standing connections were asked for; the oldest goes when there are more."""


class Table:
    """All connections that have a place, and what they share."""

    def __init__(self, settings: Settings, epoch: int, memory_limit: int) -> None:
        self.settings = settings
        self.epoch = epoch
        self.flow = Flow(settings, memory_limit)
        self.limits = Limits()
        self.dispatcher = Dispatcher(self.flow, settings.max_deliveries)
        self.groups = Groups(self.flow)
        self.entrance = Entrance(settings, self.limits)
        self.routes: dict[int, Route] = {}
        self._unanswered: dict[Route, tuple[int, float]] = {}
        """Half-closed ones that wait for what was opened for them: how much has been said to each,
        and since when it is so much."""
        self.pools = {name: Pool(name, own) for name, own in in_force(settings).items()}
        self.dirty: dict[Connection, None] = {}
        self.to_dial: list[Route] = []
        self.ended: list[Route] = []
        """Those that are over and may have a successor."""
        self.outgoing = Outgoing(
            self.flow,
            settings.output_limit,
            settings.overflow,
            self.dirty,
            self.is_slow,
            self._overflow,
            self.close_as_asked,
            self.cut_short,
            self.fault,
        )
        self.write_out: Callable[[Connection], None] = _nobody_writes
        """The shell's: write what a connection has waiting, if the kernel takes it."""
        self.stopping = False
        self.unknown_ids = 0
        """Commands for connections that were closed already: the normal race."""
        self.next_id = 1
        self._nowhere = Route(Connection.buried(0, settings), Pool("", settings), 0.0)
        """The place of those who have lost theirs; what still comes of them interests nobody."""
        self._nowhere.gone = True
        self._names: dict[tuple[str, str], Route] = {}
        self._aliases: dict[int, int] = {}

    # --- ids and names ---

    def new_id(self) -> int:
        """An id for an accepted connection; ids are never reused while a gateway lives."""
        n = self.next_id
        self.next_id = n + 1
        return self.epoch << m.ID_EPOCH_SHIFT | n

    def new_range(self, worker: Worker) -> range:
        """Connection ids for a session to open with."""
        first = self.epoch << m.ID_EPOCH_SHIFT | self.next_id
        self.next_id += ID_RANGE
        worker.ids.append(IdRange(first))
        return range(first, first + ID_RANGE)

    def find(self, con: int) -> Route | str | None:
        """The connection, None if it is closed already, or why there can be none."""
        route = self.routes.get(self._aliases.get(con, con) if self._aliases else con)
        if route is not None:
            return route
        if con >> m.ID_EPOCH_SHIFT == self.epoch and (
            0 < con & ((1 << m.ID_EPOCH_SHIFT) - 1) < self.next_id
        ):
            self.unknown_ids += 1
            return None
        if 0 < con >> m.ID_EPOCH_SHIFT < self.epoch:
            # Of an earlier gateway: closed when that one ended.
            self.unknown_ids += 1
            return None
        return f"connection {con} was never given out"

    def succeed(self, route: Route, successor: Route) -> None:
        """The name now means the successor; so do the ids under which others have opened it."""
        if route.name is None:
            return
        self._names[route.pool.name, route.name] = successor
        for asked, con in self._aliases.items():
            if con == route.id:
                self._aliases[asked] = successor.id

    def alias(self, asked: int, standing: Route) -> None:
        """Until the worker has read our `opened`, it uses the id that it asked with."""
        self._aliases[asked] = standing.id
        if len(self._aliases) > ALIASES_KEPT:
            del self._aliases[next(iter(self._aliases))]

    def standing(self, pool: Pool, name: str) -> Route | None:
        """The connection that was opened by that name, unless it is on its way out."""
        route = self._names.get((pool.name, name))
        return route if route is not None and route.con.state in (CONNECTING, OPEN) else None

    def give_name(self, route: Route, name: str) -> None:
        """There is one connection of each name in a pool."""
        route.name = name
        self._names[route.pool.name, name] = route

    # --- places ---

    def pool(self, name: str = DEFAULT_POOL) -> Pool:
        """The pool of that name. One that the settings do not name is made for a worker that says
        so: no client comes to it, but what it opens belongs there."""
        pool = self.pools.get(name)
        if pool is None:
            pool = self.pools[name] = Pool(name, self.settings, stays=False)
        return pool

    def release(self, pool: Pool) -> None:
        """Somebody has left it; workers can think of names without end."""
        if not (pool.stays or pool.sessions or pool.connections):
            del self.pools[pool.name]

    def take(self, con: Connection, events: list[m.Event], now: float) -> None:
        """Events of a connection, in order. Its first one gives it a place here."""
        route: Route | None = con.route
        if route is None:
            if not events:
                return
            route = self.add(con, self.pool(con.pool), now)
        elif route.gone:
            return
        for event in events:
            self.dispatcher.take(route, event, now)
        flow = self.flow
        if flow.total > flow.judge_above:
            flow.due = True
        if con.state is CLOSED:
            self._is_over(route, now)

    def _is_over(self, route: Route, now: float) -> None:
        """A connection has ended. One that no worker has heard of is forgotten with all that is
        parked of it, unless its client said goodbye in order and has left messages."""
        if route.reopening is not None:
            self.ended.append(route)
        if route.heard or route.gone:
            return
        if route.con.close_cause == "peer" and self.dispatcher.has_messages(route):
            if self.dispatcher.depart(route):
                return
            self.limits.hit(LEFT, now, route.con.who)
        self.forget(route)

    def add(self, con: Connection, pool: Pool, now: float) -> Route:
        """Give a connection its place."""
        route = con.route = self.routes[con.id] = Route(con, pool, now)
        pool.connections += 1
        self.flow.settle(con)
        if self.stopping:
            self.flow.stop_reading((route,))
        return route

    def receive_eof(self, con: Connection, now: float) -> None:
        """The peer has half-closed; a raw connection ends when what it sent is handled."""
        self.take(con, con.receive_eof(now), now)
        route: Route | None = con.route
        if route is not None and con.half_closed:
            self.judge_half_closed(route, now)

    def judge_half_closed(self, route: Route, now: float) -> None:
        """It ends when nothing of it is parked or in flight, and nobody is left to answer it."""
        if not route.in_flight and not route.parked and not self._may_be_answered(route, now):
            self._unanswered.pop(route, None)
            self.outgoing.catch_up(route, now)
            self.take(route.con, route.con.drained(now), now)
            self.dirty[route.con] = None

    def judge_unanswered(self, now: float) -> None:
        """Once a second: whether those who are waited for have said all they had to say."""
        for route in list(self._unanswered):
            if route.con.state is CLOSED:
                del self._unanswered[route]
            else:
                self.judge_half_closed(route, now)

    def _may_be_answered(self, route: Route, now: float) -> bool:
        """Whether a connection that was opened for it may still bring an answer: until that has
        ended, or has said nothing for close_timeout. A WebSocket cannot be told that no more
        questions come but by closing it, and then it does not answer any more."""
        con = route.con
        if con.opened or con.state is CLOSED:
            return False
        states = [
            other.con.state for other in route.couples or () if other.con.opened and not other.name
        ]
        if CONNECTING not in states and OPEN not in states:
            return False
        said = route.written + con.output_size
        known, since = self._unanswered.get(route, (-1, now))
        if known != said or CONNECTING in states:
            self._unanswered[route] = (said, now)
            return True
        timeout = self.settings.close_timeout
        return not timeout or now - since < timeout

    def fault(self, con: Connection, error: BaseException, now: float) -> None:
        """Something of ours has raised while this connection was handled: it ends for that, and
        nobody else. A WebSocket gets 1011, whatever else there is a reset. Raises nothing."""
        self.limits.fault(con.who, error)
        route: Route | None = con.route
        try:
            if route is not None and not route.gone:
                self.dispatcher.recount(route)
            why = "a fault of wsraw itself; the gateway's log says more"
            # Without an on_connect there is no goodbye either: no handler would hear the end of it.
            end = con.close_now if con.announced else con.abort
            self.take(con, end(1011, "internal error", FAULT, why, now), now)
            if route is not None:
                self.flow.output_changed(route)
        except Exception as second:
            self.limits.fault(f"{con.who}, while it was closed,", second)
            con.wreck()
        self.dirty[con] = None
        if route is None or route.gone or con.state is not CLOSED:
            return
        if not (route.heard or con.opened):
            # Nobody needs to hear of its end.
            self.forget(route)
        else:
            self._judge_end(route, now)

    def _judge_end(self, route: Route, now: float) -> None:
        """It is over: if its on_close was lost in a fault, it is told now."""
        con = route.con
        try:
            self.dispatcher.recount(route)
            if self.dispatcher.has_end(route):
                return
            end = m.OnClose(0, route.id, con.close_code, con.close_reason, con.close_cause)
            self.take(con, [end], now)
        except Exception as error:
            self.limits.fault(f"the place of {con.who}", error)
            self.forget(route)

    def end_failed(self, now: float) -> None:
        """End those with which something has gone wrong in the dispatcher."""
        failed, self.dispatcher.failed = self.dispatcher.failed, []
        for route, error in failed:
            if route.gone:
                continue
            if route.con.close_cause == FAULT:
                # Not even its end can be told.
                self.limits.fault(f"the place of {route.con.who}", error)
                self.forget(route)
                continue
            # What is parked may be what raises, each time that it is to be delivered.
            self.dispatcher.drop_messages(route)
            self.fault(route.con, error, now)

    def forget(self, route: Route) -> None:
        """Its on_close is acked, or no worker ever heard of it: nothing of it remains."""
        route.gone = True
        if route.con.shell is None:
            # Else its endpoint does so: circles wait for the collector, and that holds up a turn.
            route.con.route = self._nowhere
        for step in (
            self.dispatcher.forget,
            self.outgoing.forget,
            self.groups.forget,
            self._let_go,
            self.flow.forget,
        ):
            try:
                step(route)
            except Exception as error:
                self._insist(step, route, error)

    def _insist(self, step: Callable[[Route], None], route: Route, error: BaseException) -> None:
        """A step of forgetting has raised: once more, and then the others are done without it."""
        self.limits.fault(f"the place of {route.con.who}", error)
        try:
            step(route)
        except Exception as second:
            self.limits.fault(f"the place of {route.con.who}", second)
            self.routes.pop(route.id, None)

    def _let_go(self, route: Route) -> None:
        for worker in (route.opener, route.owner):
            if worker is not None:
                worker.ties.discard(route)
        if self.routes.pop(route.id, None) is not None:
            route.pool.connections -= 1
            self.release(route.pool)
        self._unanswered.pop(route, None)
        self._answer_marks(route, math.inf)
        if route.name is not None and self._names.get((route.pool.name, route.name)) is route:
            del self._names[route.pool.name, route.name]
            self._aliases = {a: con for a, con in self._aliases.items() if con != route.id}

    def close(self, route: Route, code: int, reason: str, cause: str, now: float) -> None:
        """The gateway itself closes a connection, in order."""
        self.take(route.con, route.con.close(code, reason, cause, now), now)
        self.dirty[route.con] = None

    def close_as_asked(self, route: Route, close: m.Close, now: float) -> None:
        """A handler closes a connection."""
        self.close(route, close.code, close.reason, "handler", now)

    def abort(self, route: Route, code: int, cause: str, message: str, now: float) -> None:
        """The gateway ends a connection without writing what waits for it."""
        reason = message if len(message) < 100 else ""
        self.take(route.con, route.con.close_now(code, reason, cause, message, now), now)
        self.flow.output_changed(route)
        self.dirty[route.con] = None

    def wrote(self, route: Route) -> None:
        """Some of a connection's output is with the kernel, and some may be left."""
        self.flow.output_changed(route)
        if route.marks:
            self._answer_marks(route, route.written)

    def _answer_marks(self, route: Route, written: float) -> None:
        """Tell those who wait for output that has been written, or never will be."""
        marks, route.marks = route.marks or [], []
        for mark in marks:
            if mark[0] > written:
                route.marks.append(mark)
                continue
            self.flow.keep_for(route, -MARK)
            if mark[1].state is not LinkState.GONE:
                mark[1].notice(m.Reached(route.id, mark[2]))
                self.dispatcher.talked.add(mark[1])

    def cut_short(self, route: Route, now: float) -> None:
        """A fragmented message to it will never be finished."""
        self.close(route, 1011, "a message was cut short", "handler", now)

    def is_slow(self, route: Route, worker: Worker | None, size: int, now: float) -> bool:
        """Whether `size` bytes of output, which is above the limit, are too many.

        What is queued at once may be more, up to what a batch carries: within a second, or within
        the batch that has begun it. Until so much of that is written that the limit holds again,
        the output must not grow above it.
        """
        limit, con = self.settings.output_limit, route.con
        before = con.output_size + con.early_size
        batch = (worker.session, worker.batches) if worker is not None else None
        if before <= limit or route.burst_of is None:
            route.burst_until = now + AT_ONCE
            route.burst_of = batch or (0, 0)
            route.allowance = 0
        allowance = route.allowance
        if now <= route.burst_until or batch == route.burst_of:
            allowance = LARGEST_BATCH
        if size <= limit + allowance:
            route.allowance = max(route.allowance, size - limit)
            return False
        # It is written to before it is judged.
        self.write_out(con)
        return size - before + con.output_size + con.early_size > limit + allowance

    def _overflow(self, route: Route, now: float) -> None:
        """A slow reader: its output has passed the bound."""
        message = f"more than {human_size(self.settings.output_limit)} of output wait for it"
        self.expel(route, "output_limit", "overflow", message, now)

    def count(self, limit: str, route: Route, now: float) -> None:
        """A connection ends for a bound: counted once, whatever it passes until its end is over."""
        if not route.con.close_cause:
            self.limits.hit(limit, now, route.con.who)

    def expel(self, route: Route, limit: str, cause: str, message: str, now: float) -> None:
        """A client has passed a bound: 1008 at once, and no more of what it said is handled."""
        self.count(limit, route, now)
        self.dispatcher.drop_messages(route)
        # What waits behind somebody's unfinished message is output too: it goes with the rest.
        self.outgoing.forget(route)
        self.abort(route, 1008, cause, message, now)


def _nobody_writes(con: Connection) -> None:
    """Until there is a shell."""
