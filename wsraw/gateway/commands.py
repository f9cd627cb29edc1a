"""Sans-I/O. What workers command, record by record.

Each command returns None, or why it is refused. A connection that is closed already is the normal
race: a counted no-op. An id that was never given out is a mistake: refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from wsraw import messages as m
from wsraw.gateway.connection import CONNECTING, OPEN, Connection
from wsraw.gateway.reopener import Reopening
from wsraw.gateway.route import Route, Worker

if TYPE_CHECKING:
    from wsraw.gateway.router import Router

log = logging.getLogger("wsraw.gateway")


ALIASES_KEPT: Final = 10_000
"""Ids under which standing connections were asked for; the oldest goes when there are more."""


class Commands:
    """Applies the records of workers to connections, groups and the flow between them."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._names: dict[tuple[str, str], Route] = {}
        self._aliases: dict[int, int] = {}
        self.unknown_ids = 0
        """Commands for connections that were closed already."""
        self._table: dict[type, Callable[[Worker, Any, float], str | None]] = {
            m.Ack: self._ack,
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
        command = self._table.get(type(record))
        if command is None:
            return "not built in this version"
        return command(worker, record, now)

    def forget(self, route: Route) -> None:
        """A connection is gone; its name is free."""
        if route.name is not None and self._names.get((route.pool.name, route.name)) is route:
            del self._names[route.pool.name, route.name]
            self._aliases = {a: con for a, con in self._aliases.items() if con != route.id}

    def succeed(self, route: Route, successor: Route) -> None:
        """The name now means the successor; so do the ids under which others have opened it."""
        if route.name is None:
            return
        self._names[route.pool.name, route.name] = successor
        for asked, con in self._aliases.items():
            if con == route.id:
                self._aliases[asked] = successor.id

    def _alias(self, asked: int, standing: Route) -> None:
        """Until the worker has read our `opened`, it uses the id that it asked with."""
        self._aliases[asked] = standing.id
        if len(self._aliases) > ALIASES_KEPT:
            del self._aliases[next(iter(self._aliases))]

    def _route(self, con: int) -> Route | str | None:
        """The connection, None if it is closed already, or why there can be none."""
        route = self._router.routes.get(self._aliases.get(con, con) if self._aliases else con)
        if route is not None:
            return route
        if con >> m.ID_EPOCH_SHIFT == self._router.epoch and (
            0 < con & ((1 << m.ID_EPOCH_SHIFT) - 1) < self._router.next_id
        ):
            self.unknown_ids += 1
            return None
        if 0 < con >> m.ID_EPOCH_SHIFT < self._router.epoch:
            # Of an earlier gateway: closed when that one ended.
            self.unknown_ids += 1
            return None
        return f"connection {con} was never given out"

    def _ack(self, worker: Worker, ack: m.Ack, now: float) -> None:
        for entry in self._router.dispatcher.acked(worker, ack):
            route: Route = entry.owner
            if type(entry.event) is m.OnClose:
                self._router.forget(route)
            elif route.con.half_closed:
                self._router.judge_half_closed(route, now)

    def _send(self, worker: Worker, send: m.Send, now: float) -> str | None:
        route = self._router.routes.get(send.con) or self._route(send.con)
        if type(route) is Route:
            return self._router.outgoing.send(route, worker, send, now)
        return route  # type: ignore[return-value]

    def _open(self, worker: Worker, open_: m.Open, now: float) -> str | None:
        if not worker.take_id(open_.con):
            return f"connection {open_.con} is not of this session's range, or was opened before"
        pool = self._router.pool(worker.pool)
        name = open_.options.get("name")
        if name is not None and not isinstance(name, str):
            return "the option name must be a string"
        standing = self._names.get((pool.name, name)) if name else None
        if standing is not None and standing.con.state in (CONNECTING, OPEN):
            self._alias(open_.con, standing)
            worker.notice(m.Opened(open_.con, standing.id))
            self._router.dispatcher.talked.add(worker)
            return None
        con = Connection.dialled(open_.con, open_, self._router.settings, {}, now)
        route = self._router.add(con, pool, now)
        route.opener = worker
        worker.ties.add(route)
        self._router.dispatcher.hold(route, worker)
        if name:
            route.name = name
            self._names[pool.name, name] = route
        if open_.options.get("reconnect"):
            route.reopening = Reopening(open_, 0, now)
        during = self._router.routes.get(_id_option(open_, "during"))
        couple = (
            self._router.routes.get(_id_option(open_, "couple"))
            if "couple" in open_.options
            else during
        )
        if couple is not None:
            self._router.flow.couple(route, couple)
        if during is None and not name:
            route.owner = worker
        self._router.to_dial.append(route)
        return None

    def _close(self, worker: Worker, close: m.Close, now: float) -> str | None:
        route = self._route(close.con)
        if not isinstance(route, Route):
            return route
        why = route.con.close_refusal(close.code)
        if why is not None:
            return why
        self._router.dispatcher.drop_messages(route)
        self._router.close(route, close.code, close.reason, "handler", now)
        return None

    def _state(self, worker: Worker, state: m.State, now: float) -> str | None:
        route = self._route(state.con)
        if not isinstance(route, Route):
            return route
        if len(state.data) > m.STATE_LIMIT:
            return f"state of {len(state.data)} bytes; at most {m.STATE_LIMIT} are kept"
        if route.holder is not worker or not (route.in_flight or route.opener is worker):
            return "state is taken only while an event of that connection is being handled"
        route.state = state.data
        route.version += 1
        return None

    def _join(self, worker: Worker, join: m.Join, now: float) -> str | None:
        route = self._route(join.con)
        if not isinstance(route, Route):
            return route
        self._router.groups.join(route, join.group)
        return None

    def _leave(self, worker: Worker, leave: m.Leave, now: float) -> str | None:
        route = self._route(leave.con)
        if not isinstance(route, Route):
            return route
        self._router.groups.leave(route, leave.group)
        return None

    def _publish(self, worker: Worker, publish: m.Publish, now: float) -> str | None:
        if publish.type not in ("text", "binary"):
            return f"type {publish.type!r} is neither text nor binary"
        excluded = publish.options.get("except", ())
        if not isinstance(excluded, list | tuple) or not all(isinstance(c, int) for c in excluded):
            return "the option except must be a list of connection ids"
        members = self._router.groups.members(publish.group)
        return self._router.outgoing.publish(members, set(excluded), publish, now)

    def _couple(self, worker: Worker, couple: m.Couple, now: float) -> str | None:
        one, other = self._route(couple.con), self._route(couple.other)
        if isinstance(one, Route) and isinstance(other, Route) and one is not other:
            self._router.flow.couple(one, other)
        return next((why for why in (one, other) if isinstance(why, str)), None)

    def _mark(self, worker: Worker, mark: m.Mark, now: float) -> str | None:
        route = self._route(mark.con)
        if isinstance(route, str):
            return route
        if route is None or not route.con.output_size:
            worker.notice(m.Reached(mark.con, mark.ref))
            self._router.dispatcher.talked.add(worker)
            return None
        if route.marks is None:
            route.marks = []
        route.marks.append((route.written + route.con.output_size, worker, mark.ref))
        return None

    def _query(self, worker: Worker, query: m.Query, now: float) -> str | None:
        value: Any
        if query.what == "ids":
            ids = self._router.new_range(worker)
            value = [ids[0], ids[-1]]
        elif query.what == "members":
            value = [route.id for route in self._router.groups.members(query.arg)]
        else:
            return f"nothing is known of {query.what!r}; ask for ids or members"
        worker.notice(m.Answer(query.ref, value))
        self._router.dispatcher.talked.add(worker)
        return None

    def _bye(self, worker: Worker, bye: m.Bye, now: float) -> None:
        log.info("%s has left", self._router.name_of(worker))
        self._router.end_session(worker, now)


def _id_option(open_: m.Open, name: str) -> int:
    value = open_.options.get(name)
    return value if isinstance(value, int) else 0
