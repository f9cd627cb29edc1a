"""Sans-I/O. What workers command, record by record.

Each command returns None, or why it is refused. A connection that is closed already is the normal
race: a counted no-op. An id that was never given out is a mistake: refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import wsraw.messages as m
from wsraw.gateway.connection import CLOSED, Connection
from wsraw.gateway.framing import UNFINISHED
from wsraw.gateway.route import MOST_RANGES, Reopening, Route, Worker
from wsraw.gateway.table import Table
from wsraw.gateway.weights import MARK, size_of
from wsraw.link import MOST_OWED
from wsraw.opening import check
from wsraw.units import human_size

MOST_MARKS: Final = 1000
"""Marks that wait on one connection."""


class Commands:
    """Applies the records of workers to connections, groups and the flow between them."""

    def __init__(self, table: Table, leave: Callable[[Worker, float], None]) -> None:
        self._table = table
        self._leave_session = leave
        self._by_type: dict[type, Callable[[Worker, Any, float], str | None]] = {
            m.Ack: self._ack,
            m.Accept: self._accept,
            m.Reject: self._reject,
            m.Send: self._send,
            m.Open: self._open,
            m.Close: self._close,
            m.State: self._state,
            m.Join: self._join,
            m.Leave: self._leave,
            m.Publish: self._publish,
            m.Couple: self._couple,
            m.Mark: self._mark,
            m.Query: self._query,
            m.Bye: self._bye,
        }

    def apply(self, worker: Worker, record: m.Record, now: float) -> str | None:
        """Do what a record says, or tell why not."""
        command = self._by_type.get(type(record))
        if command is None:
            return "not built in this version"
        return command(worker, record, now)

    def _ack(self, worker: Worker, ack: m.Ack, now: float) -> None:
        for entry in self._table.dispatcher.acked(worker, ack):
            route: Route = entry.owner
            con = route.con
            kind = type(entry.event)
            try:
                if kind is m.OnClose:
                    self._table.forget(route)
                elif kind is m.OnConnect and con.undecided:
                    self._settle(route, worker, now)
                if con.half_closed:
                    self._table.judge_half_closed(route, now)
            except Exception as error:
                self._table.fault(con, error, now)

    # --- the verdict of on_connect ---

    def _settle(self, route: Route, worker: Worker, now: float) -> None:
        """on_connect has returned. Without a word it lets the client in; but if the batch had a
        record that we could not read, that may have been the word."""
        if worker.unread_batch == worker.batches:
            self._decided(route, route.con.reject(500, "", {}, b"", now), now)
        else:
            self._decided(route, route.con.accept(None, {}, now), now)

    def _accept(self, worker: Worker, accept: m.Accept, now: float) -> str | None:
        route = self._table.find(accept.con)
        if not isinstance(route, Route):
            return route
        if not route.con.undecided:
            return self._no_verdict(route)
        return self._decided(route, route.con.accept(accept.subprotocol, accept.headers, now), now)

    def _reject(self, worker: Worker, reject: m.Reject, now: float) -> str | None:
        route = self._table.find(reject.con)
        if not isinstance(route, Route):
            return route
        if not route.con.undecided:
            return self._no_verdict(route)
        status, reason, body = reject.status, reject.reason, reject.body
        if route.con.kind == "raw" and route.con.state is not CLOSED:
            # Those that wait for their handshake are counted where it ends (asking.py).
            self._table.limits.hit("verdict", now)
        return self._decided(
            route, route.con.reject(status, reason, reject.headers, body, now), now
        )

    def _decided(
        self, route: Route, outcome: tuple[list[m.Event], str | None], now: float
    ) -> str | None:
        events, why = outcome
        table = self._table
        if events:
            table.dispatcher.drop_messages(route)
        table.take(route.con, events, now)
        table.flow.output_changed(route)
        # It reads again, and what came too early is parsed.
        table.flow.changed[route] = None
        table.dirty[route.con] = None
        return why

    def _no_verdict(self, route: Route) -> str | None:
        con = route.con
        if con.state is CLOSED:
            return None
        if con.opened:
            return f"connection {con.id} was opened by us: there is nobody to accept or reject"
        if not con.asks:
            return (
                f"connection {con.id} was let in by the gateway; with the setting "
                "verdict = handlers on_connect decides"
            )
        return f"connection {con.id} has been decided on, or its on_connect has not been sent"

    # --- data and groups ---

    def _send(self, worker: Worker, send: m.Send, now: float) -> str | None:
        route = self._table.routes.get(send.con) or self._table.find(send.con)
        if type(route) is Route:
            outgoing = self._table.outgoing
            if outgoing.spreads:
                outgoing.catch_up(route, now)
            return outgoing.send(route, worker, send, now)
        return route  # type: ignore[return-value]

    def _open(self, worker: Worker, open_: m.Open, now: float) -> str | None:
        if not worker.take_id(open_.con):
            return f"connection {open_.con} is not of this session's range, or was opened before"
        try:
            asked = check(open_)
        except ValueError as error:
            return f"connection {open_.con}: {error}"
        pool = self._table.pool(worker.pool)
        name = asked.name
        standing = self._table.standing(pool, name) if name else None
        if standing is not None:
            self._table.alias(open_.con, standing)
            worker.notice(m.Opened(open_.con, standing.id))
            self._table.dispatcher.talked.add(worker)
            return None
        con = Connection.dialled(open_.con, asked, self._table.settings, {}, now)
        route = self._table.add(con, pool, now)
        route.opener = worker
        worker.ties.add(route)
        self._table.dispatcher.hold(route, worker)
        if name:
            self._table.give_name(route, name)
        if asked.reconnect:
            route.reopening = Reopening(asked, 0)
            self._table.flow.keep_for(route, size_of(asked))
        during = self._table.routes.get(asked.during)
        couple = during if asked.couple is None else self._table.routes.get(asked.couple)
        if couple is not None:
            self._table.flow.couple(route, couple)
        if during is None and not name:
            route.owner = worker
        self._table.to_dial.append(route)
        return None

    def _close(self, worker: Worker, close: m.Close, now: float) -> str | None:
        route = self._table.find(close.con)
        if not isinstance(route, Route):
            return route
        why = route.con.close_refusal(close.code)
        if why is not None:
            return why
        self._table.dispatcher.drop_messages(route)
        self._table.outgoing.catch_up(route, now)
        if not self._table.outgoing.hold_close(route, worker, close):
            self._table.close_as_asked(route, close, now)
        return None

    def _state(self, worker: Worker, state: m.State, now: float) -> str | None:
        route = self._table.find(state.con)
        if not isinstance(route, Route):
            return route
        if len(state.data) > m.STATE_LIMIT:
            most = human_size(m.STATE_LIMIT)
            return f"state of {human_size(len(state.data))}; at most {most} are kept"
        if route.holder is not worker or not (route.in_flight or route.opener is worker):
            return "state is taken only while an event of that connection is being handled"
        self._table.flow.keep_for(route, len(state.data) - len(route.state))
        route.state = state.data
        route.version += 1
        return None

    def _join(self, worker: Worker, join: m.Join, now: float) -> str | None:
        route = self._table.find(join.con)
        if not isinstance(route, Route):
            return route
        return self._table.groups.join(route, join.group)

    def _leave(self, worker: Worker, leave: m.Leave, now: float) -> str | None:
        route = self._table.find(leave.con)
        if not isinstance(route, Route):
            return route
        self._table.groups.leave(route, leave.group)
        return None

    def _publish(self, worker: Worker, publish: m.Publish, now: float) -> str | None:
        if publish.type not in ("text", "binary"):
            return f"type {publish.type!r} is neither text nor binary"
        excluded = publish.options.get("except", ())
        if not isinstance(excluded, list | tuple) or not all(isinstance(c, int) for c in excluded):
            return "the option except must be a list of connection ids"
        members = self._table.groups.members(publish.group)
        return self._table.outgoing.publish(members, set(excluded), publish, now)

    def _couple(self, worker: Worker, couple: m.Couple, now: float) -> str | None:
        one, other = self._table.find(couple.con), self._table.find(couple.other)
        if isinstance(one, Route) and isinstance(other, Route):
            self._table.flow.couple(one, other)
        return next((why for why in (one, other) if isinstance(why, str)), None)

    def _mark(self, worker: Worker, mark: m.Mark, now: float) -> str | None:
        route = self._table.find(mark.con)
        if isinstance(route, str):
            return route
        if isinstance(route, Route):
            # What was sent before stands before it.
            self._table.outgoing.catch_up(route, now)
            if route.con.is_making:
                return UNFINISHED
        if route is None or not route.con.output_size:
            worker.notice(m.Reached(mark.con, mark.ref))
            self._table.dispatcher.talked.add(worker)
            return None
        if route.marks is None:
            route.marks = []
        if len(route.marks) >= MOST_MARKS:
            return f"{MOST_MARKS} marks wait on connection {mark.con}"
        self._table.flow.keep_for(route, MARK)
        route.marks.append((route.written + route.con.output_size, worker, mark.ref))
        return None

    def _query(self, worker: Worker, query: m.Query, now: float) -> str | None:
        value: Any
        if worker.owed >= MOST_OWED:
            return "too many answers at once; ask again later"
        if query.what == "ids" and len(worker.ids) >= MOST_RANGES:
            return f"{MOST_RANGES} ranges are not used up yet"
        if query.what == "ids":
            ids = self._table.new_range(worker)
            value = [ids[0], ids[-1]]
        elif query.what == "members":
            value = [route.id for route in self._table.groups.members(query.arg)]
        else:
            return f"nothing is known of {query.what!r}; ask for ids or members"
        worker.owed += len(value)
        worker.notice(m.Answer(query.ref, value))
        self._table.dispatcher.talked.add(worker)
        return None

    def _bye(self, worker: Worker, bye: m.Bye, now: float) -> None:
        self._leave_session(worker, now)
