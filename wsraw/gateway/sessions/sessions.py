"""Sans-I/O. Sessions of workers: how they begin, what comes in and goes out, how they end.

After each turn `batches()` go to workers, `replies` to those who have no session, `to_supervisor`
to the supervisor.

Bad input is handled, not raised. A wrong record is skipped and `refused` by its number, and the
rest applies; data that is not a batch ends the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.counters import STRANGERS, WORKERS
from wsraw.gateway.delivery.entry import Canary, Entry, Pool, Worker
from wsraw.gateway.delivery.pools import canary
from wsraw.gateway.delivery.pools.timers import PoolTimers
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.delivery.worker import RemoteWorker
from wsraw.gateway.sessions.backlog import Backlog
from wsraw.gateway.sessions.commands import Commands
from wsraw.gateway.sessions.dead_letters import dead_letter
from wsraw.gateway.sessions.reconnect import reopen_ended
from wsraw.gateway.sessions.tokens import Tokens
from wsraw.gateway.splices.splices import Splices
from wsraw.link.batches import NO_BATCH
from wsraw.link.gateway_end import LONGEST_WHY, GatewayEnd, refusal, who
from wsraw.link.records import (
    AGENT,
    DEFAULT_POOL,
    ID_EPOCH_SHIFT,
    PRESENCE,
    PROTOCOL_VERSION,
    PUSHING_POOL,
    Bye,
    Detach,
    Event,
    FromGateway,
    Hello,
    Hung,
    Kill,
    Left,
    LinkError,
    OnClose,
    Raised,
    Ready,
    Recycle,
    asked_for,
    encode,
    gateway_decoder,
    session_of,
)
from wsraw.link.states import DRAINING, GONE, NEW, READY

log = logging.getLogger("wsraw.gateway")

CANCEL_GRACE: Final = 5.0
"""Seconds after handler_timeout in which a worker that handles several events at a time may cancel
the handler."""

HELD_BACK_AFTER: Final = 0.5
"""Seconds that a worker's oldest event must have taken before it can delay others for long."""

HELLO_TIMEOUT: Final = 30.0
"""Seconds after which an identity that never said hello is forgotten; it is asked again when it
sends something."""

MOST_PENDING: Final = 1000
"""Identities that may still owe a hello; if there are more, the oldest is forgotten."""

LONGEST_HELLO: Final = 2 * 1024 * 1024
"""Bytes of a batch before the session begins: a hello may list all connections of its worker."""

LONGEST_NAME: Final = 128
"""Characters of the names that a worker gives itself."""

SEVERAL_FRAMES: Final = "a message of several frames; a batch is one frame"

UNSENT_LIMIT: Final = 32 * 1024 * 1024
"""Bytes that may wait for a worker that does not read. The window bounds its events; only this
bounds the other records."""

MOST_BY_HAND: Final = 1000
"""Sessions of workers that were started by hand: each costs some KiB."""

MOST_ORPHANED: Final = 200_000
"""Connections of earlier gateways that get their on_close; further ones are only forgotten."""

COME_BACK: Final = 30.0
"""Seconds within which a worker whose link was lost counts as alive if it comes back."""

MOST_LOST: Final = 100
"""Workers that may come back; if there are more, the first one counts as dead."""

BANNED_KEPT: Final = 1000
"""Identities whose messages are dropped unread; if there are more, the oldest is forgotten."""


class Cut(NamedTuple):
    """A worker on this machine whose link must be cut."""

    identity: bytes
    why: str
    last: bytes = b""
    """A batch for the worker to read before its link is cut."""


class Loss(NamedTuple):
    """A lost link."""

    number: int
    """The supervisor's number for the worker, or 0."""
    until: float
    """Until then the worker counts as alive if it comes back."""
    events: list[Event]
    """The events that the worker held."""
    is_counted: bool
    """Whether a death was counted for these events."""


class Sessions:
    """All workers that have a session, or are asked for their hello."""

    def __init__(self, registry: Registry, random: Callable[[], float] = lambda: 1.0) -> None:
        self._registry = registry
        self._random = random
        self._decoder = gateway_decoder()
        # Not from 1 again: a handler may outlive its gateway, and must not ack to the next one.
        self._last_session = registry.ids.epoch << ID_EPOCH_SHIFT
        self.tokens = Tokens()
        self.workers: dict[bytes, Worker] = {}
        """Workers by identity."""
        self._pending: dict[bytes, Worker] = {}
        """Workers that have not said hello yet, the first one first."""
        self._banned: dict[bytes, None] = {}
        self._lost: dict[str, Loss] = {}
        """By instance, the lost links of workers that may come back."""
        self._orphaned: set[int] = set()
        """Connections of earlier gateways that have got their on_close."""
        self.splices = Splices(registry)
        self.timers: PoolTimers[GatewayEnd[Entry]] = PoolTimers()
        give_back = partial(canary.give_back, registry)
        commands = Commands(registry, self.splices, self._leave, give_back, self.timers)
        self.backlog = Backlog(registry, commands.apply, self._receive, self.fault)
        self.to_supervisor: list[FromGateway] = []
        self.replies: list[tuple[bytes, bytes]] = []
        """(identity, batch) for workers without a session."""
        self.cuts: list[Cut] = []
        """Links to be cut."""
        self.left: list[bytes] = []
        """Identities of workers that have said bye."""
        self.unsent: Callable[[bytes], Iterable[bytes]] = lambda identity: ()
        """Gives the batches for an identity that will not be sent if its link is cut."""
        self.read_out: Callable[[bytes], object] = lambda identity: None
        """Reads everything from an identity on this machine that will send no more."""
        self.dead_letters: list[dict[str, Any]] = []
        """Dead letters to be written to the file."""

    # --- batches in ---

    def receive(self, identity: bytes, data: bytes | memoryview, now: float) -> None:
        """Handle one message of a worker, which may be anything. Never raises: a bug in wsraw ends
        the connection whose record was applied, or the worker's session."""
        self._registry.counters.now = now
        worker = self.workers.get(identity)
        try:
            if worker is None:
                if identity in self._banned:
                    return
                worker = self._add_pending(identity, None, now)
            waiting = self.backlog.workers
            if waiting and worker in waiting:
                # In order: earlier batches of this worker are not applied yet.
                self.backlog.append(worker, data)
            else:
                self._receive(worker, data, now)
        except Exception as error:
            worker = self.workers.get(identity)
            if worker is None:
                self._registry.counters.fault("a message of a worker", error)
            else:
                self.fault(worker, error, now)

    def _receive(self, worker: Worker, data: bytes | memoryview, now: float) -> None:
        session = worker.session
        if session.state is NEW:
            if session_of(data):
                # A batch of a session that has ended with its link: it could not be sent before
                # this link was there, and the worker has not read our `who` yet.
                data = b""
            elif len(data) > LONGEST_HELLO:
                self._ban(worker, f"sent {len(data)} bytes before a hello", now)
                return
        try:
            # PROBE_ROUTER sends an empty message.
            records = session.receive(data) if data else []
        except LinkError as error:
            why = SEVERAL_FRAMES if data == NO_BATCH else str(error)
            self._ban(worker, f"sent something that is not a batch: {why}", now)
            return
        if records and type(records[0]) is Hello:
            if session.state is not NEW:
                # The worker was asked twice, and has started again: its events are over, handled or
                # in part.
                self.end(worker, now, died=True, lost=True)
                worker = self._add_pending(session.identity, worker.remote, now)
            self._hello(worker, records[0], now)
            return
        if session.state is NEW and not worker.asked:
            # Only now: behind a welcome, a `who` would end the session at the worker alone.
            worker.asked = True
            self.replies.append((session.identity, who()))
        if worker.starting and session.batches:
            worker.starting = False
            says_bye = bool(records) and type(records[-1]) is Bye
            if session.state is READY and not says_bye:
                # Otherwise it was told to leave before it had started, or its start has failed.
                self._ready(worker)
        if records:
            self.backlog.apply(worker, records, 0, len(data), now)

    # --- hello ---

    def add_remote(self, identity: bytes, remote: RemoteWorker, now: float) -> bool:
        """A worker on another machine sends something for the first time; False: drop it."""
        if identity in self._banned:
            return False
        self._add_pending(identity, remote, now)
        return True

    def _add_pending(self, identity: bytes, remote: RemoteWorker | None, now: float) -> Worker:
        worker = self.workers[identity] = Worker(identity, self._decoder, now, remote)
        worker.session.parts.hold = self._registry.flow.hold
        self._pending[identity] = worker
        if len(self._pending) > MOST_PENDING:
            # A correct worker becomes known again with its hello.
            self._forget_pending(next(iter(self._pending)))
        return worker

    def _forget_pending(self, identity: bytes) -> None:
        self._pending.pop(identity).session.end()
        self.workers.pop(identity, None)

    def _hello(self, worker: Worker, hello: Hello, now: float) -> None:
        gone = self.tokens.gone(hello.token)
        if gone is not None:
            log.debug("worker %d was gone before its hello was read", gone)
            # If it had a session, it has forgotten that, and may have handled events in part.
            self.end(worker, now, died=worker.session.state is not NEW)
            return
        remote = worker.remote
        number = 0 if remote is not None and remote.key else self.tokens.number(hello.token)
        if number is None or (number and remote is not None):
            self._ban(worker, "its token is wrong; start it with the one in the run folder", now)
            return
        why = self._refusal(worker, hello, number)
        if why:
            self._ban(worker, why, now, of=WORKERS)
            return
        for other in self._of_instance(hello.instance):
            # The same process on a new connection. There may be unread acks on the old one, and an
            # end.
            self.read_out(other.session.identity)
        loss = self._lost.pop(hello.instance, None)
        if loss is not None and loss.is_counted:
            self._registry.dispatcher.suspects.forgive(loss.events)
        for other in self._of_instance(hello.instance):
            # Its old session is over, but no process died.
            self.end(other, now, died=True, lost=True)
        registry = self._registry
        worker.is_agent = number == AGENT and registry.groups.cluster is not None
        worker.number = max(0, number)
        worker.quota = registry.settings.max_events * (0.9 + self._random() / 5)
        self._pending.pop(worker.session.identity, None)
        self._last_session += 1
        ids = registry.ids.new_range(worker)
        node = registry.groups.cluster.node if registry.groups.cluster is not None else ""
        worker.is_shielded = canary.is_shielded(registry, hello.pool, worker.number)
        worker.session.welcome(
            hello,
            self._last_session,
            registry.ids.epoch,
            ids,
            node,
            shield=worker.is_shielded,
        )
        pool = registry.pool_of(worker)
        pool.sessions += 1
        if registry.settings.presence:
            worker.skips = PRESENCE - asked_for(hello.events)
            pool.hears = PRESENCE - worker.skips.intersection(*[w.skips for w in pool.workers])
        if not pool.stays and pool.name != PUSHING_POOL:
            text = "%s: no route leads to its pool %s, so it gets no clients"
            registry.counters.say("warning", text, worker.name, pool.name)
        worker.starting = hello.starting
        if worker.starting:
            registry.dispatcher.with_output.add(worker)
        else:
            self._ready(worker)
        self._end_orphaned(worker, hello.held, now)
        if worker.is_agent and registry.groups.cluster is not None:
            before = registry.groups.cluster.agent
            if before is not None:
                self.end(before, now, died=True)
            registry.groups.cluster.begin(worker)

    def _of_instance(self, instance: str) -> list[Worker]:
        """Workers with a session and this instance; a worker that says hello has no session yet."""
        sessions = [(worker, worker.session) for worker in self.workers.values()]
        return [each for each, it in sessions if it.number and it.instance == instance]

    def _refusal(self, worker: Worker, hello: Hello, number: int) -> str:
        """Why a hello is refused although its token or key is right."""
        if hello.version != PROTOCOL_VERSION:
            return f"it speaks version {hello.version} of the protocol, not 1"
        names = (hello.pool, hello.instance, hello.language)
        if any(len(name) > LONGEST_NAME or not name.isprintable() for name in names):
            # The names appear in the log and in `wsraw status`.
            return f"pool, instance and language are one line of at most {LONGEST_NAME} characters"
        remote = worker.remote
        if remote is not None and remote.pools is not None and hello.pool not in remote.pools:
            return f"its key is not for the pool {hello.pool}"
        for other in self.workers.values():
            if number and other.number == number and other.session.instance != hello.instance:
                # The token was inherited, by a fork for example. With two sessions, it would not be
                # known which process has ended.
                return f"its token belongs to worker {number}, which is connected already"
        by_hand = sum(not other.number for other in self.workers.values())
        if not number and by_hand - len(self._pending) >= MOST_BY_HAND:
            return f"{MOST_BY_HAND} workers that were started by hand are connected already"
        return ""

    def _ready(self, worker: Worker) -> None:
        session = worker.session
        self._registry.dispatcher.join(self._registry.pool_of(worker), worker)
        of_pool = f", pool {session.pool}" if session.pool != DEFAULT_POOL else ""
        self._log(worker, f"is ready ({session.language}{of_pool})")
        if worker.number:
            self.to_supervisor.append(Ready(worker.number))

    def _end_orphaned(self, worker: Worker, held: list[int], now: float) -> None:
        """Give connections of a dead gateway their on_close, once each, as an ordinary event. The
        worker is told to forget all others: they have had it already, or have moved while it was
        away."""
        registry = self._registry
        for con_id in held:
            waiting = registry.entries.get(con_id)
            if waiting is not None and waiting.inherited and waiting.holder is None:
                # The worker has started again before it had handled that on_close.
                registry.dispatcher.give_back(waiting, worker)
            elif (
                0 <= con_id >> ID_EPOCH_SHIFT < registry.ids.epoch
                and con_id not in self._orphaned
                and len(self._orphaned) < MOST_ORPHANED
            ):
                self._orphaned.add(con_id)
                con = Connection.ended(con_id, registry.settings)
                entry = registry.add(con, registry.pool_of(worker), now)
                entry.inherited = True
                registry.dispatcher.hold(entry, worker)
                registry.take(con, [OnClose(0, con_id, 1006, "", "gateway-died")], now)
            else:
                worker.session.notice(Detach(con_id))

    def _ban(self, worker: Worker, why: str, now: float, of: str = "") -> None:
        """Reject a worker: end its session, and drop what it sends from now on. `of`: whose log
        line this is, if known."""
        session, why = worker.session, why[:LONGEST_WHY]
        of = of or (STRANGERS if session.state is NEW else WORKERS)
        self._registry.counters.say("error", "%s was rejected: %s", worker.name, why, of=of)
        said = refusal(why, session.number)
        if session.state is NEW or worker.remote is not None:
            self.replies.append((session.identity, said))
        else:
            self._cut(worker, why, said)
        self._banned[session.identity] = None
        if len(self._banned) > BANNED_KEPT:
            del self._banned[next(iter(self._banned))]
        self._kill(worker, why)
        if worker.remote is not None:
            # Otherwise it could do so again and again, until innocent events count as poison.
            self.link_lost(worker, now)
        else:
            self.end(worker, now, died=True)

    # --- the end of a session ---

    def _leave(self, worker: Worker, now: float) -> None:
        """Handle a bye."""
        self._log(worker, "has left")
        if worker.remote is None:
            self.left.append(worker.session.identity)
        self.end(worker, now)

    def link_lost(self, worker: Worker, now: float) -> None:
        """End the session of a worker whose link is gone for good. The worker may be alive: if it
        comes back in time, no death counts for its events. For a remote worker's events, none is
        counted before that."""
        certain, dispatcher = worker.remote is None, self._registry.dispatcher
        dispatcher.blamed = []
        self.end(worker, now, died=True, certain=certain)
        events, dispatcher.blamed = dispatcher.blamed, []
        if events:
            loss = Loss(worker.number, now + COME_BACK, events, certain)
            self._lost[worker.session.instance] = loss
            if len(self._lost) > MOST_LOST:
                self._settle_loss(next(iter(self._lost)))

    def _settle_loss(self, instance: str) -> None:
        """A worker has not come back: count it as dead."""
        loss = self._lost.pop(instance)
        if not loss.is_counted:
            self._registry.dispatcher.suspects.confirm(loss.events)

    def end_unread(self, worker: Worker, now: float) -> None:
        """End the session of a worker that does not read, when too much waits for it. It may say
        hello again."""
        why = "it does not read what is sent to it"
        self._registry.counters.say("error", "%s: %s; its session is over", worker.name, why)
        self._kill(worker, why)
        self._cut(worker, why)
        self.end(worker, now, died=True)

    def _cut(self, worker: Worker, why: str, last: bytes = b"") -> None:
        """Have its link cut without sending what waits; its session is about to end."""
        session = worker.session
        session.take_back(self.unsent(session.identity))
        self.cuts.append(Cut(session.identity, why, last))

    def withdraw(self, worker: Worker) -> None:
        """Give a worker nothing new: its link has ended, and its batches are being applied."""
        pool = self._registry.pool_of(worker)
        self._registry.dispatcher.withdraw(pool, worker)

    def end(
        self,
        worker: Worker,
        now: float,
        *,
        died: bool = False,
        lost: bool = False,
        certain: bool = True,
    ) -> None:
        """End a session: its events are returned, connections that it owns are closed, its
        unfinished messages are cut.

        With `died`, events may have been handled in part. That death counts against them, unless
        the worker was told to leave, or has only changed its link (`lost`); see `link_lost` for
        `certain`.
        """
        session, registry = worker.session, self._registry
        self.backlog.finish(worker, now)
        if session.state is GONE:
            # With a bye.
            return
        counts = died and not lost and session.state is READY
        unfinished = len(worker.window.in_flight)
        self.workers.pop(session.identity, None)
        self._pending.pop(session.identity, None)
        if session.state is NEW:
            session.end()
            return
        if worker.is_agent and registry.groups.cluster is not None:
            registry.groups.cluster.end(worker)
        pool = registry.pool_of(worker)
        held = list(worker.connections)
        registry.dispatcher.leave(pool, worker, died, counts, certain, lost)
        if died and not lost:
            canary.retreat(registry, pool, held)
        self._end_undelivered(now)
        for entry in list(worker.ties):
            if entry.opener is worker:
                entry.opener = None
            if entry.gone:
                continue
            try:
                if entry.fragment is worker:
                    registry.outgoing.forget(entry)
                    registry.close(entry, 1011, "a message was cut short", "worker-died", now)
                if entry.owner is worker:
                    registry.close(entry, 1001, "its worker has left", "owner-left", now)
            except Exception as error:
                registry.fault(entry.con, error, now)
        worker.ties.clear()
        pool.sessions -= 1
        pool.totals.acked += worker.window.acked_events
        registry.release(pool)
        if worker.number:
            self.to_supervisor.append(Left(worker.number, worker.window.acked_events, unfinished))

    def _end_undelivered(self, now: float) -> None:
        """What a death means for connections: poison events, or messages that are not repeated."""
        registry, dispatcher = self._registry, self._registry.dispatcher
        poisoned, dispatcher.poisoned = dispatcher.poisoned, []
        for entry, event, deaths, losses in poisoned:
            name = type(event).__struct_config__.tag
            did, count = ("killed", deaths) if deaths else ("broken the links of", losses)
            text = "connection %d: its %s has %s %d workers; see `wsraw dead-letters`"
            log.error(text, entry.id, name, did, count, extra=entry.con.subject.extra())
            entry.pool.totals.dead_letters += 1
            try:
                self.dead_letters.append(dead_letter(entry, event, deaths, losses))
                if type(event) is OnClose:
                    registry.forget(entry)
                else:
                    self._fail(entry, "poison", "an event could not be handled", now)
            except Exception as error:
                registry.fault(entry.con, error, now)
        unrepeated, dispatcher.unrepeated = dispatcher.unrepeated, []
        for entry in unrepeated:
            try:
                self._fail(entry, "worker-died", "its worker died", now)
            except Exception as error:
                registry.fault(entry.con, error, now)

    def _fail(self, entry: Entry, cause: str, reason: str, now: float) -> None:
        """Close a connection after a failure: 1011 for a WebSocket, an error for a request, a reset
        for raw, so that no client believes that all is well."""
        self._registry.dispatcher.drop_messages(entry)
        if entry.con.can_be_told:
            self._registry.close(entry, 1011, reason, cause, now)
        else:
            self._registry.abort(entry, 1011, cause, "", now)

    def fault(self, worker: Worker, error: BaseException, now: float) -> None:
        """A bug in wsraw has raised while this worker was handled: end its session, as if it had
        died. Never raises."""
        counters = self._registry.counters
        counters.fault(f"the session of {worker.name}", error)
        try:
            self._kill(worker, "a bug in the gateway has ended its session")
            self.end(worker, now, died=True)
        except Exception as second:
            counters.fault(f"{worker.name}, while its session was ended,", second)
            self._drop(worker, second, now)

    def _drop(self, worker: Worker, error: BaseException, now: float) -> None:
        """The session cannot be ended in order: end all connections that this worker had a part
        in."""
        worker.session.end()
        for known in (self.workers, self._pending):
            if known.get(worker.session.identity) is worker:
                del known[worker.session.identity]
        for pool in self._registry.pools.values():
            for queue in (pool.workers, pool.isolated):
                if worker in queue:
                    queue.remove(worker)
        self.backlog.discard(worker)
        for entry in [*worker.connections, *worker.ties]:
            if entry.holder is worker:
                entry.holder = None
            if not entry.gone:
                self._registry.fault(entry.con, error, now)
        worker.connections.clear()
        worker.ties.clear()

    def _kill(self, worker: Worker, why: str) -> None:
        """Have the supervisor kill the process, if it has started it."""
        if worker.number:
            self.to_supervisor.append(Kill(worker.number, why))

    def _log(self, worker: Worker, what: str) -> None:
        """Log a line about a worker; of workers started by hand there may be very many."""
        if worker.number:
            log.info("%s %s", worker.name, what)
        else:
            self._registry.counters.say("info", "%s %s", worker.name, what)

    # --- batches out ---

    def batches(self, now: float) -> list[tuple[Worker, bytes]]:
        """End of a turn: give room to those that wait, then make one batch for each worker."""
        registry, dispatcher = self._registry, self._registry.dispatcher
        splices = self.splices
        if splices.starting or splices.held:
            splices.go_on(now)
        if registry.ended:
            reopen_ended(registry, self._random, now)
        for pool in registry.pools.values():
            dispatcher.dispatch(pool, now)
            if pool.canary is not None:
                self._serve_canary(pool, pool.canary, now)
        if dispatcher.unwanted:
            registry.end_unwanted(now)
        if dispatcher.failed:
            registry.end_failed(now)
        if dispatcher.failed_workers:
            failed, dispatcher.failed_workers = dispatcher.failed_workers, []
            for worker, error in failed:
                if worker.session.state is not GONE:
                    self.fault(worker, error, now)
        with_output, dispatcher.with_output = dispatcher.with_output, set()
        out = []
        for worker in with_output:
            try:
                while (data := worker.session.data_to_send()) is not None:
                    out.append((worker, data))
            except Exception as error:
                self.fault(worker, error, now)
        return out

    def _serve_canary(self, pool: Pool, trial: Canary, now: float) -> None:
        """Do what a canary needs in each turn, before its workers get events."""
        if trial.unseen:
            canary.advance(self._registry.dispatcher, pool, trial)
        if canary.has_raised(trial, now):
            self.to_supervisor.append(Raised())

    @property
    def is_busy(self) -> bool:
        """Whether the next turn has something to do in any case."""
        registry = self._registry
        for pool in registry.pools.values():
            if pool.is_behind or (pool.orphaned and pool.reassigning):
                return True
        return bool(
            self.backlog.workers
            or registry.dispatcher.with_output
            or registry.flow.changed
            or registry.flow.total > registry.flow.check_above
            or registry.outgoing.broadcasts
            or registry.outgoing.compressing
        )

    def is_quiet(self) -> bool:
        """Whether all events are handled that workers can handle, and all commands are applied."""
        outgoing = self._registry.outgoing
        if self.backlog.workers or outgoing.broadcasts or outgoing.compressing:
            return False
        return not self.has_events()

    def has_events(self) -> bool:
        """Whether an event is not handled yet, and there are workers to handle it."""
        return any(
            entry.in_flight or (entry.parked and entry.pool.workers)
            for entry in self._registry.entries.values()
        )

    # --- once a second ---

    def tick(self, now: float) -> None:
        """Look for missing hellos, workers that do not come back, and workers that hang or have
        handled enough events."""
        for worker in list(self._pending.values()):
            if now - worker.since > HELLO_TIMEOUT:
                self._forget_pending(worker.session.identity)
        for instance, loss in list(self._lost.items()):
            if now > loss.until:
                self._settle_loss(instance)
        for worker in list(self.workers.values()):
            # A worker whose batches we have not applied yet waits for us.
            if worker.session.state is not NEW and worker not in self.backlog.workers:
                try:
                    self._check(worker, now)
                except Exception as error:
                    self.fault(worker, error, now)

    def _check(self, worker: Worker, now: float) -> None:
        """Check whether a worker hangs, or has handled enough events."""
        settings, window = self._registry.settings, worker.window
        if worker.kill_reason:
            why, worker.kill_reason = worker.kill_reason, ""
            self.to_supervisor.append(Kill(worker.number, why, abort=True))
        elif settings.handler_timeout and not worker.hung and self._hangs(worker, now):
            self._end_hung(worker, now)
        elif 0 < worker.quota < window.acked_events and worker.session.state is READY:
            # The supervisor may refuse for now; then it is asked again after a tenth more events.
            worker.quota = window.acked_events + settings.max_events / 10
            if worker.number:
                why = f"it has handled {window.acked_events} events"
                self.to_supervisor.append(Recycle(worker.number, why))

    def _hangs(self, worker: Worker, now: float) -> bool:
        """Whether a handler has taken too long. A worker that handles several events at a time is
        first asked to cancel the handler."""
        window, timeout = worker.window, self._registry.settings.handler_timeout
        if window.concurrency > 1 and window.oldest_age(now) > HELD_BACK_AFTER:
            window.hold_back(now)
        if worker.overdue:
            # Unless their time has started again.
            flights = window.in_flight
            worker.overdue = {
                seq
                for seq in worker.overdue
                if seq in flights and now - flights[seq].sent_at > timeout
            }
        if window.oldest_age(now) <= timeout:
            return False
        for flight in list(window.in_flight.values()):
            if any(mark[1] is worker for mark in flight.owner.marks or ()):
                # Its handler waits for its client to read; write_timeout applies to that.
                window.touch(flight.owner, now)
        if window.concurrency == 1:
            return window.oldest_age(now) > timeout
        for seq, flight in window.in_flight.items():
            if now - flight.sent_at <= timeout:
                break
            if seq not in worker.overdue:
                worker.overdue.add(seq)
                worker.session.notice(Hung(flight.owner.id, seq))
                self._registry.dispatcher.with_output.add(worker)
        return window.oldest_age(now) > timeout + CANCEL_GRACE

    def _end_hung(self, worker: Worker, now: float) -> None:
        """Give the worker nothing more, and kill it at the next tick: until then it can log what it
        waits for. A worker started by hand cannot be killed: its session ends."""
        session, dispatcher = worker.session, self._registry.dispatcher
        worker.hung = True
        worker.window.close()
        dispatcher.withdraw(self._registry.pool_of(worker), worker)
        flight = next(iter(worker.window.in_flight.values()))
        entry, age = flight.owner, worker.window.oldest_age(now)
        name = type(flight.event).__struct_config__.tag
        why = f"its {name} of {entry.con.label} has run for {age:.0f} s"
        hung = Hung(entry.id, flight.event.seq)
        if worker.number:
            worker.kill_reason = why
            session.notice(hung)
            dispatcher.with_output.add(worker)
        else:
            log.error("%s hangs: %s", worker.name, why)
            self.replies.append((session.identity, encode([session.number, hung])))
            self.end(worker, now, died=True)

    # --- the supervisor ---

    def numbered(self, n: int) -> Worker | None:
        """The worker with the supervisor's number `n`, while its session lasts."""
        for worker in self.workers.values():
            if worker.number == n and worker.session.state in (READY, DRAINING):
                return worker
        return None

    def exited(self, n: int) -> Worker | None:
        """The process has ended and will not come back. Returns the worker if its session lasts."""
        self.tokens.remove(n)
        for instance, loss in list(self._lost.items()):
            if loss.number == n:
                self._settle_loss(instance)
        return self.numbered(n)

    def drain(self, worker: Worker, deadline: float) -> None:
        """Let a worker finish and leave within `deadline` seconds."""
        pool = self._registry.pool_of(worker)
        self._registry.dispatcher.drain(pool, worker, deadline)
