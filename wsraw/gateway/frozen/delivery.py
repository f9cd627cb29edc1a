"""Sans-I/O. Entries, and all tables of the delivery, to records and back.

Records name connections by their ids and workers by their place; the references are resolved once
all have come. Sums are not in the records, but counted again.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Any, Final

from wsraw.gateway.admission.per_address import AddressLimits
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.counters import Counters
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.dispatcher import Dispatcher, is_among
from wsraw.gateway.delivery.entry import (
    EVENT_COST,
    Burst,
    Entry,
    Pool,
    Queue,
    Reopening,
    SplicedSide,
    Worker,
    held_size,
)
from wsraw.gateway.delivery.groups.groups import Groups
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.delivery.groups.table import Table
from wsraw.gateway.delivery.outgoing import Broadcast, Outgoing
from wsraw.gateway.delivery.pools.timers import PoolTimers, _Timer
from wsraw.gateway.delivery.registry import Ids, Registry
from wsraw.gateway.delivery.suspects import Suspects
from wsraw.gateway.delivery.worker import PoolOf
from wsraw.gateway.frozen.copying import Clock, Plan
from wsraw.gateway.frozen.records import (
    COMPRESSOR,
    FORWARDER,
    BroadcastState,
    BurstState,
    DeliveryState,
    EntryState,
    EventState,
    FrozenError,
    HandlerState,
    PoolState,
    SessionsState,
    SpliceState,
    TableState,
    TotalsState,
    WorkerRef,
)
from wsraw.gateway.totals import ConnectionTotals, HandlerTotals, PoolTotals
from wsraw.link.records import Event, OnClose, OnMessage, asked_for, tag_of
from wsraw.link.states import GONE

OF_A_TURN: Final = "it lives within a turn"
ITS_OWN: Final = "the gateway has its own"
COUNTED: Final = "counted anew"

BURST: Final = Plan(Burst, BurstState, copied="batch allowance", translated="until")
SPLICE: Final = Plan(
    SplicedSide,
    SpliceState,
    copied="other framing type flows has_passed_fin",
    translated="begun waiting buffer",
)
REOPENING: Final = Plan(Reopening, EntryState, translated="asked attempts")
ENTRY: Final = Plan(
    Entry,
    EntryState,
    copied="is_open gone heard inherited closed_by_handler over left_behind output_counted"
    " output_memory kept unfinished pauses written skipped version state name",
    translated="pool totals since received_at sent_at idle_since slow_at paused_since dial_at"
    " fragment_since parked burst reopening opener owner fragment held_back marks couples"
    " splice",
    left_out={
        "con": "it comes with it",
        "id": "the connection's",
        "event_bytes": COUNTED,
        "in_flight": "windows of workers",
        "holder": "connections of workers",
        "queue": "queues of pools and workers",
        "groups": "groups",
        "user": "groups",
    },
)
TOTALS: Final = Plan(
    ConnectionTotals,
    TotalsState,
    copied="kind pool listener opened open total closed events notices sent received_bytes"
    " sent_bytes responses",
    left_out=dict.fromkeys(("reads", "writes"), "summed before"),
)
HANDLER: Final = Plan(HandlerTotals, HandlerState, copied="calls seconds exceptions slower")
POOL_TOTALS: Final = Plan(
    PoolTotals,
    PoolState,
    copied="acked redelivered given_back dead_letters closed",
    translated="handlers",
    left_out={"parked": COUNTED},
)
POOL: Final = Plan(
    PoolOf,
    PoolState,
    copied="name is_unheard_turn is_behind reassigning expected_workers",
    translated="totals workers isolated waiting unheard unheard_left suspects orphaned killed_at"
    " hears",
    left_out={
        "is_bridge": "its name",
        "sticky": "the setting dispatch",
        "repeats": "the setting delivery",
        "stays": "the settings name it",
        "sessions": COUNTED,
        "connections": COUNTED,
        "canary": "no upgrade begins while there is one",
    },
)
BROADCAST: Final = Plan(
    Broadcast,
    BroadcastState,
    copied="size",
    translated="members message",
)
MESSAGE: Final = Plan(
    PublishedMessage,
    BroadcastState,
    translated="data kind",
    left_out={"_frames": "made anew", "_deflations": "begun anew"},
)
TABLE: Final = Plan(
    Table,
    TableState,
    copied="_added",
    translated="_members",
    left_out={"watcher": ITS_OWN},
)
FLOW: Final = Plan(
    Flow,
    DeliveryState,
    copied="crowded full",
    translated="_crowded_since paused changed unfinished unwritten without_entry",
    left_out=dict.fromkeys(("total", "kept", "shared", "weighed", "check_above"), COUNTED)
    | dict.fromkeys(("_high", "high", "low", "memory_limit", "_keeps_contexts"), "settings")
    | {"now": ITS_OWN},
)
REGISTRY: Final = Plan(
    Registry,
    DeliveryState,
    copied="unknown_ids",
    translated="ids entries _unanswered pools totals ended _names _aliases",
    left_out=dict.fromkeys(("settings", "policy", "_nowhere"), ITS_OWN)
    | dict.fromkeys(("flow", "counters", "dispatcher", "groups", "outgoing"), "it has its own plan")
    | {
        "dirty": "all are looked at in the first turn",
        "to_dial": "what is not open is dialled anew",
        "_phase": "a gateway that stops is not taken over",
    },
)
IDS: Final = Plan(Ids, DeliveryState, translated="next", left_out={"epoch": "the same"})
COUNTERS: Final = Plan(
    Counters,
    DeliveryState,
    copied="counts",
    left_out={
        "now": ITS_OWN,
        "_faults": "lines of the log",
        "_kinds": "lines of the log",
        "_said": "lines of the log",
    },
)
DISPATCHER: Final = Plan(
    Dispatcher,
    DeliveryState,
    translated="suspects with_output",
    left_out=dict.fromkeys(
        ("poisoned", "unrepeated", "unwanted", "blamed", "failed", "failed_workers"), OF_A_TURN
    )
    | {"_flow": ITS_OWN, "left_behind": COUNTED, "spliced": ITS_OWN, "bridged": ITS_OWN}
    | {"ending": ITS_OWN, "leaving": "the supervisor names them again"},
)
SUSPECTS: Final = Plan(
    Suspects,
    EventState,
    translated="deaths losses",
    left_out={"_max_deliveries": "the setting max_deliveries"},
)
OUTGOING: Final = Plan(
    Outgoing,
    DeliveryState,
    copied="work dropped _turn",
    translated="over_limit fragmented compressing broadcasts",
    left_out=dict.fromkeys(
        ("_flow", "_dirty", "_overflow", "_close", "_fault", "_compressor", "forwarder"), ITS_OWN
    )
    | dict.fromkeys(("_limit", "_policy", "share"), "settings"),
)
GROUPS: Final = Plan(
    Groups,
    DeliveryState,
    translated="table users",
    left_out=dict.fromkeys(
        ("_flow", "_outgoing", "relay", "cluster", "tell", "presence_watcher"), ITS_OWN
    )
    | {"_presence": "settings", "history": "it has its own plan"},
)
DEADLINES: Final = Plan(
    Deadlines,
    DeliveryState,
    translated="_look_at",
    left_out={
        "_registry": ITS_OWN,
        "_settings": ITS_OWN,
        "undelivered": ITS_OWN,
        "_delivered": "looked at anew",
        "late": "those whose time is up are found again",
    },
)
POOL_TIMERS: Final = Plan(PoolTimers, SessionsState, translated="_timers")
TIMER: Final = Plan(_Timer, SessionsState, translated="caller since")
ADDRESSES: Final = Plan(
    AddressLimits,
    DeliveryState,
    left_out={"_counts": COUNTED, "most": "settings", "_per_address": "settings"},
)
POLICY: Final = Plan(
    AdmissionPolicy,
    DeliveryState,
    left_out=dict.fromkeys(
        ("_counters", "_hosts", "_origins", "_read", "_routes", "_trusted", "address_limits"),
        "settings",
    ),
)


class Refs:
    """How records refer to workers, totals and events of lost links."""

    def __init__(self, registry: Registry, workers: list[Worker], clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self.suspects = registry.dispatcher.suspects
        self.lost: dict[int, int] = {}
        """Events of lost links by their identity, each with its number."""
        self.gone: dict[WorkerRef, int] = {}
        """Workers that have left but are still referred to, with the numbers of their sessions."""
        self._workers = {id(worker): place for place, worker in enumerate(workers)}
        self._totals = {id(each): place for place, each in enumerate(registry.totals.values())}

    def worker(self, worker: Worker | None) -> WorkerRef | None:
        """The place of a worker."""
        if worker is None:
            return None
        if worker is self.registry.outgoing._compressor:
            return COMPRESSOR
        if worker is self.registry.outgoing.forwarder:
            return FORWARDER
        place = self._workers.get(id(worker))
        if place is None:
            place = self._workers[id(worker)] = len(self._workers)
            self.gone[place] = worker.session.number
        return place

    def present(self, worker: Worker) -> WorkerRef:
        """The place of a worker that must exist."""
        place = self.worker(worker)
        assert place is not None
        return place

    def totals(self, totals: ConnectionTotals) -> int:
        """The place of totals; -1 for an entry that counts nowhere."""
        return self._totals.get(id(totals), -1)

    def event(self, event: Event, size: int, since: float, con: Connection) -> EventState:
        """The record of an event, with its account."""
        shares = 0
        inf, about = getattr(event, "inf", None), getattr(event, "about", None)
        if inf and inf is con.inf:
            shares = 1
        if about and about is con.about:
            shares |= 2
        key = id(event)
        if shares:
            event = copy(event)
            if shares & 1:
                event.inf = {}  # type: ignore[union-attr]
            if shares & 2:
                event.about = {}  # type: ignore[union-attr]
        return EventState(
            event,
            size,
            self.clock.since(since),
            self.suspects.deaths.get(key),
            self.suspects.losses.get(key),
            self.lost.get(key),
            shares,
        )


# --- to records ---


def freeze_totals(registry: Registry) -> list[TotalsState]:
    """The records of all ConnectionTotals, in order."""
    registry.sum_totals()
    return [TOTALS.freeze(totals) for totals in registry.totals.values()]


def freeze_entry(entry: Entry, refs: Refs) -> EntryState:
    """The record of an entry, which is not changed."""
    clock, flow, burst, reopening = refs.clock, refs.registry.flow, entry.burst, entry.reopening
    con = entry.con
    unwritten = flow.unwritten.get(entry)
    unanswered = refs.registry._unanswered.get(entry)
    encrypted = con.output.encrypted
    written = entry.written
    if encrypted:
        # The gateway that stays behind writes these bytes.
        written += encrypted
    state = ENTRY.freeze(
        entry,
        pool=entry.pool.name,
        totals=refs.totals(entry.totals),
        since=clock.since(entry.since),
        received_at=clock.past(entry.received_at),
        sent_at=clock.past(entry.sent_at),
        idle_since=clock.since(entry.idle_since),
        slow_at=clock.since(entry.slow_at),
        paused_since=clock.past(entry.paused_since),
        dial_at=clock.past(entry.dial_at),
        fragment_since=clock.past(entry.fragment_since),
        parked=[refs.event(*parked, con) for parked in entry.parked] if entry.parked else [],
        burst=BURST.freeze(burst, until=clock.since(burst.until)) if burst is not None else None,
        reopening=(reopening.asked, reopening.attempts) if reopening is not None else None,
        opener=refs.worker(entry.opener),
        owner=refs.worker(entry.owner),
        fragment=refs.worker(entry.fragment),
        held_back=[(refs.worker(worker), record) for worker, record in entry.held_back]
        if entry.held_back is not None
        else None,
        marks=[(at, refs.present(worker), ref) for at, worker, ref in entry.marks]
        if entry.marks
        else None,
        couples=[other.id for other in entry.couples] if entry.couples else [],
        splice=_freeze_splice(entry),
        is_changed=entry in flow.changed,
        is_unfinished=entry in flow.unfinished,
        unwritten=(unwritten[0], clock.since(unwritten[1])) if unwritten is not None else None,
        unanswered=(unanswered[0], clock.since(unanswered[1])) if unanswered is not None else None,
    )
    state.written = written
    return state


def _freeze_splice(entry: Entry) -> SpliceState | None:
    splice, holder = entry.splice, entry.holder
    if splice is None:
        return None
    flights = holder.window.in_flight.items() if holder is not None and splice.begun else ()
    begun = [seq for seq, flight in flights if is_among(flight.event, splice.begun)]
    buffer = bytes(splice.buffer)
    return SPLICE.freeze(splice, begun=begun, waiting=splice.waiting, buffer=buffer)


def _ids(entries: Any) -> list[int]:
    return [entry.id for entry in entries if not entry.gone]


def freeze_pools(registry: Registry, refs: Refs) -> list[PoolState]:
    """The records of all pools."""
    return [
        POOL.freeze(
            pool,
            acked=pool.totals.acked,
            redelivered=pool.totals.redelivered,
            given_back=pool.totals.given_back,
            dead_letters=pool.totals.dead_letters,
            closed=pool.totals.closed,
            handlers={name: HANDLER.freeze(each) for name, each in pool.totals.handlers.items()},
            workers=[refs.present(worker) for worker in pool.workers],
            isolated=[refs.present(worker) for worker in pool.isolated],
            waiting=_ids(pool.waiting),
            unheard=_ids(pool.unheard),
            unheard_left=_ids(pool.unheard_left),
            suspects=_ids(pool.suspects),
            orphaned=_ids(pool.orphaned),
            killed_at=refs.clock.since(pool.killed_at),
            hears=sorted(map(tag_of, pool.hears)),
        )
        for pool in registry.pools.values()
    ]


def _freeze_table(table: Table) -> TableState:
    members = table._members.items()
    return TABLE.freeze(
        table,
        members=[(name, [(entry.id, n) for entry, n in of.items()]) for name, of in members],
    )


def freeze_delivery(registry: Registry, deadlines: Deadlines, refs: Refs) -> DeliveryState:
    """The record of what connections share."""
    flow, outgoing, clock = registry.flow, registry.outgoing, refs.clock
    return DeliveryState(
        next_id=registry.ids.next,
        unknown_ids=registry.unknown_ids,
        counts=registry.counters.counts,
        crowded=flow.crowded,
        crowded_since=clock.past(flow._crowded_since),
        full=flow.full,
        paused=_ids(flow.paused),
        groups=_freeze_table(registry.groups.table),
        users=_freeze_table(registry.groups.users),
        names=[(pool, name, entry.id) for (pool, name), entry in registry._names.items()],
        aliases=list(registry._aliases.items()),
        over_limit=_ids(outgoing.over_limit),
        compressing=[
            (entry.id, refs.worker(worker), send)
            for entry, (worker, send) in outgoing.compressing.items()
        ],
        broadcasts=[
            BROADCAST.freeze(
                broadcast,
                members=_ids(broadcast.members),
                data=broadcast.message.data,
                kind=broadcast.message.kind,
            )
            for broadcast in outgoing.broadcasts
        ],
        work=outgoing.work,
        dropped=outgoing.dropped,
        turn=outgoing._turn,
        ended=_ids(registry.ended),
        look_at=clock.past(deadlines._look_at),
    )


# --- out of records ---


class ThawDelivery:
    """Fills the registry of a gateway that has had no connections yet."""

    def __init__(self, registry: Registry, deadlines: Deadlines, clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self.lost: dict[int, Event] = {}
        """Events of lost links by their numbers."""
        self._deadlines = deadlines
        self._totals: list[ConnectionTotals] = []
        self._nowhere = ConnectionTotals("", "", "", False)
        self._entries: list[tuple[Entry, EntryState]] = []
        """Entries that refer to workers or other entries, with their records."""
        self._workers: list[Worker] = []
        self._making: dict[int, bytes] = {}
        """The data of large frames that are being made."""
        registry.flow.now = clock.now

    def totals(self, states: list[TotalsState]) -> None:
        """Restore all ConnectionTotals; to be called before everything else."""
        for state in states:
            totals = ConnectionTotals(state.kind, state.pool, state.listener, state.opened)
            TOTALS.thaw(state, totals)
            self._totals.append(totals)
            key = state.kind, state.pool, state.listener, state.opened
            self.registry.totals[key] = totals

    def event(self, state: EventState, con: Connection) -> Event:
        """Restore an event, and the deaths and lost links counted for it."""
        event = state.event
        if state.shares & 1:
            event.inf = con.inf  # type: ignore[union-attr]
        if state.shares & 2:
            event.about = con.about  # type: ignore[union-attr]
        suspects = self.registry.dispatcher.suspects
        if state.deaths is not None:
            suspects.deaths[id(event)] = state.deaths
        if state.losses is not None:
            suspects.losses[id(event)] = state.losses
        if state.lost is not None:
            self.lost[state.lost] = event
        return event

    def connection(self, con: Connection, making: list[bytes]) -> None:
        """Count a connection; its endpoint, if it has one, exists. `making`: the data of a large
        frame that the connection is making."""
        flow = self.registry.flow
        kept, con.kept = con.kept, 0
        flow.keep(con, kept)
        if making:
            self._making[con.id] = making[0]
        entry = con.entry
        if con.endpoint is not None and (entry is None or entry.gone):
            flow.without_entry[con] = None

    def entry(self, state: EntryState, con: Connection) -> Entry:
        """Restore the entry of a connection. Raises FrozenError."""
        registry, clock = self.registry, self.clock
        if not -1 <= state.totals < len(self._totals):
            raise FrozenError(f"connection {con.id} is counted where nothing is")
        totals = self._totals[state.totals] if state.totals >= 0 else self._nowhere
        pool = registry.pool(state.pool)
        entry = Entry(con, pool, totals, clock.at(state.since))
        ENTRY.thaw(state, entry)
        entry.received_at = clock.when(state.received_at)
        entry.sent_at = clock.when(state.sent_at)
        entry.idle_since = clock.at(state.idle_since)
        entry.slow_at = clock.at(state.slow_at)
        entry.paused_since = clock.when(state.paused_since)
        entry.dial_at = clock.when(state.dial_at)
        entry.fragment_since = clock.when(state.fragment_since)
        burst = state.burst
        if burst is not None:
            entry.burst = Burst(clock.at(burst.until), burst.batch)
            entry.burst.allowance = burst.allowance
        if state.reopening is not None:
            entry.reopening = Reopening(*state.reopening)
        con.entry = entry
        if not state.gone:
            registry.entries[con.id] = entry
            pool.connections += 1
            self._count(entry, state)
        if state.parked:
            entry.parked = deque(
                [(self.event(each, con), each.size, clock.at(each.since)) for each in state.parked]
            )
            pool.totals.parked += len(entry.parked)
        if (
            state.couples
            or state.splice is not None
            or state.opener is not None
            or state.owner is not None
            or state.fragment is not None
            or state.held_back is not None
            or state.marks
        ):
            self._entries.append((entry, state))
        return entry

    def _count(self, entry: Entry, state: EntryState) -> None:
        """Restore an entry's memory, and what the flow knows of it."""
        registry, clock = self.registry, self.clock
        flow = registry.flow
        entry.event_bytes = sum([parked.size for parked in state.parked])
        entry.event_bytes += sum([held_size(record) for _, record in state.held_back or ()])
        if state.splice is not None:
            entry.event_bytes += sum([len(e.data) + EVENT_COST for e in state.splice.waiting])
        flow.total += entry.event_bytes + entry.output_memory
        flow.weighed += entry.unfinished
        flow.check_above -= entry.unfinished
        kept, entry.kept = entry.kept, 0
        flow.keep(entry, kept)
        registry.dispatcher.left_behind += entry.left_behind
        if state.is_changed:
            flow.changed[entry] = None
        if state.is_unfinished:
            flow.unfinished.add(entry)
        if state.unwritten is not None:
            taken, since = state.unwritten
            flow.unwritten[entry] = taken, clock.at(since)
        if state.unanswered is not None:
            said, since = state.unanswered
            registry._unanswered[entry] = said, clock.at(since)
        if entry.con.phase.opening is not None:
            registry.to_dial.append(entry)

    # --- once all are there ---

    def find(self, con: int) -> Entry:
        """The entry of a connection. Raises FrozenError if it has not come."""
        entry = self.registry.entries.get(con)
        if entry is None:
            raise FrozenError(f"connection {con} is mentioned and has not come")
        return entry

    def worker(self, ref: WorkerRef | None) -> Worker | None:
        """The worker with this place. Raises FrozenError if it has not come."""
        if ref is None:
            return None
        if ref == COMPRESSOR:
            return self.registry.outgoing._compressor
        if ref == FORWARDER:
            return self.registry.outgoing.forwarder
        if not 0 <= ref < len(self._workers):
            raise FrozenError(f"worker {ref} is mentioned and has not come")
        return self._workers[ref]

    def present(self, ref: WorkerRef) -> Worker:
        """The worker with this place, which must be one."""
        worker = self.worker(ref)
        assert worker is not None
        return worker

    def finish(self, pools: list[PoolState], state: DeliveryState, workers: list[Worker]) -> None:
        """Resolve all references. Raises FrozenError."""
        self._workers = workers
        for entry, each in self._entries:
            self._tie(entry, each)
        for pool in pools:
            self._thaw_pool(pool)
        registry, clock = self.registry, self.clock
        flow, outgoing = registry.flow, registry.outgoing
        registry.ids.next = max(registry.ids.next, state.next_id)
        registry.unknown_ids = state.unknown_ids
        registry.counters.counts = state.counts
        flow.crowded, flow.full = state.crowded, state.full
        flow._crowded_since = clock.when(state.crowded_since)
        if flow.crowded:
            flow.high = flow.low
        flow.paused = {self.find(con): None for con in state.paused}
        self._thaw_table(state.groups, registry.groups.table, is_group=True)
        self._thaw_table(state.users, registry.groups.users, is_group=False)
        registry._names = {(pool, name): self.find(con) for pool, name, con in state.names}
        registry._aliases = dict(state.aliases)
        outgoing.over_limit = {self.find(con): None for con in state.over_limit}
        for con, worker, send in state.compressing:
            # The frame that is being made recognizes its data by identity.
            send.data = self._making.get(con, send.data)
            outgoing.compressing[self.find(con)] = self.worker(worker), send
            flow.hold(len(send.data))
        for one in state.broadcasts:
            members = {self.find(con): None for con in one.members}
            broadcast = Broadcast(members, PublishedMessage(one.data, one.kind))
            broadcast.size = one.size
            outgoing.broadcasts.append(broadcast)
            flow.hold(one.size)
        OUTGOING.thaw(state, outgoing)
        registry.ended = [self.find(con) for con in state.ended]
        self._deadlines._look_at = clock.when(state.look_at)

    def _tie(self, entry: Entry, state: EntryState) -> None:
        """Restore an entry's references to workers and other entries."""
        worker = self.worker
        entry.opener, entry.owner = worker(state.opener), worker(state.owner)
        entry.fragment = worker(state.fragment)
        outgoing = self.registry.outgoing
        for one in (entry.opener, entry.owner, entry.fragment):
            if one is not None and one.session.state is not GONE and not entry.gone:
                one.ties.add(entry)
        outgoing._compressor.ties.discard(entry)
        outgoing.forwarder.ties.discard(entry)
        if entry.fragment not in (None, outgoing._compressor, outgoing.forwarder):
            outgoing.fragmented.add(entry)
        if state.held_back is not None:
            entry.held_back = deque([(worker(ref), record) for ref, record in state.held_back])
        if state.marks:
            entry.marks = [(at, self.present(ref), mark) for at, ref, mark in state.marks]
        if state.couples:
            entry.couples = {self.find(con) for con in state.couples}
        if state.splice is not None:
            self._thaw_splice(entry, state.splice)

    def _thaw_splice(self, entry: Entry, state: SpliceState) -> None:
        splice = entry.splice = SplicedSide(state.other, state.framing, state.type)
        SPLICE.thaw(state, splice)
        splice.waiting = state.waiting
        splice.buffer = bytearray(state.buffer)
        if not splice.flows:
            parked = [event for event, _, _ in entry.parked]
            splice.begun = [event for event in parked if type(event) is OnMessage]
            holder = entry.holder
            for seq in state.begun if holder is not None else ():
                flight = holder.window.in_flight.get(seq) if holder is not None else None
                if flight is not None and flight.owner is entry:
                    splice.begun.append(flight.event)

    def _thaw_pool(self, state: PoolState) -> None:
        registry = self.registry
        pool: Pool = registry.pool(state.name)
        POOL.thaw(state, pool)
        POOL_TOTALS.thaw(state, pool.totals)
        for name, figures in state.handlers.items():
            HANDLER.thaw(figures, pool.totals.handlers.setdefault(name, HandlerTotals()))
        pool.killed_at = self.clock.at(state.killed_at)
        pool.hears = asked_for(state.hears)
        pool.workers = [self.present(ref) for ref in state.workers]
        pool.isolated = [self.present(ref) for ref in state.isolated]
        for ids, queue in (
            (state.waiting, pool.waiting),
            (state.unheard, pool.unheard),
            (state.unheard_left, pool.unheard_left),
            (state.suspects, pool.suspects),
        ):
            self.queue(ids, queue)
        pool.orphaned = deque([self.find(con) for con in state.orphaned])
        registry.release(pool)

    def queue(self, ids: list[int], queue: Queue) -> None:
        """A queue of connections that wait for a worker, in order."""
        for con in ids:
            entry = self.find(con)
            entry.queue = queue
            queue[entry] = None

    def _thaw_table(self, state: TableState, table: Table, *, is_group: bool) -> None:
        TABLE.thaw(state, table)
        for name, members in state.members:
            table._members[name] = {self.find(con): number for con, number in members}
            for entry in table._members[name]:
                if not is_group:
                    entry.user = name
                elif entry.groups is None:
                    entry.groups = {name}
                else:
                    entry.groups.add(name)
            if table.watcher is not None:
                table.watcher(name, True)


def ended(state: EntryState, event: OnClose, size: int) -> EntryState:
    """The entry of a connection that stays behind: in this gateway it has ended, and its handler is
    told so."""
    state = copy(state)
    state.parked = [*state.parked, EventState(event, size, 0.0, None, None, None, 0)]
    state.held_back = state.fragment = state.marks = None
    state.output_counted = state.output_memory = state.unfinished = 0
    return state
