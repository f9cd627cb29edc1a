"""Sans-I/O. Commands of workers, record by record.

Each command returns None, or why it is refused. A command for a closed connection is a normal race:
it is counted and does nothing. An id that was never given out is a mistake: refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from wsraw.config.units import human_size
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.delivery.accounts import MARK, size_of
from wsraw.gateway.delivery.entry import Entry, Reopening, Worker
from wsraw.gateway.delivery.groups.table import Table
from wsraw.gateway.delivery.pools.timers import PoolTimers
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.delivery.worker import MOST_RANGES
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.gateway.websocket.websocket import close_refusal
from wsraw.link.gateway_end import MOST_OWED, GatewayEnd
from wsraw.link.open_options import check
from wsraw.link.records import (
    GROUP_LIMIT,
    STATE_LIMIT,
    Accept,
    Ack,
    Answer,
    Bye,
    Close,
    CloseRef,
    Couple,
    Event,
    Figures,
    GiveBack,
    Join,
    Leave,
    Mark,
    OnClose,
    OnRequest,
    Open,
    Opened,
    Part,
    Publish,
    Query,
    Reached,
    Record,
    Reject,
    Relay,
    Respond,
    Send,
    SendRef,
    SendToUser,
    Splice,
    State,
    Stats,
    User,
)

MOST_MARKS: Final = 1000
"""Marks that may wait on one connection."""

TOO_LATE: Final = 1008
"""Close code for a client that is rejected after it was accepted (RFC 6455, section 7.4.1)."""

PAGE: Final = 4096
"""Members of a group in one answer."""


class Splicer(Protocol):
    """What commands need of the `Splices` of gateway/splices/."""

    def join(
        self,
        one: Entry,
        other: Entry,
        begun: tuple[int, int],
        worker: Worker,
        options: dict[str, Any],
    ) -> str | None: ...
    def close_without(self, entry: Entry, now: float) -> None: ...


class Commands:
    """Applies commands of workers to connections, groups and flow control."""

    def __init__(
        self,
        registry: Registry,
        splices: Splicer,
        leave: Callable[[Worker, float], None],
        give_back: Callable[[Worker, int], Entry | str],
        timers: PoolTimers[GatewayEnd[Entry]],
    ) -> None:
        """`leave`: a worker has said bye. `give_back`: a worker gives back the event with that
        number; returns its connection, or why that is impossible."""
        self._registry = registry
        self._splices = splices
        self._leave_session = leave
        self._give_back_event = give_back
        self._timers = timers
        self._on_connection: dict[type, Callable[[Worker, Entry, Any, float], str | None]] = {
            Accept: self._accept,
            Reject: self._reject,
            Respond: self._respond,
            Close: self._close,
            State: self._state,
            Leave: self._leave,
            User: self._user,
        }
        """Commands for a connection that is still there."""
        self._by_type: dict[type, Callable[[Worker, Any, float], str | None]] = {
            Ack: self._ack,
            Part: self._part,
            GiveBack: self._give_back,
            Send: self._send,
            Join: self._join,
            Open: self._open,
            Publish: self._publish,
            SendToUser: self._send_to_user,
            Couple: self._couple,
            Splice: self._splice,
            Mark: self._mark,
            Query: self._query,
            Stats: self._stats,
            Bye: self._bye,
            SendRef: self._reach,
            CloseRef: self._reach,
            Relay: self._relay,
            Figures: self._figures,
        }
        self._queries: dict[str, Callable[[Worker, Query, float], Answer | str | None]] = {
            "ids": self._ids,
            "members": self._members,
            "count": self._count,
            "buffered": self._buffered,
            "turn": self._turn,
            "user_connections": self._user_connections,
            "users": self._users,
        }

    def apply(self, worker: Worker, record: Record, now: float) -> str | None:
        """Apply a record; return why it is refused, if it is."""
        command = self._by_type.get(type(record))
        if command is not None:
            return command(worker, record, now)
        command_on = self._on_connection.get(type(record))
        if command_on is None:
            return "not supported in this version"
        entry = self._registry.find(record.con)  # type: ignore[attr-defined]
        return command_on(worker, entry, record, now) if isinstance(entry, Entry) else entry

    def _ack(self, worker: Worker, ack: Ack, now: float) -> None:
        for flight in self._registry.dispatcher.acked(worker, ack):
            entry = flight.owner
            con = entry.con
            kind = type(flight.event)
            try:
                if kind is OnClose:
                    self._registry.forget(entry)
                elif con.undecided:
                    self._settle(entry, kind, worker, now)
                if con.intake.half_closed:
                    self._registry.end_if_drained(entry, now)
            except Exception as error:
                self._registry.fault(con, error, now)

    def _part(self, worker: Worker, part: Part, now: float) -> str:
        return "it is the last record of a batch without acks; here it has no effect"

    # --- the verdict of on_connect ---

    def _settle(self, entry: Entry, kind: type, worker: Worker, now: float) -> None:
        """on_connect or on_request has returned without a verdict: that accepts the client, or
        passes the request on. But if the batch had a record that could not be read, that may have
        been the verdict."""
        is_unread = worker.unread_batch == worker.session.batches
        if kind is OnRequest and is_unread:
            self._respond(worker, entry, Respond(entry.id, 500), now)
        elif kind is OnRequest:
            self._end_request(entry, entry.con.phase.pass_on(entry.con, now), now)
        elif is_unread:
            self._decided(entry, entry.con.reject(Reject(entry.id, 500), now), now)
        else:
            self._decided(entry, entry.con.accept(None, (), now), now)

    def _accept(self, worker: Worker, entry: Entry, accept: Accept, now: float) -> str | None:
        if not entry.con.undecided:
            return self._no_verdict(entry)
        headers = list(accept.headers.items())
        return self._decided(entry, entry.con.accept(accept.subprotocol, headers, now), now)

    def _reject(self, worker: Worker, entry: Entry, reject: Reject, now: float) -> str | None:
        if not entry.con.undecided:
            why = self._no_verdict(entry)
            if why is not None and entry.con.needs_verdict and entry.holder is worker:
                # The worker gets no more events of a client that it has rejected.
                reason = reject.reason or "rejected"
                self._close(worker, entry, Close(entry.id, TOO_LATE, reason), now)
            return why
        if entry.con.kind == "raw" and entry.con.state is not CLOSED:
            # Clients that wait for their handshake are counted where it ends (verdict.py).
            self._registry.counters.hit("verdict", now)
        return self._decided(entry, entry.con.reject(reject, now), now)

    def _decided(
        self, entry: Entry, outcome: tuple[list[Event], str | None], now: float
    ) -> str | None:
        events, why = outcome
        registry = self._registry
        if events:
            registry.dispatcher.drop_messages(entry)
        registry.take(entry.con, events, now)
        registry.flow.output_changed(entry)
        # The client is read again, and data that came too early is parsed.
        registry.flow.changed[entry] = None
        registry.dirty[entry.con] = None
        return why

    def _respond(self, worker: Worker, entry: Entry, respond: Respond, now: float) -> str | None:
        con = entry.con
        if con.state is CLOSED:
            return None
        if con.kind != "http":
            return f"connection {con.id} is not an HTTP request: only on_request is answered so"
        events, why = con.phase.respond(con, respond, now)
        if con.phase.is_answering:
            # No other worker can send the rest of its body.
            entry.owner = worker
            worker.ties.add(entry)
        self._end_request(entry, events, now)
        return why

    def _end_request(self, entry: Entry, events: list[Event], now: float) -> None:
        registry = self._registry
        registry.take(entry.con, events, now)
        registry.flow.output_changed(entry)
        registry.dirty[entry.con] = None

    def _no_verdict(self, entry: Entry) -> str | None:
        con = entry.con
        if con.state is CLOSED:
            return None
        if con.opened:
            return f"connection {con.id} was opened by a handler: there is nothing to decide"
        if not con.needs_verdict:
            return (
                f"connection {con.id} was accepted by the gateway; on_connect decides only with "
                "the setting verdict = handlers"
            )
        return f"connection {con.id} has been decided on, or its on_connect has not been sent"

    # --- data and groups ---

    def _send(self, worker: Worker, send: Send, now: float) -> str | None:
        entry = self._registry.entries.get(send.con) or self._registry.find(send.con)
        if type(entry) is Entry:
            outgoing = self._registry.outgoing
            if outgoing.broadcasts:
                outgoing.catch_up(entry, now)
            return outgoing.send(entry, worker, send, now)
        return entry  # type: ignore[return-value]

    def _open(self, worker: Worker, open_: Open, now: float) -> str | None:
        if not worker.take_id(open_.con):
            return f"connection {open_.con} is not of this session's range, or was opened before"
        try:
            asked = check(open_)
        except ValueError as error:
            return f"connection {open_.con}: {error}"
        if self._registry.has_closed_all:
            # Otherwise, on_close handlers that open connections could delay the stop for ever.
            return None
        pool = self._registry.pool_of(worker)
        name = asked.name
        existing = self._registry.named(pool, name) if name else None
        if existing is not None:
            self._registry.alias(open_.con, existing)
            worker.session.notice(Opened(open_.con, existing.id))
            self._registry.dispatcher.with_output.add(worker)
            return None
        con = dialed(open_.con, asked, self._registry.settings, {}, now)
        entry = self._registry.add(con, pool, now)
        entry.opener = worker
        worker.ties.add(entry)
        self._registry.dispatcher.hold(entry, worker)
        if name:
            self._registry.give_name(entry, name)
        if asked.reconnect:
            entry.reopening = Reopening(asked, 0)
            self._registry.flow.keep(entry, size_of(asked))
        during = self._registry.entries.get(asked.during)
        couple = during if asked.couple is None else self._registry.entries.get(asked.couple)
        if couple is not None:
            self._registry.flow.couple(entry, couple)
        if during is None and not name:
            entry.owner = worker
        self._registry.to_dial.append(entry)
        return None

    def _close(self, worker: Worker, entry: Entry, close: Close, now: float) -> str | None:
        why = close_refusal(close.code)
        if why is not None:
            return why
        self._registry.dispatcher.drop_messages(entry)
        self._registry.outgoing.catch_up(entry, now)
        if not self._registry.outgoing.hold_close(entry, worker, close):
            self._registry.close(entry, close.code, close.reason, "handler", now)
        return None

    def _state(self, worker: Worker, entry: Entry, state: State, now: float) -> str | None:
        if len(state.data) > STATE_LIMIT:
            most = human_size(STATE_LIMIT)
            return f"state of {human_size(len(state.data))}; at most {most} are kept"
        if not self._may_keep(worker, entry):
            return "state is taken only while an event of that connection is being handled"
        self._registry.flow.keep(entry, len(state.data) - len(entry.state))
        entry.state = state.data
        entry.version += 1
        return None

    @staticmethod
    def _may_keep(worker: Worker, entry: Entry) -> bool:
        """Whether data that a worker wants to keep with a connection comes in order with what
        others have kept there."""
        return entry.holder is worker and (entry.in_flight > 0 or entry.opener is worker)

    def _join(self, worker: Worker, join: Join, now: float) -> str | None:
        entry = self._registry.find(join.con)
        if not isinstance(entry, Entry):
            if entry is None and join.ref:
                self._answer(worker, Answer(join.ref, ["", 0, False, 0]))
            return entry
        groups = self._registry.groups
        if entry.con.kind == "http":
            return f"connection {entry.id} is an HTTP request, which cannot join a group"
        if join.since is None and not join.ref:
            return groups.join(entry, join.group)
        joined = groups.join_since(entry, join.group, join.since, now)
        if not join.ref:
            return joined if isinstance(joined, str) else None
        # A text says why not.
        self._answer(worker, Answer(join.ref, joined))
        return None

    def _answer(self, worker: Worker, answer: Answer) -> None:
        worker.session.notice(answer)
        self._registry.dispatcher.with_output.add(worker)

    def _leave(self, worker: Worker, entry: Entry, leave: Leave, now: float) -> str | None:
        # Earlier published messages come first.
        self._registry.outgoing.catch_up(entry, now)
        self._registry.groups.leave(entry, leave.group)
        return None

    def _user(self, worker: Worker, entry: Entry, user: User, now: float) -> str | None:
        if not self._may_keep(worker, entry):
            return "a user is taken only while an event of that connection is being handled"
        if entry.con.kind == "http":
            return f"connection {entry.id} is an HTTP request, which has no user"
        return self._registry.groups.bind(entry, user.user)

    def _publish(self, worker: Worker, publish: Publish, now: float) -> str | None:
        return self._registry.groups.publish(publish, now)

    def _send_to_user(self, worker: Worker, send: SendToUser, now: float) -> str | None:
        return self._registry.groups.send_to_user(send, now)

    def _couple(self, worker: Worker, couple: Couple, now: float) -> str | None:
        one, other = self._registry.find(couple.con), self._registry.find(couple.other)
        if isinstance(one, Entry) and isinstance(other, Entry):
            self._registry.flow.couple(one, other)
        return next((why for why in (one, other) if isinstance(why, str)), None)

    def _splice(self, worker: Worker, splice: Splice, now: float) -> str | None:
        one, other = self._registry.find(splice.con), self._registry.find(splice.other)
        why = next((why for why in (one, other) if isinstance(why, str)), None)
        if why is None and isinstance(one, Entry) and isinstance(other, Entry):
            begun = splice.last, splice.other_last
            why = self._splices.join(one, other, begun, worker, splice.options)
            if why is None:
                return None
        if why is not None:
            for entry in (one, other):
                if isinstance(entry, Entry) and entry.splice is None and entry.holder is worker:
                    # From now on the worker leaves its messages to us.
                    self._close(worker, entry, Close(entry.id, 1011, "it cannot be spliced"), now)
            return why
        for entry in (one, other):
            if isinstance(entry, Entry):
                self._splices.close_without(entry, now)
        return None

    def _mark(self, worker: Worker, mark: Mark, now: float) -> str | None:
        entry = self._registry.find(mark.con)
        if isinstance(entry, str):
            return entry
        if isinstance(entry, Entry):
            # Messages that were sent before the mark come before it.
            self._registry.outgoing.catch_up(entry, now)
            if entry.con.is_making:
                return UNFINISHED
        if entry is not None:
            worker.window.touch(entry, now)
        is_open = entry is not None and entry.con.state is not CLOSED
        if entry is None or not is_open or not entry.con.output.waiting:
            worker.session.notice(Reached(mark.con, mark.ref, is_open))
            self._registry.dispatcher.with_output.add(worker)
            return None
        if entry.marks is None:
            entry.marks = []
        if len(entry.marks) >= MOST_MARKS:
            return f"{MOST_MARKS} marks wait on connection {mark.con}"
        self._registry.flow.keep(entry, MARK)
        entry.marks.append((entry.sent + entry.con.output.early_size, worker, mark.ref))
        return None

    def _stats(self, worker: Worker, stats: Stats, now: float) -> str | None:
        pool = self._registry.pool_of(worker)
        why = pool.totals.count(stats)
        if why is None and stats.exceptions:
            self._registry.raised_in(pool, stats.exceptions)
        return why

    def _give_back(self, worker: Worker, given: GiveBack, now: float) -> str | None:
        found = self._give_back_event(worker, given.seq)
        if isinstance(found, str):
            return found
        if not found.gone:
            text = "connection %d: the new version failed; an old worker handles the event"
            self._registry.counters.say("info", text, found.id)
        return None

    def _query(self, worker: Worker, query: Query, now: float) -> str | None:
        # The worker asks for more members from where the answer ends.
        is_list = query.what in ("members", "user_connections")
        most = 2 * MOST_OWED if is_list else MOST_OWED
        if worker.session.owed >= most:
            return "too many answers at once; ask again later"
        answer = self._queries.get(query.what)
        if answer is None:
            return f"there is no query {query.what!r}; ask for {', '.join(self._queries)}"
        found = answer(worker, query, now)
        if isinstance(found, str):
            return found
        if found is None:
            # Other gateways are asked first.
            worker.session.owed += 1
            return None
        size = len(found.value) if isinstance(found.value, list | dict) else 1
        worker.session.owed += max(1, size)
        worker.session.notice(found)
        self._registry.dispatcher.with_output.add(worker)
        return None

    def _ids(self, worker: Worker, query: Query, now: float) -> Answer | str:
        if len(worker.ids) >= MOST_RANGES:
            return f"{MOST_RANGES} ranges are not used up yet"
        ids = self._registry.ids.new_range(worker)
        return Answer(query.ref, [ids[0], ids[-1]])

    def _members(self, worker: Worker, query: Query, now: float) -> Answer | None:
        return self._page(worker, query, self._registry.groups.table)

    def _user_connections(self, worker: Worker, query: Query, now: float) -> Answer | None:
        return self._page(worker, query, self._registry.groups.users)

    def _page(self, worker: Worker, query: Query, table: Table) -> Answer | None:
        most = min(PAGE, max(0, MOST_OWED - worker.session.owed))
        found = Answer(query.ref, *table.page(query.arg, query.number, most))
        return found if found.next else self._with_others(worker, query, found)

    def _count(self, worker: Worker, query: Query, now: float) -> Answer | None:
        found = Answer(query.ref, len(self._registry.groups.members(query.arg)))
        return self._with_others(worker, query, found)

    def _users(self, worker: Worker, query: Query, now: float) -> Answer | None:
        most = max(0, MOST_OWED - worker.session.owed)
        found = Answer(query.ref, self._registry.groups.users_in(query.arg, most))
        return self._with_others(worker, query, found)

    def _with_others(self, worker: Worker, query: Query, answer: Answer) -> Answer | None:
        """The answer that includes those of other gateways; None until they have come."""
        cluster = self._registry.groups.cluster
        return answer if cluster is None else cluster.ask(worker, query, answer)

    def _buffered(self, worker: Worker, query: Query, now: float) -> Answer | str:
        entry = self._registry.find(query.number)
        if isinstance(entry, str):
            return entry
        if entry is not None:
            self._registry.outgoing.catch_up(entry, now)
        return Answer(query.ref, 0 if entry is None else entry.con.output.waiting)

    def _turn(self, worker: Worker, query: Query, now: float) -> Answer | str:
        if query.number <= 0 or not 0 < len(query.arg) <= GROUP_LIMIT:
            return f"a timer has a name of 1 to {GROUP_LIMIT} characters, and milliseconds above 0"
        session, interval = worker.session, query.number / 1000
        wait = self._timers.ask((session.pool, query.arg), interval, session, now)
        return Answer(query.ref, wait)

    def _bye(self, worker: Worker, bye: Bye, now: float) -> None:
        self._leave_session(worker, now)

    # --- other gateways ---

    def _reach(self, worker: Worker, command: SendRef | CloseRef, now: float) -> str | None:
        cluster = self._registry.groups.cluster
        if cluster is None:
            return "references are for a cluster; see the setting cluster"
        found = cluster.reach(command)
        return found if found is None or isinstance(found, str) else self.apply(worker, found, now)

    def _relay(self, worker: Worker, relay: Relay, now: float) -> str | None:
        cluster = self._registry.groups.cluster
        if cluster is None or worker is not cluster.agent:
            return "only the agent of a cluster may do that"
        command = cluster.receive(relay)
        if isinstance(command, Publish):
            return self._registry.groups.deliver(command, now)
        if isinstance(command, SendToUser):
            return self._registry.groups.deliver_to_user(command, now)
        return None if command is None else self.apply(worker, command, now)

    def _figures(self, worker: Worker, figures: Figures, now: float) -> str | None:
        cluster = self._registry.groups.cluster
        if cluster is None or worker is not cluster.agent:
            return "only the agent of a cluster may do that"
        cluster.take_figures(figures)
        return None
