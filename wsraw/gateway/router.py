"""Sans-I/O. Events of connections in, commands of workers in; what sockets and links must do, out.

The shell asks after each turn: `dirty` connections have output to write or a close to finish,
`to_dial` are to be connected, `flow.changed` have a pause to apply, `batches()` go to workers,
`to_supervisor` to the supervisor.

Bad input is data. A wrong record is left out and `refused` by its number, the rest applies; what is
no batch at all ends the session.
"""

from __future__ import annotations

import hmac
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from wsraw import link
from wsraw import messages as m
from wsraw.gateway.commands import Commands
from wsraw.gateway.connection import CLOSED, Connection
from wsraw.gateway.dispatch import Dispatcher
from wsraw.gateway.flow import Flow
from wsraw.gateway.groups import Groups
from wsraw.gateway.outgoing import Outgoing
from wsraw.gateway.reopener import Reopener
from wsraw.gateway.route import ID_RANGE, IdRange, Pool, Route, Worker
from wsraw.link import LinkState
from wsraw.settings import Settings

log = logging.getLogger("wsraw.gateway")

HELLO_TIMEOUT: Final = 30.0
"""Seconds after which an identity that never said hello is forgotten, to be asked anew."""

BANNED_KEPT: Final = 1000
"""Identities whose messages are dropped unread; the oldest goes when there are more."""


class Router:
    """All of the gateway's decisions; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        epoch: int,
        memory_limit: int,
        random: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self.flow = Flow(settings, memory_limit)
        self.dispatcher = Dispatcher(self.flow)
        self.routes: dict[int, Route] = {}
        self.pools: dict[str, Pool] = {}
        self.workers: dict[bytes, Worker] = {}
        self.tokens: dict[str, int] = {}
        self.dirty: set[Connection] = set()
        self.to_dial: list[Route] = []
        self.to_supervisor: list[m.FromGateway] = []
        self.replies: list[tuple[bytes, bytes]] = []
        """(identity, batch) for those who have no session."""
        self.stopping = False
        self.outgoing = Outgoing(
            self.flow, settings.output_limit, settings.overflow, self.dirty, self._overflow
        )
        self.groups = Groups()
        self._sessions = 0
        self.next_id = 1
        self._decoder = m.gateway_decoder()
        self._banned: deque[bytes] = deque(maxlen=BANNED_KEPT)
        self._commands = Commands(self)
        self._reopener = Reopener(self, random)

    # --- connections ---

    def new_id(self) -> int:
        """An id for an accepted connection; ids are never reused while a gateway lives."""
        n = self.next_id
        self.next_id = n + 1
        return self.epoch << m.ID_EPOCH_SHIFT | n

    def pool(self, name: str = "default") -> Pool:
        """The pool of that name, made at first mention."""
        pool = self.pools.get(name)
        if pool is None:
            pool = self.pools[name] = Pool(name, self.settings.dispatch == "sticky")
        return pool

    def take(self, con: Connection, events: list[m.Event], now: float) -> None:
        """Events of a connection, in order. Its first one gives it a place here."""
        route: Route | None = con.route
        if route is None:
            if not events:
                return
            route = self.add(con, self.pool(), now)
        elif route.gone:
            return
        for event in events:
            self.dispatcher.take(route, event, now)
        if route.reopening is not None and con.state is CLOSED:
            self._reopener.ended(route, now)

    def add(self, con: Connection, pool: Pool, now: float) -> Route:
        """Give a connection its place."""
        route = con.route = self.routes[con.id] = Route(con, pool, now)
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
        """It ends when nothing of it is parked or in flight."""
        if not route.in_flight and not route.parked:
            self.take(route.con, route.con.drained(now), now)
            self.dirty.add(route.con)

    def succeed(self, route: Route, successor: Route) -> None:
        """A connection that was opened by name has a successor."""
        self._commands.succeed(route, successor)

    def forget(self, route: Route) -> None:
        """Its on_close is acked, or no worker ever heard of it: nothing of it remains."""
        route.gone = True
        self.dispatcher.forget(route)
        self.outgoing.forget(route)
        self.flow.forget(route)
        self.groups.forget(route)
        for worker in (route.opener, route.owner):
            if worker is not None:
                worker.ties.discard(route)
        self.routes.pop(route.id, None)
        self._commands.forget(route)

    def close(self, route: Route, code: int, reason: str, cause: str, now: float) -> None:
        """The gateway itself closes a connection, in order."""
        self.take(route.con, route.con.close(code, reason, cause, now), now)
        self.dirty.add(route.con)

    def abort(self, route: Route, code: int, cause: str, message: str, now: float) -> None:
        """The gateway ends a connection at once."""
        self.take(route.con, route.con.abort(code, "", cause, message, now), now)
        self.flow.output_changed(route)
        self.dirty.add(route.con)

    # --- bytes of workers ---

    def receive(self, identity: bytes, data: bytes, now: float) -> None:
        """One ZeroMQ message of a worker. Nothing it holds can raise."""
        worker = self.workers.get(identity)
        if worker is None:
            if identity in self._banned:
                return
            worker = self.workers[identity] = Worker(identity, self._decoder, now)
            self.replies.append((identity, link.who()))
        if not data:
            return
        try:
            records = worker.receive(data)
        except m.LinkError as error:
            self._ban(worker, f"sent what is no batch: {error}", now)
            return
        if worker.state is LinkState.NEW:
            for hello in records:
                self._hello(worker, hello, now)
                return
            return
        apply = self._commands.apply
        for index, record in enumerate(records):
            if record is None:
                continue
            why = apply(worker, record, now)
            if worker.state is LinkState.GONE:
                # It has said bye: what stands behind that is nobody's.
                break
            if why is not None:
                worker.refuse(index, why)
                self.dispatcher.talked.add(worker)
                log.warning("%s: refused %s: %s", self.name_of(worker), type(record).__name__, why)

    def _hello(self, worker: Worker, hello: m.Hello, now: float) -> None:
        number = self._number(hello.token)
        if number is None:
            self._ban(worker, "its token is wrong; start it with the one in the run folder", now)
            return
        if hello.version != m.PROTOCOL_VERSION:
            self._ban(worker, f"it speaks version {hello.version} of the protocol, not 1", now)
            return
        for other in list(self.workers.values()):
            if other is not worker and other.instance == hello.instance:
                # The same process on a new connection: its old session is over, nobody died.
                self.end_session(other, now)
        worker.worker = number
        self._sessions += 1
        worker.welcome(hello, self._sessions, self.epoch, self.new_range(worker))
        self.dispatcher.join(self.pool(worker.pool), worker)
        log.info("%s is ready (%s)", self.name_of(worker), worker.language)
        if number:
            self.to_supervisor.append(m.Ready(number))

    def _number(self, token: str) -> int | None:
        found = None
        for known, number in self.tokens.items():
            # All of them, each in constant time: the time taken must not say which came close.
            if hmac.compare_digest(known.encode(), token.encode()):
                found = number
        return found

    def new_range(self, worker: Worker) -> range:
        """Connection ids for a session to open with."""
        first = self.epoch << m.ID_EPOCH_SHIFT | self.next_id
        self.next_id += ID_RANGE
        worker.ids.append(IdRange(first))
        return range(first, first + ID_RANGE)

    def _ban(self, worker: Worker, why: str, now: float) -> None:
        log.error("%s is shut out: %s", self.name_of(worker), why)
        self.replies.append((worker.identity, link.refusal(why)))
        self._banned.append(worker.identity)
        if worker.worker:
            self.to_supervisor.append(m.Kill(worker.worker, why))
        self.end_session(worker, now)

    def end_session(self, worker: Worker, now: float, *, died: bool = False) -> None:
        """A session is over: its events go back, what it owned is closed, its messages are cut."""
        self.workers.pop(worker.identity, None)
        if worker.state is LinkState.NEW:
            worker.state = LinkState.GONE
            return
        self.dispatcher.leave(self.pool(worker.pool), worker, died)
        for route in worker.ties:
            if route.opener is worker:
                route.opener = None
            if route.gone:
                continue
            if route.fragment is worker:
                self.outgoing.forget(route)
                self.close(route, 1011, "a message was cut short", "worker-died", now)
            if route.owner is worker:
                self.close(route, 1001, "its worker has left", "owner-left", now)
        worker.ties.clear()
        if worker.worker:
            self.to_supervisor.append(m.Left(worker.worker))

    def name_of(self, worker: Worker) -> str:
        """How the log calls a worker."""
        if worker.worker:
            return f"worker {worker.worker}"
        return f"worker {worker.instance or worker.identity.hex()}"

    def batches(self, now: float) -> list[tuple[Worker, bytes]]:
        """End of a turn: room is given to those who wait, then each worker gets one batch."""
        for pool in self.pools.values():
            self.dispatcher.dispatch(pool, now)
        talked, self.dispatcher.talked = self.dispatcher.talked, set()
        out = []
        for worker in talked:
            data = worker.data_to_send()
            if data is not None:
                out.append((worker, data))
        return out

    # --- the shell's reports ---

    def wrote(self, route: Route) -> None:
        """Some of a connection's output is with the kernel, and some may be left."""
        self.flow.output_changed(route)
        if route.marks:
            reached = [mark for mark in route.marks if mark[0] <= route.written]
            route.marks = [mark for mark in route.marks if mark[0] > route.written]
            for _, worker, ref in reached:
                if worker.state is not LinkState.GONE:
                    worker.notice(m.Reached(route.id, ref))
                    self.dispatcher.talked.add(worker)

    def tick(self, now: float) -> None:
        """Once a second: what is judged by the clock, after all reading of this turn."""
        for worker in list(self.workers.values()):
            if worker.state is LinkState.NEW and now - worker.since > HELLO_TIMEOUT:
                del self.workers[worker.identity]
        for route in self.flow.judge_memory(self.routes.values()):
            self.abort(route, 1013, "memory", "the server is out of memory", now)
        for route in self.outgoing.unfinished(now):
            self.outgoing.forget(route)
            self.close(route, 1011, "a message was not finished", "handler", now)
        for route in list(self.flow.paused):
            self._judge_pause(route, now)
        for pool in self.pools.values():
            if not pool.workers:
                for route in list(pool.waiting):
                    self._judge_wait(route, now)

    def _judge_pause(self, route: Route, now: float) -> None:
        if not route.pool.workers:
            # Nobody is there to take its events: no fault of the connection's.
            route.paused_since = now
        elif 0 < self.settings.pause_timeout < now - route.paused_since and not self.stopping:
            route.paused_since = now
            self.close(route, 1013, "stalled", "stalled", now)

    def _judge_wait(self, route: Route, now: float) -> None:
        """Established connections stay while no worker is ready; new ones wait so long."""
        wait = self.settings.worker_wait_timeout
        if route.heard or route.gone or not wait or now - route.since <= wait:
            return
        con = route.con
        if con.kind == "websocket":
            con.close(1013, "no worker is ready", "no-worker", now)
        else:
            con.abort(1013, "", "no-worker", "no worker is ready", now)
        self.dirty.add(con)
        self.forget(route)

    def _overflow(self, route: Route, now: float) -> None:
        """A slow reader: its output has passed the bound."""
        message = f"more than {self.settings.output_limit} bytes of output wait for it"
        self.dispatcher.drop_messages(route)
        self.abort(route, 1008, "overflow", message, now)

    # --- the supervisor's words ---

    def spawned(self, spawned: m.Spawned) -> None:
        """Expect a worker with that token. Number 0 is the token of workers started by hand."""
        self.tokens = {t: n for t, n in self.tokens.items() if n != spawned.n or not n}
        self.tokens[spawned.token] = spawned.n

    def worker_number(self, n: int) -> Worker | None:
        """The worker that the supervisor knows as `n`, while its session lasts."""
        for worker in self.workers.values():
            if worker.worker == n and worker.state in (LinkState.READY, LinkState.DRAINING):
                return worker
        return None

    def drain(self, worker: Worker, deadline: float) -> None:
        """Let a worker finish and leave."""
        self.dispatcher.drain(self.pool(worker.pool), worker, deadline)

    # --- stop ---

    def stop(self) -> None:
        """Nothing new is read; what has come is handled."""
        self.stopping = True
        self.flow.stop_reading(list(self.routes.values()))

    def is_quiet(self) -> bool:
        """Every event that was taken is handled, or there is nobody to handle it."""
        return all(
            not route.in_flight and (not route.parked or not route.pool.workers)
            for route in self.routes.values()
        )

    def is_waited_for(self) -> bool:
        """Some connection's on_close is not acked yet, and somebody is there to do it."""
        return any(route.pool.workers for route in self.routes.values())

    def close_all(self, now: float) -> None:
        """Say 1001 to everybody."""
        for route in list(self.routes.values()):
            self.close(route, 1001, "the server is going away", "going-away", now)
