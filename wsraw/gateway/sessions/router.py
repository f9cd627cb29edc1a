"""Sans-I/O. Events of connections in, commands of workers in; what sockets and links must do, out.

After each turn `batches()` go to workers, `replies` to those who have no session, `to_supervisor`
to the supervisor; registry.py says what there is to do for the sockets.

Bad input is data. A wrong record is left out and `refused` by its number, the rest applies; what is
no batch at all ends the session.
"""

from __future__ import annotations

import hmac
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CLOSING, Connection
from wsraw.gateway.counters import CROWDED
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Worker, entry_of
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.delivery.worker import RemoteWorker
from wsraw.gateway.sessions.commands import Commands
from wsraw.gateway.sessions.dead_letters import dead_letter
from wsraw.gateway.sessions.reconnect import Reconnects
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.link.gateway_end import LONGEST_WHY, refusal, who
from wsraw.link.records import (
    DEFAULT_POOL,
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    PUSHING_POOL,
    Ack,
    Attach,
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
    OnConnect,
    Ready,
    Record,
    Recycle,
    Spawned,
    call_of,
    encode,
    gateway_decoder,
    session_of,
)
from wsraw.link.states import DRAINING, GONE, NEW, READY

log = logging.getLogger("wsraw.gateway")

HELLO_TIMEOUT: Final = 30.0
"""Seconds after which an identity that never said hello is forgotten, to be asked anew."""

MOST_STRANGERS: Final = 1000
"""Identities that may owe us their hello; the oldest is forgotten when there are more."""

LONGEST_HELLO: Final = 2 * 1024 * 1024
"""Bytes of a batch before the session begins: a hello may list all that its worker holds."""

LONGEST_NAME: Final = 128
"""Characters of what a worker calls itself."""

MOST_BY_HAND: Final = 1000
"""Sessions of workers that the supervisor did not start: each costs some KiB."""

MOST_BURIED: Final = 200_000
"""Connections of earlier gateways that get their on_close."""

COME_BACK: Final = 30.0
"""Seconds within which a worker whose link was lost has not died, if it comes back."""

MOST_ABSENT: Final = 100
"""Of those; of the first one it is certain when there are more."""

GONE_TOKENS_KEPT: Final = 1000
"""Of processes that are gone, should their hello still be on the way."""

MOST_ENDED: Final = 64
"""Connections that are ended in a turn because their time is up: those who have come at once are
often late at once."""

SHARE: Final = 64
"""Commands of a large batch that are applied in a turn: those whom it does not concern wait for as
many writes."""

PER_EVENT: Final = 4
"""Commands for each event of a batch that make no large batch of it: under full load an ordinary
one has hundreds of events, and shares of it would cost more than they gain."""

WORK: Final = 256
"""Work for which a share ends sooner; see `Outgoing.work`."""

BATCHES: Final = 16
"""Batches of a worker that are looked at in its turn, when others of it had to wait."""

BANNED_KEPT: Final = 1000
"""Identities whose messages are dropped unread; the oldest goes when there are more."""


class Unapplied:
    """What a worker has sent and is not applied yet."""

    __slots__ = ("at", "batches", "records", "size")

    def __init__(self, records: list[Any], at: int, size: int) -> None:
        self.records = records
        """The batch that is applied a share in each turn; and from where on, and its size."""
        self.at = at
        self.size = size
        self.batches: deque[bytes | memoryview] = deque()
        """Those behind it."""


class Router(Registry):
    """All of the gateway's decisions; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        epoch: int,
        memory_limit: int,
        random: Callable[[], float] = lambda: 1.0,
    ) -> None:
        super().__init__(settings, epoch, memory_limit)
        self.workers: dict[bytes, Worker] = {}
        self.tokens: dict[str, int] = {}
        self.to_supervisor: list[FromGateway] = []
        self.replies: list[tuple[bytes, bytes]] = []
        """(identity, batch) for those who have no session."""
        # Not from 1 again: a handler may outlive its gateway, and must not ack to the next one.
        self._sessions = epoch << ID_EPOCH_SHIFT
        self._decoder = gateway_decoder()
        self._banned: dict[bytes, None] = {}
        self._strangers: dict[bytes, Worker] = {}
        """Those that have not said hello yet, the first one first."""
        self._gone_tokens: dict[str, int] = {}
        """Of processes whose exit was reported, and their numbers."""
        self._absent: dict[str, tuple[float, list[Event]]] = {}
        """Instances whose link was lost: until when they may come back, and what they held."""
        self._commands = Commands(self, self._leave)
        self._reopener = Reconnects(self, random)
        self._patience = Deadlines(settings)
        self._random = random
        self._late: deque[tuple[Callable[[Entry, float], None], Entry]] = deque()
        """Connections whose time is up, and what is done about it in the next turns."""
        self._buried: set[int] = set()
        self.share = SHARE
        self.per_event = PER_EVENT
        self.behind: dict[Worker, Unapplied] = {}
        """Of workers that have sent more than was applied yet, in the order of their turn."""
        self.unread = 0
        """Bytes of batches that have not been looked at yet."""
        self.dead_letters: list[dict[str, Any]] = []
        """For the shell to write down."""

    # --- bytes of workers ---

    def receive(self, identity: bytes, data: bytes | memoryview, now: float) -> None:
        """One ZeroMQ message of a worker. Raises nothing: a fault of ours ends the connection whose
        record was applied, or the worker's session."""
        self.limits.now = now
        try:
            self._take_in(identity, data, now)
        except Exception as error:
            worker = self.workers.get(identity)
            if worker is None:
                self.limits.fault("a message of a worker", error)
            else:
                self.worker_fault(worker, error, now)

    def _take_in(self, identity: bytes, data: bytes | memoryview, now: float) -> None:
        worker = self.workers.get(identity)
        if worker is None:
            if identity in self._banned:
                return
            worker = self._add_stranger(identity, None, now)
        if self.behind and worker in self.behind:
            # In order: what it sent before is not applied yet.
            size = len(data) + EVENT_COST
            self.behind[worker].batches.append(data)
            self.unread += size
            self.flow.hold(size)
            return
        self._receive(worker, data, now)

    def _receive(self, worker: Worker, data: bytes | memoryview, now: float) -> None:
        """Its next message."""
        identity = worker.session.identity
        if worker.session.state is NEW:
            if session_of(data):
                # Of a session that has ended with its link: it could not leave before this one
                # stood, and who sent it has not read our `who` yet.
                data = b""
            elif len(data) > LONGEST_HELLO:
                self._ban(worker, f"sent {len(data)} bytes before a hello", now)
                return
        try:
            # PROBE_ROUTER sends an empty message.
            records = worker.session.receive(data) if data else []
        except LinkError as error:
            self._ban(worker, f"sent something that is not a batch: {error}", now)
            return
        if records and type(records[0]) is Hello:
            if worker.session.state is not NEW:
                # It was asked twice, and has begun anew: what it had is over, handled or in part.
                self.end_session(worker, now, died=True, lost=True)
                worker = self._add_stranger(identity, worker.remote, now)
            self._hello(worker, records[0], now)
            return
        if worker.session.state is NEW and not worker.asked:
            # Only now: a `who` behind its welcome would end its session at the worker alone.
            worker.asked = True
            self.replies.append((identity, who()))
        if worker.starting and worker.session.batches:
            worker.starting = False
            says_bye = bool(records) and type(records[-1]) is Bye
            if worker.session.state is READY and not says_bye:
                # Else it was told to leave before it was through with its start, or that failed.
                self._ready(worker)
        if records:
            self._apply(worker, records, 0, len(data), now)

    def _apply(self, worker: Worker, records: list[Any], at: int, size: int, now: float) -> None:
        """Apply records from `at` on: all of an ordinary batch, else a share of them. The others
        are for the turns to come, as the batch has come whole."""
        apply, outgoing = self._commands.apply, self.outgoing
        end = len(records)
        share = self.share
        if end - at > share and (at or end > share + self.per_event * worker.session.batch_acks):
            end = at + share
        limit = outgoing.work + WORK
        for index in range(at, end):
            record = records[index]
            if record is None:
                worker.unread_batch = worker.session.batches
                continue
            try:
                why = apply(worker, record, now)
            except Exception as error:
                why = self._record_fault(worker, record, error, now)
            if worker.session.state is GONE:
                # It has said bye: what stands behind that is nobody's.
                return
            if why is not None:
                if why == UNFINISHED:
                    end = index
                    break
                self._left_out(worker, index, record, why)
            if outgoing.work > limit:
                end = index + 1
                break
        if end < len(records):
            self.behind[worker] = Unapplied(records, end, size)
            self.flow.hold(size)

    def _left_out(self, worker: Worker, index: int, record: Record, why: str) -> None:
        call = call_of(record)
        worker.session.refuse(index, f"{call}: {why}")
        self.dispatcher.with_output.add(worker)
        self.limits.say(
            "warning",
            "%s: refused %s: %s",
            self.name_of(worker),
            call,
            why[:LONGEST_WHY],
        )

    # --- what is left of earlier turns ---

    def go_on(self, now: float) -> bool:
        """Once a turn: a share of what handlers have commanded and is not done yet, of each worker
        in turn. As long as much waits to be written, it is one worker's. Gives whether there was
        any."""
        outgoing = self.outgoing
        if not self.behind and not outgoing.is_behind:
            return False
        outgoing.go_on(now)
        limit = outgoing.work + WORK
        for worker in list(self.behind):
            if worker in self.behind:
                try:
                    self._go_on(worker, now)
                except Exception as error:
                    self.worker_fault(worker, error, now)
            if outgoing.work > limit or len(self.dirty) > self.share:
                break
        return True

    def _go_on(self, worker: Worker, now: float) -> None:
        """A share of what this worker has sent; then it queues up behind the others."""
        rest = self.behind.pop(worker)
        try:
            self._apply_more(worker, rest, now)
        except Exception:
            self._forget_rest(rest)
            raise
        if worker.session.state is GONE:
            self._forget_rest(rest)
        elif worker in self.behind:
            self.behind[worker].batches = rest.batches
        elif rest.batches:
            self.behind[worker] = rest

    def _apply_more(self, worker: Worker, rest: Unapplied, now: float) -> None:
        records, rest.records = rest.records, []
        if records:
            self.flow.hold(-rest.size)
            self._apply(worker, records, rest.at, rest.size, now)
        for _ in range(BATCHES):
            if worker in self.behind or not rest.batches or worker.session.state is GONE:
                break
            data = rest.batches.popleft()
            size = len(data) + EVENT_COST
            self.unread -= size
            self.flow.hold(-size)
            self._receive(worker, data, now)

    def _forget_rest(self, rest: Unapplied) -> None:
        """Its session is over: nobody wants what it has sent behind that."""
        size = sum([len(data) + EVENT_COST for data in rest.batches])
        self.unread -= size
        self.flow.hold(-size - rest.size if rest.records else -size)

    def _finish(self, worker: Worker, now: float) -> None:
        """Its session is to end: what it has sent was received whole, and so it takes effect."""
        while worker in self.behind:
            rest = self.behind[worker]
            before = rest.at, len(rest.batches)
            self._go_on(worker, now)
            rest = self.behind.get(worker, rest)
            if before == (rest.at, len(rest.batches)):
                # It may wait for what another one has begun, or for those who publish.
                for other in list(self.behind):
                    if other in self.behind:
                        self._go_on(other, now)
                self.outgoing.go_on(now)

    def _record_fault(
        self, worker: Worker, record: Record, error: Exception, now: float
    ) -> str | None:
        """A command was not applied, or in part: its connection ends, and the rest of the batch is
        applied. (Left undone, its event would come again, and so would this.)"""
        if type(record) is Ack or type(record) is Bye:
            raise error
        entry = self.entries.get(getattr(record, "con", 0))
        if entry is None:
            self.limits.fault(f"{type(record).__name__} of {self.name_of(worker)}", error)
        else:
            self.fault(entry.con, error, now)
        return "a bug in the gateway; see its log"

    def worker_fault(self, worker: Worker, error: BaseException, now: float) -> None:
        """Something of ours has raised while this worker was handled: its session ends for that,
        as with a death. Raises nothing."""
        self.limits.fault(f"the session of {self.name_of(worker)}", error)
        try:
            if worker.number:
                why = "a bug in the gateway has ended its session"
                self.to_supervisor.append(Kill(worker.number, why))
            self.end_session(worker, now, died=True)
        except Exception as second:
            self.limits.fault(f"{self.name_of(worker)}, while its session was ended,", second)
            self._wreck(worker, second, now)

    def _wreck(self, worker: Worker, error: BaseException, now: float) -> None:
        """Its session cannot be ended in order: whatever hung on it ends."""
        worker.session.end()
        for known in (self.workers, self._strangers):
            if known.get(worker.session.identity) is worker:
                del known[worker.session.identity]
        for pool in self.pools.values():
            for queue in (pool.workers, pool.isolated):
                if worker in queue:
                    queue.remove(worker)
        worker.window.in_flight.clear()
        if worker in self.behind:
            self._forget_rest(self.behind.pop(worker))
        for entry in [*worker.connections, *worker.ties]:
            if entry.holder is worker:
                entry.holder = None
            if not entry.gone:
                self.fault(entry.con, error, now)
        worker.connections.clear()
        worker.ties.clear()

    def meet(self, identity: bytes, guest: RemoteWorker, now: float) -> bool:
        """A worker on another machine speaks for the first time; False: do not listen to it."""
        if identity in self._banned:
            return False
        self._add_stranger(identity, guest, now)
        return True

    def _add_stranger(self, identity: bytes, guest: RemoteWorker | None, now: float) -> Worker:
        worker = self.workers[identity] = Worker(identity, self._decoder, now, guest)
        self._strangers[identity] = worker
        if len(self._strangers) > MOST_STRANGERS:
            # Should it be an honest one, its hello makes it known again.
            self._forget_stranger(next(iter(self._strangers)))
        return worker

    def _forget_stranger(self, identity: bytes) -> None:
        self._strangers.pop(identity).session.end()
        self.workers.pop(identity, None)

    def _hello(self, worker: Worker, hello: Hello, now: float) -> None:
        if hello.token in self._gone_tokens:
            # It died while this was on its way.
            log.debug(
                "worker %d was gone before its hello was read", self._gone_tokens[hello.token]
            )
            self.end_session(worker, now)
            return
        number = 0 if worker.remote is not None and worker.remote.key else self._number(hello.token)
        if number is None or (number and worker.remote is not None):
            self._ban(worker, "its token is wrong; start it with the one in the run folder", now)
            return
        why = self._shut_out(worker, hello, number)
        if why:
            self._ban(worker, why, now)
            return
        self._absent.pop(hello.instance, None)
        for other in list(self.workers.values()):
            if (
                other.session.number
                and other is not worker
                and other.session.instance == hello.instance
            ):
                # The same process on a new connection: its old session is over, nobody died.
                self.end_session(other, now, died=True, lost=True)
        worker.number = number
        worker.quota = self.settings.max_events * (0.9 + self._random() / 5)
        self._strangers.pop(worker.session.identity, None)
        self._sessions += 1
        worker.session.welcome(hello, self._sessions, self.epoch, self.new_range(worker))
        pool = self.pool(worker.session.pool)
        pool.sessions += 1
        if not pool.stays and pool.name != PUSHING_POOL:
            text = "%s: no route leads to its pool %s, so it gets no clients"
            self.limits.say("warning", text, self.name_of(worker), pool.name)
        worker.starting = hello.starting
        if worker.starting:
            self.dispatcher.with_output.add(worker)
        else:
            self._ready(worker)
        self._bury(worker, hello.held, now)

    def _shut_out(self, worker: Worker, hello: Hello, number: int) -> str:
        """Why a hello with a good token, or key, is not enough."""
        if hello.version != PROTOCOL_VERSION:
            return f"it speaks version {hello.version} of the protocol, not 1"
        names = (hello.pool, hello.instance, hello.language)
        if any(len(name) > LONGEST_NAME or not name.isprintable() for name in names):
            # They stand in the log and in status.
            return f"pool, instance and language are one line of at most {LONGEST_NAME} characters"
        guest = worker.remote
        if guest is not None and guest.pools is not None and hello.pool not in guest.pools:
            return f"its key is not for the pool {hello.pool}"
        for other in self.workers.values():
            if number and other.number == number and other.session.instance != hello.instance:
                # It was inherited, by a fork for example. Of two sessions nobody would know whose
                # process it is that has ended.
                return f"its token belongs to worker {number}, which is connected already"
        by_hand = sum(not other.number for other in self.workers.values())
        if not number and by_hand - len(self._strangers) >= MOST_BY_HAND:
            return f"{MOST_BY_HAND} workers that were started by hand are connected already"
        return ""

    def _ready(self, worker: Worker) -> None:
        """It takes events."""
        self.dispatcher.join(self.pool(worker.session.pool), worker)
        of_pool = f", pool {worker.session.pool}" if worker.session.pool != DEFAULT_POOL else ""
        self._tell(worker, f"is ready ({worker.session.language}{of_pool})")
        if worker.number:
            self.to_supervisor.append(Ready(worker.number))

    def _bury(self, worker: Worker, held: list[int], now: float) -> None:
        """Connections of a gateway that died: each gets its on_close once, as an ordinary event.

        Of all others the worker is told to forget them: they were buried already, or they have
        moved while it was away.
        """
        for con_id in held:
            if (
                0 <= con_id >> ID_EPOCH_SHIFT < self.epoch
                and con_id not in self._buried
                and len(self._buried) < MOST_BURIED
            ):
                self._buried.add(con_id)
                con = Connection.buried(con_id, self.settings)
                entry = self.add(con, self.pool(worker.session.pool), now)
                entry.inherited = True
                self.dispatcher.hold(entry, worker)
                self.take(con, [OnClose(0, con_id, 1006, "", "gateway-died")], now)
            else:
                worker.session.notice(Detach(con_id))

    def _number(self, token: str) -> int | None:
        found = None
        for known, number in self.tokens.items():
            # All of them, each in constant time: the time taken must not say which came close.
            if hmac.compare_digest(known.encode(), token.encode()):
                found = number
        return found

    def _ban(self, worker: Worker, why: str, now: float) -> None:
        self.limits.say("error", "%s is shut out: %s", self.name_of(worker), why[:LONGEST_WHY])
        self.replies.append(
            (worker.session.identity, refusal(why[:LONGEST_WHY], worker.session.number))
        )
        self._banned[worker.session.identity] = None
        if len(self._banned) > BANNED_KEPT:
            del self._banned[next(iter(self._banned))]
        if worker.number:
            self.to_supervisor.append(Kill(worker.number, why))
        # From elsewhere it may do so again and again, to have innocent events taken for poison.
        self.link_lost(worker, now)

    def link_lost(self, worker: Worker, now: float) -> None:
        """Its link is gone for good. Behind a network that is no proof of its death: only if it
        does not come back its events have seen one."""
        self.end_session(worker, now, died=True, certain=worker.remote is None)
        events, self.dispatcher.unconfirmed = self.dispatcher.unconfirmed, []
        if events:
            self._absent[worker.session.instance] = (now + COME_BACK, events)
            if len(self._absent) > MOST_ABSENT:
                self._confirm(next(iter(self._absent)))

    def _confirm(self, instance: str) -> None:
        self.dispatcher.confirm(self._absent.pop(instance)[1])

    def overwhelmed(self, worker: Worker, now: float) -> None:
        """It does not read, and too much waits for it. It may say hello again."""
        why = "it does not read what is sent to it"
        self.limits.say("error", "%s: %s; its session is over", self.name_of(worker), why)
        if worker.number:
            self.to_supervisor.append(Kill(worker.number, why))
        self.end_session(worker, now, died=True)

    def end_session(
        self,
        worker: Worker,
        now: float,
        *,
        died: bool = False,
        lost: bool = False,
        certain: bool = True,
    ) -> None:
        """A session is over: its events go back, what it owned is closed, its messages are cut.

        With `died`, events may have been handled in part. That death counts against them, unless
        the worker was told to leave, or has only changed its link (`lost`); see `link_lost` for
        `certain`.
        """
        if worker in self.behind:
            self._finish(worker, now)
            if worker.session.state is GONE:
                # With a bye.
                return
        counts = died and not lost and worker.session.state is READY
        held = len(worker.window.in_flight)
        self.workers.pop(worker.session.identity, None)
        self._strangers.pop(worker.session.identity, None)
        if worker.session.state is NEW:
            worker.session.end()
            return
        pool = self.pool(worker.session.pool)
        self.dispatcher.leave(pool, worker, died, counts, certain, lost)
        self._mourn(now)
        for entry in list(worker.ties):
            if entry.opener is worker:
                entry.opener = None
            if entry.gone:
                continue
            try:
                if entry.fragment is worker:
                    self.outgoing.forget(entry)
                    self.close(entry, 1011, "a message was cut short", "worker-died", now)
                if entry.owner is worker:
                    self.close(entry, 1001, "its worker has left", "owner-left", now)
            except Exception as error:
                self.fault(entry.con, error, now)
        worker.ties.clear()
        pool.sessions -= 1
        self.release(pool)
        if worker.number:
            self.to_supervisor.append(Left(worker.number, worker.window.acked_events, held))

    def _mourn(self, now: float) -> None:
        """What a death means for connections: poison, or messages that are not repeated."""
        dispatcher = self.dispatcher
        poisoned, dispatcher.poisoned = dispatcher.poisoned, []
        for entry, event, deaths, losses in poisoned:
            name = type(event).__struct_config__.tag
            if deaths:
                text = "connection %d: its %s has killed %d workers; see the dead letters"
            else:
                text = (
                    "connection %d: its %s has broken the links of %d workers; see the dead letters"
                )
            log.error(text, entry.id, name, deaths or losses)
            try:
                self.dead_letters.append(dead_letter(entry, event, deaths, losses))
                if type(event) is OnClose:
                    self.forget(entry)
                else:
                    self._cut_off(entry, "poison", "it was not handled", now)
            except Exception as error:
                self.fault(entry.con, error, now)
        unrepeated, dispatcher.unrepeated = dispatcher.unrepeated, []
        for entry in unrepeated:
            try:
                self._cut_off(entry, "worker-died", "its worker died", now)
            except Exception as error:
                self.fault(entry.con, error, now)

    def _cut_off(self, entry: Entry, cause: str, reason: str, now: float) -> None:
        """1011 for a WebSocket, a reset for raw: nobody must believe that all is well."""
        self.dispatcher.drop_messages(entry)
        if entry.con.kind == "websocket":
            self.close(entry, 1011, reason, cause, now)
        else:
            self.abort(entry, 1011, cause, "", now)

    def _leave(self, worker: Worker, now: float) -> None:
        self._tell(worker, "has left")
        self.end_session(worker, now)

    def _tell(self, worker: Worker, what: str) -> None:
        """A line about a worker; of those that nobody has started there may be very many."""
        if worker.number:
            log.info("%s %s", self.name_of(worker), what)
        else:
            self.limits.say("info", "%s %s", self.name_of(worker), what)

    def name_of(self, worker: Worker) -> str:
        """How the log calls a worker."""
        if worker.number:
            return f"worker {worker.number}"
        name = f"worker {worker.session.instance or worker.session.identity.hex()}"
        return f"{name} ({worker.remote})" if worker.remote is not None else name

    def batches(self, now: float) -> list[tuple[Worker, bytes]]:
        """End of a turn: room is given to those who wait, then each worker gets one batch."""
        if self.ended:
            self._reopener.reopen(now)
        dispatcher = self.dispatcher
        for pool in self.pools.values():
            dispatcher.dispatch(pool, now)
        if dispatcher.failed or dispatcher.failed_workers:
            self._end_failed(now)
        with_output, dispatcher.with_output = dispatcher.with_output, set()
        out = []
        for worker in with_output:
            try:
                data = worker.session.data_to_send()
                while data is not None:
                    out.append((worker, data))
                    data = worker.session.data_to_send()
            except Exception as error:
                out += [(worker, batch) for batch in self._write_rest(worker, error, now)]
        return out

    def _end_failed(self, now: float) -> None:
        self.end_failed(now)
        failed, self.dispatcher.failed_workers = self.dispatcher.failed_workers, []
        for worker, error in failed:
            if worker.session.state is not GONE:
                self.worker_fault(worker, error, now)

    def _write_rest(self, worker: Worker, error: BaseException, now: float) -> list[bytes]:
        """A batch cannot be encoded, for one record or several: their connections end, and the rest
        goes out. If that cannot be either, the session ends."""
        try:
            wrong = worker.session.take_out_unencodable()
            if not wrong:
                raise error
            for record in wrong:
                entry = self.entries.get(getattr(record, "con", 0))
                if entry is None or entry.gone:
                    self.limits.fault(f"{type(record).__name__} to {self.name_of(worker)}", error)
                    continue
                if type(record) is OnConnect or type(record) is Attach:
                    # The worker cannot know it: it gets no other event of it, not even its end.
                    worker.session.take_out(entry.id)
                    self.forget(entry)
                self.fault(entry.con, error, now)
            batches = []
            data = worker.session.data_to_send()
            while data is not None:
                batches.append(data)
                data = worker.session.data_to_send()
            return batches
        except Exception as second:
            self.worker_fault(worker, second, now)
            return []

    @property
    def is_restless(self) -> bool:
        """Whether the next turn has something to do in any case."""
        return bool(
            self.dispatcher.with_output
            or self.flow.changed
            or self.flow.due
            or self.behind
            or self.outgoing.is_behind
            or self.outgoing.over_limit
        ) or any(
            pool.is_behind or (pool.orphaned and pool.reassigning) for pool in self.pools.values()
        )

    # --- time ---

    def tick(self, now: float) -> bool:
        """Once a second: what is judged by the clock, after all reading of this turn. True: that is
        more than fits into a turn, and the next one goes on."""
        self.limits.now = now
        if self._late:
            return self._end_late(now)
        for worker in list(self._strangers.values()):
            if now - worker.since > HELLO_TIMEOUT:
                self._forget_stranger(worker.session.identity)
        for instance, (until, _) in list(self._absent.items()):
            if now > until:
                self._confirm(instance)
        for worker in list(self.workers.values()):
            if worker.session.state is not NEW:
                try:
                    self._judge_worker(worker, now)
                except Exception as error:
                    self.worker_fault(worker, error, now)
        self.check_memory(now)
        self.check_unanswered(now)
        late = self._late
        late.extend((self._end_unfinished, entry) for entry in self.outgoing.unfinished(now))
        late.extend(
            (self._end_slow, entry) for entry in self._patience.slow_readers(self.flow, now)
        )
        late.extend((self._end_idle, entry) for entry in self._patience.idle(self.entries, now))
        late.extend(
            (self._end_stalled, entry)
            for entry in list(self.flow.paused)
            if self._is_stalled(entry, now)
        )
        for pool in list(self.pools.values()):
            if not pool.workers:
                self.dispatcher.sweep(pool)
                late.extend(
                    (self._end_waiting, entry)
                    for entry in (*pool.unheard, *pool.unheard_left)
                    if self._has_waited(entry, now)
                )
        self.limits.tick(now)
        return self._end_late(now)

    def _end_late(self, now: float) -> bool:
        """End some of those whose time is up; whether there are more."""
        late = self._late
        for _ in range(min(len(late), MOST_ENDED)):
            end, entry = late.popleft()
            # One may be late in more than one way.
            if not entry.gone:
                try:
                    end(entry, now)
                except Exception as error:
                    self.fault(entry.con, error, now)
        return bool(late)

    def check_memory(self, now: float) -> None:
        """Once a second, and when the flow wants it: whether all together hold too much."""
        crowded = self.flow.crowded
        doomed = self.flow.check_memory(self.entries.values())
        if self.flow.crowded and not crowded:
            self.limits.hit(CROWDED, now)
        for con in doomed:
            try:
                self._end_for_memory(con, now)
            except Exception as error:
                self.fault(con, error, now)

    def _end_for_memory(self, con: Connection, now: float) -> None:
        if not con.close_cause:
            # Else it is counted, and its end is on the way.
            self.limits.hit("memory_limit", now, con.who)
        why = "the server is out of memory"
        entry = entry_of(con)
        if entry is None or entry.gone or entry.unfinished > entry.output_counted:
            # What it has sent goes on to be parsed until it is gone: no goodbye.
            self.take(con, con.abort(1013, "", "memory", why, now), now)
            self.dirty[con] = None
        else:
            self.abort(entry, 1013, "memory", why, now)

    def _judge_worker(self, worker: Worker, now: float) -> None:
        """Whether it hangs, or has done enough."""
        if worker in self.behind:
            # It waits for us.
            return
        age = worker.window.oldest_age(now)
        if worker.kill_reason:
            why, worker.kill_reason = worker.kill_reason, ""
            self.to_supervisor.append(Kill(worker.number, why, abort=True))
        elif 0 < self.settings.handler_timeout < age and not worker.hung:
            worker.hung = True
            worker.window.close()
            self.dispatcher.withdraw(self.pool(worker.session.pool), worker)
            flight = next(iter(worker.window.in_flight.values()))
            entry = flight.owner
            name = type(flight.event).__struct_config__.tag
            why = f"its {name} of {entry.con.who} has run for {age:.0f} s"
            # Where it awaits something it can say what. It is killed at the next tick.
            hung = Hung(entry.id, flight.event.seq)
            if worker.number:
                worker.kill_reason = why
                worker.session.notice(hung)
                self.dispatcher.with_output.add(worker)
            else:
                log.error("%s hangs: %s", self.name_of(worker), why)
                self.replies.append(
                    (worker.session.identity, encode([worker.session.number, hung]))
                )
                self.end_session(worker, now, died=True)
        elif 0 < worker.quota < worker.window.acked_events and worker.session.state is READY:
            # The supervisor may not do it just now; then it is asked again a tenth later.
            worker.quota = worker.window.acked_events + self.settings.max_events / 10
            if worker.number:
                why = f"it has handled {worker.window.acked_events} events"
                self.to_supervisor.append(Recycle(worker.number, why))

    # Of those whose end had to wait some turns some may have moved meanwhile.

    def _end_unfinished(self, entry: Entry, now: float) -> None:
        if entry.fragment is not None:
            self.outgoing.forget(entry)
            self.close(entry, 1011, "a message was not finished", "handler", now)

    def _end_slow(self, entry: Entry, now: float) -> None:
        if entry not in self.flow.unwritten:
            return
        message = f"nothing was read from it for {self.settings.write_timeout:g} s"
        self.end_for_limit(entry, "write_timeout", "write-timeout", message, now)

    def _end_idle(self, entry: Entry, now: float) -> None:
        if entry.active:
            return
        self.count("idle_timeout", entry, now)
        self.close(entry, 1001, "idle", "idle-timeout", now)

    def _is_stalled(self, entry: Entry, now: float) -> bool:
        if not entry.pool.workers:
            # Nobody is there to take its events: no fault of the connection's.
            entry.paused_since = now
        if self.stopping or not 0 < self.settings.pause_timeout < now - entry.paused_since:
            return False
        con = entry.con
        # If it was told already, its handler still has what it sent.
        return con.state is not CLOSED and (con.state is not CLOSING or con.half_closed)

    def _end_stalled(self, entry: Entry, now: float) -> None:
        if not entry.pauses or not self._is_stalled(entry, now):
            return
        entry.paused_since = now
        self.count("pause_timeout", entry, now)
        self.close(entry, 1013, "stalled", "stalled", now)

    def _has_waited(self, entry: Entry, now: float) -> bool:
        """Established connections stay while no worker is ready; new ones wait so long."""
        wait = self.settings.worker_wait_timeout
        return bool(wait) and not entry.heard and not entry.gone and now - entry.since > wait

    def _end_waiting(self, entry: Entry, now: float) -> None:
        if entry.pool.workers or not self._has_waited(entry, now):
            return
        con = entry.con
        self.limits.hit("worker_wait_timeout", now, con.who)
        if con.kind == "websocket":
            con.close(1013, "no worker is ready", "no-worker", now)
        else:
            con.abort(1013, "", "no-worker", "no worker is ready", now)
        self.dirty[con] = None
        self.forget(entry)

    # --- the supervisor's words ---

    def spawned(self, spawned: Spawned) -> None:
        """Expect a worker with that token. Number 0 is the token of workers started by hand."""
        self.tokens = {t: n for t, n in self.tokens.items() if n != spawned.n or not n}
        self.tokens[spawned.token] = spawned.n

    def exited(self, n: int) -> None:
        """Worker `n` is gone; should its hello still be on the way, nobody must answer it."""
        for token in [token for token, number in self.tokens.items() if number == n]:
            del self.tokens[token]
            self._gone_tokens[token] = n
            if len(self._gone_tokens) > GONE_TOKENS_KEPT:
                del self._gone_tokens[next(iter(self._gone_tokens))]

    def worker_number(self, n: int) -> Worker | None:
        """The worker that the supervisor knows as `n`, while its session lasts."""
        for worker in self.workers.values():
            if worker.number == n and worker.session.state in (READY, DRAINING):
                return worker
        return None

    def drain(self, worker: Worker, deadline: float) -> None:
        """Let a worker finish and leave."""
        self.dispatcher.drain(self.pool(worker.session.pool), worker, deadline)

    # --- stop ---

    def stop(self) -> None:
        """Nothing new is read; what has come is handled."""
        self.stopping = True
        self.flow.stop_reading(list(self.entries.values()))

    def is_quiet(self) -> bool:
        """Every event that was taken is handled, or there is nobody to handle it."""
        if self.behind or self.outgoing.is_behind:
            return False
        return all(
            not entry.in_flight and (not entry.parked or not entry.pool.workers)
            for entry in self.entries.values()
        )

    def is_waited_for(self) -> bool:
        """Some connection's on_close is not acked yet, and somebody is there to do it."""
        return any(entry.pool.workers for entry in self.entries.values())

    def close_all(self, now: float) -> None:
        """Say 1001 to everybody."""
        for entry in list(self.entries.values()):
            try:
                self.close(entry, 1001, "the server is going away", "going-away", now)
            except Exception as error:
                self.fault(entry.con, error, now)
