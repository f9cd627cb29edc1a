"""Sans-I/O. Workers and their sessions to records and back. A worker continues as before: its
session number, the numbers of its events and its acks stay valid."""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.cluster.absent import Absent
from wsraw.gateway.cluster.cluster import Cluster, PendingQuery
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Worker
from wsraw.gateway.delivery.pools.timers import _Timer
from wsraw.gateway.delivery.worker import IdRange, RemoteWorker, WorkerOf
from wsraw.gateway.frozen.copying import Clock, Plan
from wsraw.gateway.frozen.delivery import ITS_OWN, Refs, ThawDelivery
from wsraw.gateway.frozen.records import (
    BacklogState,
    ClusterState,
    FlightState,
    FrozenError,
    LossState,
    PartsState,
    SessionsState,
    SessionState,
    WindowState,
    WorkerState,
)
from wsraw.gateway.sessions.backlog import Backlog, Unapplied
from wsraw.gateway.sessions.sessions import Cut, Loss, Sessions
from wsraw.gateway.sessions.tokens import Tokens
from wsraw.link.gateway_end import EVENTS, GatewayEnd
from wsraw.link.parts import KeptPart, Parts
from wsraw.link.records import asked_for, gateway_decoder, tag_of
from wsraw.link.states import DRAINING, GONE, READY, LinkState
from wsraw.link.window import InFlight, RoundTrips, Window

SENT_BY_TURN: Final = "sent at the end of each turn"

WINDOW: Final = Plan(
    Window,
    WindowState,
    copied="limit byte_limit largest concurrency choked next_seq acked_events service_time"
    " round_trip _acked _was_empty _last_acked_seq _grow_after",
    translated="in_flight samples round_trips _busy_since _last_ack _sample_since",
    left_out={"bytes": "counted anew"},
)
ROUND_TRIPS: Final = Plan(
    RoundTrips,
    WindowState,
    translated="last _samples sent_at",
    left_out={"is_remote": "the worker"},
)
IN_FLIGHT: Final = Plan(InFlight, FlightState, translated="event owner size sent_at left")
PARTS: Final = Plan(
    Parts,
    PartsState,
    copied="joined_by joined_size",
    translated="kept _joined",
    left_out={"size": "counted anew", "hold": ITS_OWN},
)
SESSION: Final = Plan(
    GatewayEnd,
    SessionState,
    copied="number pool instance language batches batch_acks dropped owed _has_large _unsent_from",
    translated="identity window state parts _out",
    left_out={"_kept": "parts", "_largest_batch": "the worker", "_decoder": ITS_OWN},
)
WORKER: Final = Plan(
    WorkerOf,
    WorkerState,
    copied="number asked starting quota fresh_acks unread_batch is_withdrawn is_agent hung"
    " is_shielded kill_reason",
    translated="session window remote since connections bound ids slow_at overdue skips",
    left_out={"ties": "entries"},
)
IDS: Final = Plan(IdRange, WorkerState, translated="_first _used left")
UNAPPLIED: Final = Plan(Unapplied, BacklogState, copied="records at size", translated="batches")
BACKLOG: Final = Plan(
    Backlog,
    BacklogState,
    translated="workers",
    left_out=dict.fromkeys(("_registry", "_apply", "_receive", "_fault"), ITS_OWN)
    | {"unread": "counted anew", "share": "settings", "per_event": "settings"},
)
TOKENS: Final = Plan(Tokens, SessionsState, translated="_numbers _gone")
LOSS: Final = Plan(Loss, LossState, copied="number is_counted", translated="until events")
SESSIONS: Final = Plan(
    Sessions,
    SessionsState,
    translated="_last_session tokens workers _pending _banned _lost _orphaned backlog timers",
    left_out=dict.fromkeys(("_registry", "_random", "_decoder", "unsent", "read_out"), ITS_OWN)
    | {"splices": "found again by the entries"}
    | dict.fromkeys(("to_supervisor", "replies", "cuts", "left", "dead_letters"), SENT_BY_TURN),
)

CLUSTER: Final = Plan(
    Cluster,
    ClusterState,
    copied="node _next _figures _before _not_sent _is_killed",
    translated="agent _questions _heard_at absent",
    left_out=dict.fromkeys(("_registry", "_tell_supervisor"), ITS_OWN)
    | dict.fromkeys(("_queued", "_queued_at"), "it lives within a turn")
    | {"_is_behind": "all is told"},
)
ABSENT: Final = Plan(
    Absent, ClusterState, translated="entries dropped", left_out={"_registry": ITS_OWN}
)
QUESTION: Final = Plan(PendingQuery, ClusterState, translated="answer query until worker")

OTHER_CLUSTER: Final = "the settings of the cluster have changed"

_STATES: Final = {state.value: state for state in LinkState}


# --- to records ---


def number_lost(sessions: Sessions, refs: Refs) -> None:
    """Number the events of lost links, before any event is frozen."""
    for loss in sessions._lost.values():
        for event in loss.events:
            refs.lost.setdefault(id(event), len(refs.lost))


def freeze_worker(
    worker: Worker, sessions: Sessions, refs: Refs, dying: str | None = None
) -> WorkerState:
    """The record of a worker. `dying`: what was wrong with its link, if the link has ended."""
    clock, remote = refs.clock, worker.remote
    return WORKER.freeze(
        worker,
        identity=worker.session.identity,
        session=_freeze_session(worker.session),
        window=_freeze_window(worker.window, clock),
        remote=(
            remote.address,
            remote.key,
            sorted(remote.pools) if remote.pools is not None else None,
        )
        if remote is not None
        else None,
        since=clock.since(worker.since),
        slow_at=clock.since(worker.slow_at),
        overdue=list(worker.overdue),
        skips=sorted(map(tag_of, worker.skips)),
        ids=[(ids._first, bytes(ids._used).rstrip(b"\0"), ids.left) for ids in worker.ids],
        in_flight=[
            FlightState(
                flight.owner.id,
                refs.event(flight.event, flight.size, flight.sent_at, flight.owner.con),
                flight.left,
            )
            for flight in worker.window.in_flight.values()
        ],
        connections=[entry.id for entry in worker.connections if not entry.gone],
        bound=[entry.id for entry in worker.bound],
        is_pending=worker.session.identity in sessions._pending,
        has_output=worker in refs.registry.dispatcher.with_output,
        backlog=_freeze_backlog(worker, sessions.backlog),
        dying=dying,
    )


def _freeze_session(session: GatewayEnd[Entry]) -> SessionState:
    in_flight = session.window.in_flight
    out: list[Any] = []
    for record in session._out:
        if isinstance(record, EVENTS):
            flight = in_flight.get(record.seq)
            if flight is not None and flight.event is record:
                out.append(record.seq)
                continue
        out.append(record)
    parts = session.parts
    return SESSION.freeze(
        session,
        state=session.state.value,
        out=out,
        parts=PARTS.freeze(parts, kept=[tuple(kept) for kept in parts.kept], joined=parts._joined)
        if parts.kept or parts.joined_by
        else None,
    )


def _freeze_window(window: Window[Entry], clock: Clock) -> WindowState:
    trips = window.round_trips
    return WINDOW.freeze(
        window,
        samples=list(window.samples),
        last_round_trip=trips.last,
        round_trips=list(trips._samples),
        round_trip_sent_at=clock.past(trips.sent_at),
        busy_since=clock.past(window._busy_since),
        last_ack=clock.past(window._last_ack),
        sample_since=clock.past(window._sample_since),
    )


def _freeze_backlog(worker: Worker, backlog: Backlog) -> BacklogState | None:
    rest = backlog.workers.get(worker)
    if rest is None:
        return None
    batches = [bytes(batch) for batch in rest.batches]
    return UNAPPLIED.freeze(rest, batches=batches, place=list(backlog.workers).index(worker))


def freeze_sessions(sessions: Sessions, refs: Refs) -> SessionsState:
    """The record of what sessions share; to be made last, because it names the workers that were
    referred to."""
    clock = refs.clock
    return SessionsState(
        last_session=sessions._last_session,
        tokens=list(sessions.tokens._numbers.items()),
        gone_tokens=list(sessions.tokens._gone.items()),
        banned=list(sessions._banned),
        lost=[
            LossState(
                instance,
                loss.number,
                clock.since(loss.until),
                [refs.lost[id(event)] for event in loss.events],
                loss.is_counted,
            )
            for instance, loss in sessions._lost.items()
        ],
        orphaned=list(sessions._orphaned),
        timers=[
            (pool, name, clock.since(timer.since), _caller(timer.caller, sessions, refs))
            for (pool, name), timer in sessions.timers._timers.items()
        ],
        gone=list(refs.gone.items()),
        cluster=_freeze_cluster(refs),
    )


def _freeze_cluster(refs: Refs) -> ClusterState | None:
    cluster = refs.registry.groups.cluster
    if not isinstance(cluster, Cluster):
        return None
    return CLUSTER.freeze(
        cluster,
        agent=refs.worker(cluster.agent),
        questions=[
            (ref, refs.present(each.worker), each.query, each.answer, refs.clock.since(each.until))
            for ref, each in cluster._questions.items()
            if each.worker.session.state is not GONE
        ],
        heard_at=refs.clock.past(cluster._heard_at),
        absent=[entry.id for entry in cluster.absent.entries if not entry.gone],
        dropped=cluster.absent.dropped,
    )


def _caller(caller: GatewayEnd[Entry] | None, sessions: Sessions, refs: Refs) -> int | None:
    worker = sessions.workers.get(caller.identity) if caller is not None else None
    return refs.worker(worker) if worker is not None and worker.session is caller else None


# --- out of records ---


class ThawSessions:
    """Restores the sessions of a gateway that has had no workers yet."""

    def __init__(self, sessions: Sessions, delivery: ThawDelivery) -> None:
        self._sessions = sessions
        self._delivery = delivery
        self._clock = delivery.clock
        self.workers: list[Worker] = []
        """The workers, in the order in which records name them."""
        self._backlogs: list[tuple[int, Worker, BacklogState]] = []
        self._gone: dict[int, Entry] = {}
        """Stands for connections that were forgotten with an event in flight."""

    def worker(self, state: WorkerState) -> Worker:
        """Restore a worker, once all entries are there. Raises FrozenError."""
        registry, clock = self._delivery.registry, self._clock
        found = _STATES.get(state.session.state)
        if found is None:
            raise FrozenError(f"a session is in an unknown state: {state.session.state}")
        remote = None
        if state.remote is not None:
            address, key, pools = state.remote
            remote = RemoteWorker(address, key, frozenset(pools) if pools is not None else None)
        worker: Worker = Worker(state.identity, gateway_decoder(), clock.at(state.since), remote)
        WORKER.thaw(state, worker)
        worker.slow_at = clock.at(state.slow_at)
        worker.overdue = set(state.overdue)
        worker.skips = asked_for(state.skips)
        worker.ids = [_thaw_ids(*ids) for ids in state.ids]
        session = worker.session
        SESSION.thaw(state.session, session)
        session.state = found
        session.parts.hold = registry.flow.hold
        self._thaw_window(state.window, worker.window)
        for flight in state.in_flight:
            self._put_in_flight(worker, flight)
        session._out = [
            self._sent_again(worker, record) if isinstance(record, int) else record
            for record in state.session.out
        ]
        if state.session.parts is not None:
            _thaw_parts(state.session.parts, session.parts)
        for con in state.connections:
            entry = self._delivery.find(con)
            entry.holder = worker
            worker.connections.add(entry)
        self._delivery.queue(state.bound, worker.bound)
        if state.has_output:
            registry.dispatcher.with_output.add(worker)
        if session.state in (READY, DRAINING):
            registry.pool(session.pool).sessions += 1
        self._sessions.workers[state.identity] = worker
        if state.is_pending:
            self._sessions._pending[state.identity] = worker
        if state.backlog is not None:
            self._backlogs.append((state.backlog.place, worker, state.backlog))
        self.workers.append(worker)
        return worker

    def _thaw_window(self, state: WindowState, window: Window[Entry]) -> None:
        clock, trips = self._clock, window.round_trips
        WINDOW.thaw(state, window)
        window.samples.extend(state.samples)
        trips.last = state.last_round_trip
        trips._samples.extend(state.round_trips)
        trips.sent_at = clock.when(state.round_trip_sent_at)
        window._busy_since = clock.when(state.busy_since)
        window._last_ack = clock.when(state.last_ack)
        window._sample_since = clock.when(state.sample_since)

    def _put_in_flight(self, worker: Worker, state: FlightState) -> None:
        delivery, each = self._delivery, state.event
        entry = delivery.registry.entries.get(state.con)
        if entry is None:
            entry = self._gone.get(state.con)
            if entry is None:
                entry = self._gone[state.con] = self._forgotten(state.con)
        else:
            entry.event_bytes += each.size
            delivery.registry.flow.total += each.size
        entry.in_flight += 1
        event = delivery.event(each, entry.con)
        since = self._clock.at(each.since)
        flight: InFlight[Entry] = InFlight(event, entry, each.size, since, state.left)
        worker.window.in_flight[event.seq] = flight
        worker.window.bytes += each.size

    def _forgotten(self, con: int) -> Entry:
        nowhere = self._delivery.registry._nowhere
        entry = Entry(nowhere.con, nowhere.pool, nowhere.totals, self._clock.now)
        entry.id = con
        entry.gone = True
        return entry

    @staticmethod
    def _sent_again(worker: Worker, seq: int) -> Any:
        flight = worker.window.in_flight.get(seq)
        if flight is None:
            raise FrozenError(f"event {seq} of {worker.name} is mentioned and has not come")
        return flight.event

    def finish(self, state: SessionsState) -> None:
        """Restore what sessions share, once all workers and events are there, and before the
        delivery is linked."""
        sessions, clock = self._sessions, self._clock
        for place, number in state.gone:
            if place != len(self.workers):
                raise FrozenError(f"worker {place} is mentioned and has not come")
            gone: Worker = Worker(b"", gateway_decoder(), clock.now)
            gone.session.state, gone.session.number = GONE, number
            self.workers.append(gone)
        for _, worker, backlog in sorted(self._backlogs, key=lambda each: each[0]):
            self._thaw_backlog(worker, backlog)
        sessions._last_session = state.last_session
        sessions.tokens._numbers = dict(state.tokens)
        sessions.tokens._gone = dict(state.gone_tokens)
        sessions._banned = dict.fromkeys(state.banned)
        lost = self._delivery.lost
        for loss in state.lost:
            events = [lost[number] for number in loss.events if number in lost]
            until = clock.at(loss.until)
            sessions._lost[loss.instance] = Loss(loss.number, until, events, loss.is_counted)
        sessions._orphaned = set(state.orphaned)
        for pool, name, since, caller in state.timers:
            timer = sessions.timers._timers[pool, name] = _Timer(clock.at(since))
            if caller is not None:
                timer.caller = self.workers[caller].session
        self._thaw_cluster(state.cluster)

    def _thaw_cluster(self, state: ClusterState | None) -> None:
        cluster, clock = self._delivery.registry.groups.cluster, self._clock
        if state is not None and isinstance(cluster, Cluster) and cluster.node == state.node:
            CLUSTER.thaw(state, cluster)
            cluster._heard_at = clock.when(state.heard_at)
            cluster.absent.entries = dict.fromkeys(map(self._delivery.find, state.absent))
            cluster.absent.dropped = state.dropped
            # The setting presence may have changed.
            cluster._is_behind = True
            cluster.agent = self.workers[state.agent] if state.agent is not None else None
            for ref, asker, query, answer, until in state.questions:
                worker = self.workers[asker]
                cluster._questions[ref] = PendingQuery(worker, query, answer, clock.at(until))

    def end_agents(self) -> None:
        """After the delivery is linked: an agent of another cluster starts again, if there is a
        cluster now."""
        cluster = self._delivery.registry.groups.cluster
        for worker in self.workers:
            if worker.is_agent and (cluster is None or cluster.agent is not worker):
                self._sessions.cuts.append(Cut(worker.session.identity, OTHER_CLUSTER))
                self._sessions.end(worker, self._clock.now)

    def _thaw_backlog(self, worker: Worker, state: BacklogState) -> None:
        backlog = self._sessions.backlog
        rest = backlog.workers[worker] = Unapplied(state.records, state.at, state.size)
        if state.records:
            self._delivery.registry.flow.hold(state.size)
        rest.batches.extend(state.batches)
        backlog._count(sum([len(batch) + EVENT_COST for batch in state.batches]))


def _thaw_ids(first: int, used: bytes, left: int) -> IdRange:
    ids = IdRange(first)
    ids._used[: len(used)] = used
    ids.left = left
    return ids


def _thaw_parts(state: PartsState, parts: Parts) -> None:
    PARTS.thaw(state, parts)
    parts.kept.extend([KeptPart(*kept) for kept in state.kept])
    parts._joined = state.joined
    parts._count(sum([kept.size for kept in parts.kept]))
