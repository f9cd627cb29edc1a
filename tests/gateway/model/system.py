"""The gateway's side of the model check: the core as the gateway drives it, and its peers."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, NamedTuple

from tests.gateway.model.handlers import pick
from tests.gateway.model.peers import Peer, Socket
from tests.gateway.model.processes import Process
from tests.gateway.model.reference import Con, Reference, Session
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CONNECTING, OPEN
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Pool, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.delivery.worker import RemoteWorker
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.states import LinkState
from wsraw.link.window import InFlight

TOKEN = "token"
MOST_PEERS = 6
ELSEWHERE = RemoteWorker("10.0.0.7", "alice")


class Config(NamedTuple):
    """The configuration of a history."""

    sticky: bool = False
    concurrency: int = 1
    window: int = 8
    window_bytes: int = 4096
    high_water_mark: int = 3000
    output_limit: int = 6000
    memory_limit: int = 1_000_000
    actions: tuple[str, ...] = ()
    lies: bool = False
    """Whether workers ack what they have not handled."""
    delivery: str = "at-least-once"
    spawned: bool = False
    """Whether a supervisor starts the workers, and reports their exits."""
    remote: bool = False
    """Whether workers that no supervisor starts are on other machines, with links over libzmq."""
    deflate: bool = False
    room: int = 0
    """Bytes of commands in a worker's batch; if there are few, most events are answered in
    parts.
    """
    stops: bool = False
    """Whether the gateway is stopped at the end; otherwise all peers leave by themselves."""
    survivors: bool = False
    """Whether the workers that are there at the end must handle everything by themselves."""


class Watched(dict[int, InFlight]):
    """The events in flight at a worker. Each delivery is checked when it is made, as the window
    is valid only at that moment.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.window.in_flight)
        self._worker = worker
        self._last = max(self, default=0)

    def __setitem__(self, seq: int, flight: InFlight) -> None:
        if seq <= self._last:
            # Only the event's time begins again (`Window.touch`).
            super().__setitem__(seq, flight)
            return
        self._last = seq
        worker, entry, count = self._worker, flight.owner, len(self)
        assert worker.session.state is LinkState.READY, "an event for one that takes none"
        assert not worker.starting and not worker.hung, "an event for one that takes none"
        before = entry.in_flight - 1
        if worker.window.is_closed:
            assert not count, "a suspect is not alone"
        else:
            assert count < worker.window.limit <= worker.window.largest, "more than the window"
            assert not count or worker.window.bytes + flight.size <= worker.window.byte_limit
            assert not before or 2 * before < worker.window.limit, "more than half a window"
        assert before == sum(each.owner is entry for each in self.values())
        super().__setitem__(seq, flight)


class System:
    """A gateway without sockets, its peers, and the invariants that hold at any time. Each step
    is one of the gateway or of a peer.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.is_remote = config.remote and not config.spawned
        self.settings = Settings(
            dispatch="sticky" if config.sticky else "any",
            high_water_mark=config.high_water_mark,
            output_limit=config.output_limit,
            deflate=config.deflate,
            delivery=config.delivery,
        )
        self.now = 1000.0
        self.reference = Reference(config.delivery == "at-least-once")
        self.new_gateway()
        self.peers: list[Peer] = []
        self.dialling: list[Entry] = []
        self.processes: list[Process] = []
        self._waited: set[Entry] = set()
        """Suspects for which a worker was idle at the end of the last turn."""
        self.has_closed_all = False
        """While stopping, the gateway has closed all open connections."""
        self.late: list[tuple[bytes, deque[bytes]]] = []
        self.names = 0
        self.watched: set[Worker] = set()
        self.rude: set[Process] = set()
        self.exits: list[Process] = []
        """Spawned workers that have exited, which the supervisor has not reported yet."""
        self.exited: set[int] = set()
        self.unreported: dict[int, deque[Session]] = {}
        """Sessions of each spawned worker whose end the supervisor has not heard of."""

    def new_gateway(self) -> None:
        self.registry = Registry(self.settings, self.reference.epoch, self.config.memory_limit)
        self.sessions = Sessions(self.registry)
        self.deadlines = Deadlines(self.registry)
        self.sessions.tokens.add(TOKEN, 0)
        if not self.is_remote:
            self.sessions.read_out = self.read_out
        # Shares are small, so that most batches take several turns.
        self.sessions.backlog.share, self.sessions.backlog.per_event = 2, 0
        self.registry.outgoing.share = 1

    # --- peers ---

    def accept(self, a: int, b: int) -> None:
        """A client connects."""
        if sum(not peer.gone for peer in self.peers) >= MOST_PEERS or self.registry.stopping:
            return
        listen = Listen(name="here", protocol=("any", "any", "raw")[b % 3])
        con = accepted(self.registry.ids.new(), listen, self.settings, {}, self.now)
        expected = self.reference.cons[con.id] = Con(con.id, websocket=a % 2 == 0 and b % 3 != 2)
        self.peers.append(Peer(expected, Socket(self.registry, con), self.config.deflate))
        self.registry.take(con, con.first_events(self.now), self.now)
        if expected.websocket:
            # Read the handshake at once: a late one would count as raw data.
            self.peers[-1].socket.read(65536, self.now)

    def say(self, a: int, b: int) -> None:
        """Let a peer send data."""
        peer = pick([peer for peer in self.peers if peer.can_say], a)
        if peer is not None:
            peer.say((0, 0, 30, 700)[b % 4], self.now)

    def half_close(self, a: int, b: int) -> None:
        """Let a peer half-close."""
        peer = pick([peer for peer in self.peers if peer.can_say], a)
        if peer is not None:
            peer.leave(self.now)

    def reset(self, a: int, b: int) -> None:
        """Let a peer reset the connection."""
        peer = pick([peer for peer in self.peers if not peer.gone], a)
        if peer is not None:
            peer.reset(self.now)

    def read(self, a: int, b: int) -> None:
        """Let the gateway read from a socket."""
        peer = pick([peer for peer in self.peers if peer.socket.readable], a)
        if peer is not None:
            peer.socket.read((1, 7, 400, 65536)[b % 4], self.now)

    def write(self, a: int, b: int) -> None:
        """Let the gateway write to a socket."""
        peer = pick([peer for peer in self.peers if not peer.gone], a)
        if peer is not None:
            peer.socket.flush((3, 100, 65536)[b % 3], self.now)
            peer.receive(self.now)

    # --- the gateway ---

    def turn(self, a: int = 0, b: int = 0) -> None:
        """End a turn, in the gateway's order."""
        registry = self.registry
        sessions = self.sessions
        deadlines = self.deadlines
        registry.flow.now = self.now
        sessions.backlog.go_on(self.now)
        registry.outgoing.close_overflowing(self.now)
        if registry.flow.is_check_due:
            deadlines.check_memory(self.now)
        for entry in list(registry.flow.changed):
            registry.flow.changed.pop(entry, None)
            if entry.con.endpoint is not None:
                entry.con.endpoint.apply_pause(self.now)
        batches = sessions.batches(self.now)
        for entry in registry.to_dial:
            if entry.id not in self.reference.cons:
                self._succeed(entry)
        self.dialling += registry.to_dial
        registry.to_dial.clear()
        for worker, data in batches:
            self.reference.leaves(worker.session.identity, data)
            self._to_process(worker.session.identity, data)
        for identity, data in sessions.replies:
            self._to_process(identity, data)
        for cut in sessions.cuts:
            if cut.last:
                self._to_process(cut.identity, cut.last)
        sessions.replies.clear()
        sessions.cuts.clear()
        registry.dirty.clear()
        self._check_nobody_starves()

    def _succeed(self, entry: Entry) -> None:
        """The gateway has opened a connection by itself."""
        assert "open reconnecting" in self.config.actions
        con = self.reference.cons[entry.id] = Con(
            entry.id, opened=True, websocket=entry.con.kind == "websocket"
        )
        con.successor = True
        self.reference.counts["reconnects"] += 1

    def _to_process(self, identity: bytes, data: bytes) -> None:
        for process in self.processes:
            if process.identity == identity and process.alive:
                process.inbox.append(data)

    def to_gateway(self, a: int, b: int = 0) -> None:
        """Let one batch of a wire reach the gateway, possibly a late one."""
        wires = [(p.identity, p.wire) for p in self.processes] + self.late
        chosen = pick([wire for wire in wires if wire[1]], a)
        if chosen is not None:
            self.receive(chosen[0], chosen[1].popleft())

    def read_out(self, identity: bytes) -> None:
        """Read an old local link to its end, as its batches count before those of the new link.
        libzmq delivers the batches of two links in any order.
        """
        for old, wire in self.late:
            while old == identity and wire:
                self.receive(old, wire.popleft())

    def receive(self, identity: bytes, data: bytes) -> None:
        registry, sessions, reference = self.registry, self.sessions, self.reference
        if (
            self.is_remote
            and identity not in sessions.workers
            and not sessions.add_remote(identity, ELSEWHERE, self.now)
        ):
            return
        opened = reference.reaches(identity, data)
        sessions.receive(identity, data, self.now)
        while sessions.backlog.go_on(self.now):
            pass
        worker = sessions.workers.get(identity)
        if worker is not None and worker not in self.watched:
            self._watch(worker)
        if (
            worker is not None
            and worker.session.number
            and worker.session.number not in reference.sessions
        ):
            self._began(worker, data)
        for open_ in opened:
            if open_.con not in registry.entries:
                # A connection of that name is open already.
                del reference.cons[open_.con]
                for session in reference.sessions.values():
                    session.known.discard(open_.con)
        # The worker may have come back once too often for an event that it holds.
        self.see_poison()

    def _began(self, worker: Worker, data: bytes) -> None:
        assert worker.number not in self.exited, "a session with one that is dead"
        if not self.is_remote:
            old = self.reference.identities_of(worker.session.instance)
            unread = [wire for identity, wire in self.late if identity in old and wire]
            assert not unread, "its old link was not read to its end"
        session = self.reference.begin(
            worker.session.number, worker.session.identity, worker.session.instance, data
        )
        session.worker = worker.number
        if worker.number:
            self.unreported.setdefault(worker.number, deque()).append(session)
        for process in self.processes:
            if process.identity == worker.session.identity and process not in self.rude:
                heard = process.heard_at[data]
                assert session.claimed >= heard, "it does not say all that it holds"
                assert session.claimed <= heard, "it says that it holds what it has ended"

    def _watch(self, worker: Worker) -> None:
        self.watched.add(worker)
        worker.window.byte_limit = self.config.window_bytes
        worker.window.in_flight = Watched(worker)

    def dialled(self, a: int, b: int) -> None:
        """A connection that a worker opens connects, or fails."""
        entry = pick([entry for entry in self.dialling if entry.dial_at <= self.now], a)
        if entry is None:
            return
        self.dialling.remove(entry)
        con = entry.con
        if con.state is not CONNECTING:
            # The connection was closed meanwhile, so the dialer drops it.
            return
        if b % 4 == 0:
            self.registry.take(con, con.connect_failed("refused", self.now), self.now)
        elif entry.id in self.reference.cons:
            peer = Peer(
                self.reference.cons[entry.id], Socket(self.registry, con), self.config.deflate
            )
            self.peers.append(peer)
            self.registry.take(con, con.connected(self.now), self.now)
            if peer.reference.websocket:
                for _ in range(3):
                    peer.socket.flush(65536, self.now)
                    peer.receive(self.now)
                    if peer.socket.readable:
                        peer.socket.read(65536, self.now)

    def pass_time(self, a: int, b: int) -> None:
        """Let time pass. Before sleeping, the gateway ends its turn."""
        self.turn()
        self.now += (0.001, 0.03, 1.0, 9.0, 31.0, 125.0)[b % 6]
        for peer in self.peers:
            peer.socket.handle_timeout(self.now)
        for entry in list(self.dialling):
            if entry.con.keepalive.deadline <= self.now:
                self.dialling.remove(entry)
                self.registry.take(
                    entry.con, entry.con.connect_failed("timed out", self.now), self.now
                )
        self.sessions.tick(self.now)
        self.deadlines.tick(self.now)
        self._see_hung()
        self.see_poison()

    def _see_hung(self) -> None:
        """End the sessions of workers that the gateway has given up, as their handlers take too
        long.
        """
        for session in list(self.reference.sessions.values()):
            if session.alive and session.identity not in self.sessions.workers:
                assert not session.worker, "its process was not killed"
                assert session.unacked, "a worker that has nothing to do was given up"
                self.reference.counts["hung"] += 1
                self.reference.end(session, died=True)

    def see_poison(self) -> None:
        """Record the events that have killed too many workers: they are not delivered again, and
        end their connections.
        """
        for letter in self.sessions.dead_letters:
            con = self.reference.cons[letter["con"]]
            assert con.deaths >= self.settings.max_deliveries, "poison, and nobody died of it"
            con.spoiled = True
            con.buried = letter["event"] == "on_close"
            if con.buried:
                self.reference.leave_groups(con)
            self.reference.counts["poison"] += 1
        self.sessions.dead_letters.clear()

    # --- invariants ---

    def check(self) -> None:
        """Check that the accounts are right, and that each peer has received only its own data."""
        flow, total, kept = self.registry.flow, 0, 0
        in_flight: Counter[Any] = Counter()
        held: Counter[Any] = Counter()
        for worker in self.sessions.workers.values():
            size = 0
            for flight in worker.window.in_flight.values():
                size += flight.size
                if not flight.owner.gone:
                    in_flight[flight.owner] += 1
                    held[flight.owner] += flight.size
                    assert flight.owner.holder is worker
                else:
                    # The connection's on_close was acked before.
                    assert self.reference.cons[flight.owner.id].spoiled, (
                        "in flight, and yet forgotten"
                    )
            assert worker.window.bytes == size
            parts = worker.session.parts
            assert parts.size == sum(kept.size for kept in parts.kept)
            assert {kept.seq for kept in parts.kept} <= set(worker.window.in_flight)
        for entry in self.registry.entries.values():
            assert entry.in_flight == in_flight.pop(entry, 0)
            assert not entry.gone
            held[entry] += sum(size for _, size, _ in entry.parked)
            held[entry] += sum(len(s.data) + EVENT_COST for _, s in entry.held_back or ())
            assert entry.event_bytes == held[entry]
            assert entry.output_counted >= 0
            total += entry.event_bytes + entry.output_memory
            kept += entry.kept + entry.con.kept
        assert not in_flight
        self._check_totals()
        assert flow.total == total, f"{flow.total} bytes in all, not {total}"
        kept += sum(con.kept for con in flow.without_entry)
        assert flow.kept == kept, f"{flow.kept} bytes are kept, not {kept}"
        alive = {s.identity for s in self.reference.sessions.values() if s.alive}
        with_session = {
            w.session.identity
            for w in self.sessions.workers.values()
            if w.session.state is not LinkState.NEW
        }
        assert alive == with_session
        self._check_closed()
        for peer in self.peers:
            peer.reference.check_received()
        self.peers = [peer for peer in self.peers if not peer.gone]

    def _check_totals(self) -> None:
        """Check that the running totals equal a new count."""
        entries = self.registry.entries.values()
        parked, are_open = Counter[Any](), Counter[Any]()
        for entry in entries:
            parked[entry.pool] += len(entry.parked)
            are_open[entry.totals] += entry.is_open
        for pool in self.registry.pools.values():
            assert pool.totals.parked == parked[pool]
        for totals in self.registry.totals.values():
            assert totals.open == are_open[totals]
            assert totals.open + sum(totals.closed.values()) == totals.total
        assert set(self.registry.flow.paused) == {entry for entry in entries if entry.pauses}

    def _check_closed(self) -> None:
        """Check that connections end when they must, and not without a reason."""
        for entry in self.registry.entries.values():
            con, expected = entry.con, self.reference.cons.get(entry.id)
            open_now = con.state in (CONNECTING, OPEN)
            if expected is None:
                continue
            if con.ending.cause == "handler" and not expected.was_closed:
                assert expected.fragment, (
                    f"{expected.id} was closed, and no handler has asked for it"
                )
                expected.was_closed = True
            if expected.fragment is not None and not expected.fragment.alive:
                assert not open_now, f"{expected.id} is open with a message cut short"
            if expected.owner is not None and not expected.owner.alive:
                assert not open_now, f"{expected.id} is open and its owner has left"
            if expected.bereaved:
                assert not open_now, f"{expected.id} is open and its messages are lost"
            if con.ending.cause == "eof":
                assert not con.output.size, f"{expected.id} ended before its output was written"
        room = {entry.id for entry in self.registry.groups.members("room")}
        members = set(self.reference.groups.get("room", ()))
        assert room == members, f"{room} are in the room, not {members}"

    def _check_nobody_starves(self) -> None:
        """Check that after a turn no connection waits while a worker that could serve it is
        idle.
        """
        waiting: set[Entry] = set()
        for pool in self.registry.pools.values():
            waiting |= self._check_pool(pool)
        self._waited = waiting

    def _check_pool(self, pool: Pool) -> set[Entry]:
        """Check one pool; returns the suspects that wait."""
        workers = pool.workers
        idle = [
            worker
            for worker in workers
            if not worker.window.in_flight and not worker.window.is_closed
        ]
        # A stuck worker gets no connection that it has no event of.
        present = any(
            not (worker.window.is_closed or worker.window.is_stuck(self.now)) for worker in workers
        )
        waiting = set()
        for entry in self.registry.entries.values():
            if entry.pool is not pool:
                continue
            if present and entry.heard and not entry.parked and self.reference.cons[entry.id].seen:
                assert entry.holder is not None, f"nobody holds {entry.id}"
            if entry.parked and not entry.in_flight:
                assert entry.queue is not None, f"{entry.id} waits for nobody"
                if entry.queue is entry.pool.suspects:
                    # A suspect may wait a while for another worker, so that one is left for others.
                    # If there is only one, it waits for a turn in which the others come first.
                    if not (
                        any(w.window.in_flight for w in workers)
                        or not workers
                        or entry.pool.expects_worker(self.now)
                    ):
                        assert entry not in self._waited, "a suspect waits"
                        waiting.add(entry)
                    continue
                holder = entry.holder
                bound = (self.config.sticky or entry.inherited) and holder is not None
                bound = bound and (holder in entry.pool.workers or holder.starting)
                assert holder not in idle if bound else not idle, f"{entry.id} waits for nothing"
        return waiting
