"""Sans-I/O. A whole gateway to records and back.

The records come in this order, so that each can be processed as it comes: a header; all counters;
connections, each with its entry and its socket; workers, each with its link; the last messages of
groups; what belongs to no single connection or worker; the end. Connections and workers are linked
at the end.

Freezing changes nothing, so that the gateway can continue as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any, Final, NamedTuple, Protocol

from wsraw.config.addresses import Listen
from wsraw.config.pools import in_force
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Worker
from wsraw.gateway.delivery.registry import RESTART, UPGRADE, Registry
from wsraw.gateway.frozen.connection import Frames, Thaw, check_connection, freeze_connection
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.delivery import (
    Refs,
    ThawDelivery,
    ended,
    freeze_delivery,
    freeze_entry,
    freeze_pools,
    freeze_totals,
)
from wsraw.gateway.frozen.groups.history import ThawHistory, freeze_history
from wsraw.gateway.frozen.phases import Place
from wsraw.gateway.frozen.records import (
    FORMAT,
    Carried,
    ClosedState,
    Connections,
    ConnectionState,
    End,
    EndingState,
    EndpointState,
    EntryState,
    FrozenError,
    Header,
    LinkState,
    Record,
    Shared,
    Streams,
    Totals,
    Workers,
    WorkerState,
    decode,
    decoder,
    encode,
)
from wsraw.gateway.frozen.sessions import (
    ThawSessions,
    freeze_sessions,
    freeze_worker,
    number_lost,
)
from wsraw.gateway.frozen.websocket import UnmovableError
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import OnClose
from wsraw.link.states import NEW
from wsraw.version import VERSION

MOST_ITEMS: Final = 64
"""Connections, or workers, in a record: as many sockets may come with it."""

MOST_BYTES: Final = 64 * 1024
"""Bytes of output, and of events, after which a record ends."""


class Sockets(Protocol):
    """The owner of the sockets: `Ends` of links.py, or what replaces it where there is no
    network."""

    overdrawn: dict[int, None]

    def connections(self) -> list[Connection]: ...
    def why_unmovable(self, con: Connection) -> str: ...
    def freeze_endpoint(
        self, con: Connection, clock: Clock
    ) -> tuple[EndpointState, Any] | None: ...
    def is_stranger(self, worker: Worker) -> bool: ...
    def dying(self, worker: Worker) -> str | None: ...
    def freeze_link(self, worker: Worker) -> tuple[LinkState, Any] | None: ...
    def counts(self) -> tuple[int, int]: ...
    def listens(self) -> Iterable[Listen]: ...
    def thaw_endpoint(self, con: Connection, state: EndpointState, sock: object) -> object: ...
    def begin(self, con: Connection, state: EndpointState, clock: Clock) -> None: ...
    def thaw_link(self, worker: Worker, state: LinkState, sock: object) -> None: ...
    def thaw_dying(self, worker: Worker, fault: str) -> None: ...
    def exited(self, worker: Worker) -> None: ...
    def thaw_counts(self, state: Shared) -> None: ...


# --- to records ---


class Frozen(NamedTuple):
    """A record, and its sockets, in order."""

    data: bytes
    sockets: list[Any]


class Parts(NamedTuple):
    """The parts of a gateway that have a state."""

    registry: Registry
    sessions: Sessions
    deadlines: Deadlines
    sockets: Sockets

    def why_not(self) -> str:
        """What needs another turn before `freeze`; "" if the gateway can be frozen now."""
        registry, sessions = self.registry, self.sessions
        dispatcher = registry.dispatcher
        if registry.stopping:
            return "it is stopping"
        if any(pool.canary is not None for pool in registry.pools.values()):
            return "a canary is under way"
        for things, what in (
            (dispatcher.failed, "connections to be ended"),
            (dispatcher.failed_workers, "sessions to be ended"),
            (dispatcher.poisoned, "dead letters"),
            (dispatcher.unrepeated, "connections to be ended"),
            (dispatcher.unwanted, "connections to be ended"),
            (sessions.replies, "answers to workers"),
            (sessions.cuts, "links to be cut"),
            (sessions.left, "links to be closed"),
            (sessions.dead_letters, "dead letters"),
            (sessions.to_supervisor, "reports"),
            (registry.ended, "connections that come back"),
        ):
            if things:
                return f"there are {what}"
        return ""

    def unmovable(self) -> list[tuple[Connection, str]]:
        """The connections that `freeze` would leave out now, each with the reason."""
        found = []
        for con in self._connections():
            try:
                self._check(con)
                check_connection(con)
            except UnmovableError as why:
                found.append((con, str(why)))
        return found

    def _connections(self) -> Iterator[Connection]:
        """All connections: those with a socket, and those of which only the entry is left."""
        seen = set()
        for con in self.sockets.connections():
            seen.add(con.id)
            yield con
        for entry in list(self.registry.entries.values()):
            if entry.id not in seen:
                yield entry.con

    def _check(self, con: Connection) -> None:
        """Raises UnmovableError for a connection whose socket cannot be moved; one that is dialled
        again needs no socket."""
        why = self.sockets.why_unmovable(con)
        if why and con.phase.opening is None:
            raise UnmovableError(why)

    def freeze(self, now: float) -> Iterator[Frozen]:
        """The records of a gateway, which is not changed. Nothing else may happen meanwhile."""
        registry, sessions, sockets = self.registry, self.sessions, self.sockets
        clock = Clock(now)
        workers = [each for each in sessions.workers.values() if not sockets.is_stranger(each)]
        links = [sockets.freeze_link(worker) for worker in workers]
        refs = Refs(registry, workers, clock)
        number_lost(sessions, refs)
        yield Frozen(encode(Header(FORMAT, VERSION, registry.ids.epoch)), [])
        yield Frozen(encode(Totals(freeze_totals(registry))), [])
        count = 0
        for record, given in self._carried(refs, clock):
            count += len(record.items)
            yield Frozen(encode(record), given)
        for at in range(0, len(workers), MOST_ITEMS):
            yield self._workers(workers[at : at + MOST_ITEMS], links[at : at + MOST_ITEMS], refs)
        for streams in freeze_history(registry.groups.history, clock):
            yield Frozen(encode(streams), [])
        links_so_far, accepted = sockets.counts()
        shared = Shared(
            freeze_pools(registry, refs),
            freeze_delivery(registry, self.deadlines, refs),
            freeze_sessions(sessions, refs),
            links_so_far,
            accepted,
        )
        yield Frozen(encode(shared), [])
        yield Frozen(encode(End(count, len(workers))), [])

    def _carried(self, refs: Refs, clock: Clock) -> Iterator[tuple[Connections, list[Any]]]:
        frames = Frames()
        items: list[Carried] = []
        given: list[Any] = []
        size = 0
        for con in self._connections():
            carried, sock = self._carry(con, refs, clock, frames)
            if carried is None:
                continue
            items.append(carried)
            if sock is not None:
                given.append(sock)
            size += con.output.size
            if isinstance(con.entry, Entry):
                size += con.entry.event_bytes
            if len(items) == MOST_ITEMS or size > MOST_BYTES:
                yield Connections(items), given
                items, given, size = [], [], 0
        if items:
            yield Connections(items), given

    def _carry(
        self, con: Connection, refs: Refs, clock: Clock, frames: Frames
    ) -> tuple[Carried | None, Any]:
        entry = con.entry if isinstance(con.entry, Entry) else None
        if entry is self.registry._nowhere:
            entry = None
        try:
            self._check(con)
            state = freeze_connection(con, clock, frames)
        except UnmovableError:
            if entry is None or entry.gone or not (entry.heard or con.opened):
                return None, None
            return _carry_end(con, freeze_entry(entry, refs), clock, frames), None
        frozen = None if con.phase.opening is not None else self.sockets.freeze_endpoint(con, clock)
        endpoint, sock = frozen if frozen is not None else (None, None)
        return Carried(state, freeze_entry(entry, refs) if entry else None, endpoint), sock

    def _workers(
        self,
        workers: list[Worker],
        links: list[tuple[LinkState, Any] | None],
        refs: Refs,
    ) -> Frozen:
        items: list[tuple[WorkerState | None, LinkState | None]] = []
        given = []
        for worker, link in zip(workers, links, strict=True):
            dying = self.sockets.dying(worker)
            state = freeze_worker(worker, self.sessions, refs, dying)
            items.append((state, link[0] if link is not None else None))
            if link is not None:
                given.append(link[1])
        return Frozen(encode(Workers(items)), given)

    def thawing(self, now: float) -> Thawing:
        """An object that restores the records of another gateway into these parts. `now`: the time
        here."""
        return Thawing(self, now)


def _carry_end(con: Connection, entry: EntryState, clock: Clock, frames: Frames) -> Carried:
    """A connection that stays behind: its handler is told that it has ended."""
    rest = Connection.ended(con.id, con.settings)
    rest.opened, rest.pool, rest.inf, rest.about = con.opened, con.pool, con.inf, con.about
    rest.kept = con.kept
    state: ConnectionState = freeze_connection(rest, clock, frames)
    state.phase = ClosedState()
    if con.state is CLOSED:
        return Carried(state, entry, None)
    state.ending = EndingState(RESTART, "", UPGRADE, "", False, False, None)
    end = OnClose(0, con.id, RESTART, "", UPGRADE)
    return Carried(state, ended(entry, end, EVENT_COST), None)


# --- out of records ---


class Thawing:
    """Restores the state of another gateway into the parts of one that has had no connections
    yet."""

    def __init__(self, parts: Parts, now: float) -> None:
        """`now`: the time here."""
        # Compiled before clients wait for it.
        decoder()
        self._parts = parts
        registry = parts.registry
        self._clock = clock = Clock(now)
        settings = registry.settings
        listens = {listen.name: listen for listen in parts.sockets.listens()}
        pools = in_force(settings)

        def settings_of(pool: str) -> Settings:
            return pools.get(pool, settings)

        place = Place(settings, settings_of, registry.policy, listens)
        flow = registry.flow
        self._connections = Thaw(place, clock, parts.sockets.overdrawn, flow.share)
        self._delivery = ThawDelivery(registry, parts.deadlines, clock)
        self._sessions = ThawSessions(parts.sessions, self._delivery)
        self._history = ThawHistory(registry.groups.history, clock)
        self._header: Header | None = None
        self._shared: Shared | None = None
        self._end: End | None = None
        self._count = 0
        self._left_behind: list[Entry] = []

    def take(self, data: bytes, sockets: list[Any]) -> None:
        """Take the next record, with its sockets. Raises FrozenError: then this gateway must not
        continue."""
        try:
            record = decode(data)
        except FrozenError as error:
            before = self._header
            if before is None or before.version == VERSION:
                raise
            text = f"{error}; it is of wsraw {before.version}, and this one of {VERSION}"
            raise FrozenError(text) from error
        given = iter(sockets)
        try:
            self._take(record, given)
        except FrozenError:
            raise
        except Exception as error:
            tag = type(record).__struct_config__.tag
            raise FrozenError(f"cannot take over the record {tag!r}: {error!r}") from error
        if next(given, None) is not None:
            raise FrozenError("more sockets have come than connections")

    def _take(self, record: Record, sockets: Iterator[Any]) -> None:
        if isinstance(record, Header):
            self._begin(record)
        elif self._header is None:
            raise FrozenError("the running gateway does not say who it is")
        elif isinstance(record, Totals):
            self._delivery.totals(record.totals)
        elif isinstance(record, Connections):
            for carried in record.items:
                self._connection(carried, sockets)
        elif isinstance(record, Workers):
            for worker, link in record.items:
                if worker is not None:
                    self._worker(worker, link, sockets)
        elif isinstance(record, Streams):
            self._history.take(record)
        elif isinstance(record, Shared):
            self._shared = record
        else:
            self._end = record

    def _begin(self, header: Header) -> None:
        if header.format != FORMAT:
            raise FrozenError(
                f"the running gateway is of wsraw {header.version}, whose state has format "
                f"{header.format}; this one, {VERSION}, knows format {FORMAT}: stop it and "
                "start again"
            )
        if header.epoch != self._parts.registry.ids.epoch:
            raise FrozenError(
                f"the running gateway has epoch {header.epoch}, and this one "
                f"{self._parts.registry.ids.epoch}"
            )
        self._header = header

    def _connection(self, carried: Carried, sockets: Iterator[Any]) -> None:
        con = self._connections.connection(carried.con)
        endpoint = carried.endpoint
        if endpoint is not None:
            self._parts.sockets.thaw_endpoint(con, endpoint, next(sockets, None))
        if carried.entry is not None:
            entry = self._delivery.entry(carried.entry, con)
            if con.ending.cause == UPGRADE and endpoint is None:
                self._left_behind.append(entry)
        self._delivery.connection(con, self._connections.making)
        if endpoint is not None:
            self._parts.sockets.begin(con, endpoint, self._clock)
        self._count += 1

    def _worker(self, state: WorkerState, link: LinkState | None, sockets: Iterator[Any]) -> None:
        worker = self._sessions.worker(state)
        if link is not None:
            self._parts.sockets.thaw_link(worker, link, next(sockets, None))
        if state.dying is not None:
            self._parts.sockets.thaw_dying(worker, state.dying)

    def finish(self) -> None:
        """All records have come: resolve all references. Raises FrozenError."""
        shared, end = self._shared, self._end
        workers = self._sessions.workers
        if shared is None or end is None:
            raise FrozenError("the running gateway has not told all")
        if (end.connections, end.workers) != (self._count, len(workers)):
            raise FrozenError(
                f"{self._count} of {end.connections} connections and {len(workers)} of "
                f"{end.workers} workers have come"
            )
        try:
            self._finish(shared, workers)
        except FrozenError:
            raise
        except Exception as error:
            raise FrozenError(f"cannot put together what has come: {error!r}") from error

    def _finish(self, shared: Shared, workers: list[Worker]) -> None:
        registry, sessions = self._parts.registry, self._parts.sessions
        present = copy(workers)
        self._sessions.finish(shared.sessions)
        self._delivery.finish(shared.pools, shared.delivery, workers)
        self._history.finish()
        self._sessions.end_agents()
        sessions.splices.find_again()
        self._connections.forget_frames()
        self._parts.sockets.thaw_counts(shared)
        for entry in self._left_behind:
            if entry.parked and entry.queue is None:
                registry.dispatcher.queue(entry)
            # The connection that it is spliced with ends, too.
            sessions.splices.ended(entry, self._clock.now)
        now = self._clock.now
        running = set(sessions.tokens._numbers.values())
        for worker in present:
            if worker.number and worker.number not in running:
                self._parts.sockets.exited(worker)
            if worker.remote is not None and worker.session.state is not NEW:
                # Its link stays behind; the worker comes back with its instance.
                sessions.link_lost(worker, now)
