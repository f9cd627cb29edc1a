"""Sans-I/O. Which worker hears which connection: in flight, parked, moved, given back.

The rules (docs/worker-protocol.md has them with their reasons):

- One connection, one worker at a time. While events of it are in flight, its next ones go to the
  same worker or wait.
- When nothing of it is in flight, it stays with its last worker while that one has room and is not
  stuck (nor late, nor stuck of late by others, while another one is idle), else it goes to the one
  with the least outstanding.
  `sticky` pools never move it while its worker lives.
- One connection takes at most half a window; parked connections are served in turn. Clients that no
  worker has heard of have a queue of their own, those of them that have left come after all others.
- A worker that leaves gives its events back, in order, to the front of their connections. If it
  died they are suspects (suspects.py): each goes alone to a worker that takes nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from wsraw.gateway.delivery.accounts import Flow, size_of
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Pool, Worker
from wsraw.gateway.delivery.suspects import Suspects
from wsraw.link.records import Ack, Attach, Detach, Event, OnClose, OnConnect, OnMessage, Send
from wsraw.link.states import GONE, READY
from wsraw.link.window import InFlight

SHUNNED_FOR: Final = 10.0
"""Seconds for which a worker that was stuck is left, where another one is idle, by all but those
whose events took so long: where one connection makes its handler slow, it will again."""

SERVED: Final = 128
"""Events of those who wait that are given out in a turn: to all workers, and to each its part of as
many more. A worker that is fast, or has been away, has room for thousands, and the rest of the turn
waits for them to be sent."""

LEFT_BEHIND: Final = 1 / 16
"""Share of the memory limit for what clients have left behind that no worker has heard of."""

MOST_LEFTOVERS: Final = 64
"""In queues of those that no worker has heard of, before the queues are swept."""

REASSIGNED: Final = 200
"""Connections that are given to another worker in a turn, after theirs has left."""


def _id_of(entry: Entry) -> int:
    return entry.id


class Dispatcher:
    """Events of connections in, events to workers out."""

    def __init__(self, flow: Flow, max_deliveries: int) -> None:
        self._flow = flow
        self._suspicion = Suspects(max_deliveries)
        self.poisoned: list[tuple[Entry, Event, int, int]] = []
        """Events that have killed, and how many workers, or have broken links, and how many; taken
        out of their connections."""
        self.unrepeated: list[Entry] = []
        """Connections whose messages died with a worker and are not to be repeated."""
        self.unconfirmed: list[Event] = []
        """Events of a worker that is out of sight."""
        self.with_output: set[Worker] = set()
        """Workers that have something to be sent; the shell takes them once a turn."""
        self.failed: list[tuple[Entry, BaseException]] = []
        """Connections with which something of ours has gone wrong: they are to be ended."""
        self.left_behind = 0
        """Bytes of events of clients that have left before any worker heard of them."""
        self.failed_workers: list[tuple[Worker, BaseException]] = []
        """The same of workers' sessions."""

    # --- events in ---

    def take(self, entry: Entry, event: Event, now: float) -> None:
        """An event of a connection: to its worker, or parked until there is one with room."""
        if type(event) is OnMessage:
            if entry.closed_by_handler:
                return
            size = len(event.data) + EVENT_COST
        else:
            size = EVENT_COST
            response = entry.con.about.get("response")
            if response is not None:
                # The end of a connection brings what a server has answered.
                size += size_of(response)
        entry.active = True
        flow = self._flow
        flow.total += size
        entry.held += size
        if entry.held + entry.output_counted > flow.high:
            flow.pause_if_high(entry)
        if entry.parked:
            entry.park(event, size)
            return
        worker: Worker | None
        if entry.in_flight:
            worker = entry.holder
            assert worker is not None
            if (
                2 * entry.in_flight < worker.window.limit
                and worker.session.state is READY
                and worker.window.has_room(size)
            ):
                self._deliver(entry, worker, event, size, now)
                return
        else:
            # Whoever waits already comes first.
            pool = entry.pool
            worker = None if pool.waiting or pool.unheard else self._choose(entry, size, now)
            if worker is not None:
                self._deliver(entry, worker, event, size, now)
                return
        entry.park(event, size)
        self._queue(entry)

    def _choose(self, entry: Entry, size: int, now: float) -> Worker | None:
        """The worker for a connection that has nothing in flight, or None: wait."""
        pool = entry.pool
        last = entry.holder
        alone = len(pool.workers) == 1
        if last is not None and last.session.state is READY and not last.hung:
            sticky = pool.sticky or entry.inherited
            if not last.starting and last.window.has_room(size):
                if alone or sticky:
                    return last
                since = now - SHUNNED_FOR
                if last.window.is_late(now):
                    if not last.window.is_stuck(now):
                        return self._idle(pool, math.inf) or last
                elif last.slow_at > since and entry.slow_at <= since:
                    return self._idle(pool, since) or last
                else:
                    return last
            if sticky:
                return None
        best: Worker | None = None
        stuck: Worker | None = None
        full = False
        for worker in pool.workers:
            if not alone and worker.window.is_stuck(now):
                if worker.window.has_room(size):
                    stuck = worker
            elif not worker.window.has_room(size):
                full = full or not worker.window.is_closed
            elif best is None or self._load(pool, worker) < self._load(pool, best):
                best = worker
        # One that is only full will have room within milliseconds. Where all are stuck, one of them
        # is better than nothing.
        return best if best is not None or full else stuck

    @staticmethod
    def _idle(pool: Pool, since: float) -> Worker | None:
        """A worker with nothing to do that was not stuck since then: an event is better off there
        than behind one of somebody else's, which begins to take long, or is likely to."""
        for worker in pool.workers:
            if not worker.window.in_flight and worker.window.limit and worker.slow_at <= since:
                return worker
        return None

    @staticmethod
    def _load(pool: Pool, worker: Worker) -> tuple[int, int]:
        outstanding, connections = len(worker.window.in_flight), len(worker.connections)
        # sticky: whoever comes late gets its share of the connections that come after it.
        return (connections, outstanding) if pool.sticky else (outstanding, connections)

    def _deliver(self, entry: Entry, worker: Worker, event: Event, size: int, now: float) -> None:
        if entry.holder is not worker:
            # on_connect brings all there is to know, unless its opener has set the state before.
            known = type(event) is OnConnect and not entry.version
            self._move(entry, worker, attach=entry.heard and not known)
        entry.in_flight += 1
        worker.session.deliver(event, entry, size, now)
        entry.heard = True
        self.with_output.add(worker)

    def _move(self, entry: Entry, worker: Worker, attach: bool) -> None:
        """Give a connection with nothing in flight to another worker, its state with it."""
        self.detach(entry)
        entry.holder = worker
        worker.connections.add(entry)
        if attach:
            con = entry.con
            worker.session.notice(Attach(entry.id, con.inf, entry.state, entry.version, con.about))

    def hold(self, entry: Entry, worker: Worker) -> None:
        """A worker that opened a connection holds it from the beginning."""
        entry.heard = True
        entry.holder = worker
        worker.connections.add(entry)

    def detach(self, entry: Entry) -> None:
        """Tell the holder, if any, to forget the connection."""
        holder, entry.holder = entry.holder, None
        if holder is not None:
            holder.connections.discard(entry)
            if holder.session.state is not GONE:
                holder.session.notice(Detach(entry.id))
                self.with_output.add(holder)

    # --- acks ---

    def acked(self, worker: Worker, ack: Ack) -> list[InFlight[Entry]]:
        """Events that are handled: out of flight and out of the accounts."""
        worker.fresh_acks = True
        self.with_output.add(worker)
        flow, suspicion = self._flow, self._suspicion
        # Once a turn: the age of those that follow is not known before the acks are measured.
        stuck = worker.slow_at < flow.now and worker.window.is_stuck(flow.now)
        flights = worker.window.take(ack)
        if stuck and flights:
            # Acks wait a little for those behind them, but for none behind one that took long.
            culprit = flights[-1].owner
            culprit.slow_at = worker.slow_at = flow.now
        for flight in flights:
            entry = flight.owner
            entry.in_flight -= 1
            if entry.gone:
                # Its on_close was acked before this: a worker's mistake, but not our accounts'.
                suspicion.clear(flight.event)
                continue
            size = flight.size
            flow.total -= size
            entry.held -= size
            try:
                if suspicion:
                    suspicion.clear(flight.event)
                if entry.pauses:
                    flow.resume_if_low(entry)
                if entry.parked and (entry.queue is None or not entry.in_flight):
                    # With nothing in flight it need not wait for this worker any more.
                    self._queue(entry)
            except Exception as error:
                self.failed.append((entry, error))
        return flights

    # --- faults of our own ---

    def recount(self, entry: Entry) -> None:
        """Something has raised, and may have left its accounts half done: what is parked and in
        flight says how they are."""
        size = sum([size for _, size in entry.parked])
        for _, record in entry.held_back or ():
            size += EVENT_COST
            if isinstance(record, Send):
                size += len(record.data)
        holder = entry.holder
        entry.in_flight = 0
        if holder is not None:
            for flight in holder.window.in_flight.values():
                if flight.owner is entry:
                    entry.in_flight += 1
                    size += flight.size
            holder.window.bytes = sum([flight.size for flight in holder.window.in_flight.values()])
        self._flow.total += size - entry.held
        entry.held = size

    @staticmethod
    def has_end(entry: Entry) -> bool:
        """Whether its on_close is parked or in flight."""
        events = [event for event, _ in entry.parked]
        if entry.holder is not None:
            flights = entry.holder.window.in_flight.values()
            events += [flight.event for flight in flights if flight.owner is entry]
        return OnClose in [type(event) for event in events]

    def _give_up(self, queue: deque[Entry], entry: Entry, error: BaseException) -> None:
        """It cannot be served, and would be tried for ever."""
        if queue and queue[0] is entry:
            queue.popleft()
        if entry.queue is queue:
            entry.queue = None
        self.failed.append((entry, error))

    def drop_messages(self, entry: Entry) -> None:
        """The handler has closed it: parked messages will not be heard any more."""
        entry.closed_by_handler = True
        parked, entry.parked = entry.parked, ()
        for event, size in parked:
            if type(event) is OnMessage:
                self._drop(entry, event, size)
            else:
                entry.park(event, size)

    # --- parked connections, in turn ---

    def _queue(self, entry: Entry, front: bool = False) -> None:
        holder = entry.holder
        # One that is about to be killed for its hanging takes nothing any more, whatever it acks.
        ready = holder is not None and holder.session.state is READY and not holder.hung
        if entry.in_flight and not ready:
            # It moves when its last event is acked; `acked` queues it then.
            entry.queue = None
            return
        pool = entry.pool
        if self._suspicion and not entry.in_flight and entry.parked[0][0] in self._suspicion:
            queue = pool.suspects
        elif holder is not None and ready and (entry.in_flight or pool.sticky or entry.inherited):
            queue = holder.bound
        elif entry.heard:
            queue = pool.waiting
        else:
            queue = pool.unheard_left if entry.left_behind else pool.unheard
        if entry.queue is queue:
            return
        if front:
            queue.appendleft(entry)
        else:
            queue.append(entry)
        # Where it stood before it is a leftover now: found at the front of a queue, it is left out.
        entry.queue = queue

    def dispatch(self, pool: Pool, now: float) -> None:
        """Once a turn: learn from the acks, then give room to those who wait, in turn."""
        workers = pool.workers
        for worker in workers:
            if worker.fresh_acks:
                worker.fresh_acks = False
                try:
                    worker.window.measure(now)
                except Exception as error:
                    self.failed_workers.append((worker, error))
        if pool.suspects or pool.isolated:
            self._serve_suspects(pool, now)
        if pool.orphaned:
            self._reassign(pool, now)
        pool.is_behind = False
        share = SERVED // len(workers) + 1 if workers else 0
        for worker in workers:
            left = share
            while worker.bound and left and self._serve_bound(worker, now):
                left -= 1
                if pool.waiting or pool.unheard:
                    # Those who wait for anybody must not wait for all who wait for this one.
                    self._serve_waiting(pool, now)
            pool.is_behind |= not left
        left = SERVED
        while left and self._serve_waiting(pool, now):
            left -= 1
        pool.is_behind |= not left
        # Those just served may have more, and room for it where they are now.
        for worker in workers:
            left = share
            while worker.bound and left and self._serve_bound(worker, now):
                left -= 1
            pool.is_behind |= not left

    def _reassign(self, pool: Pool, now: float) -> None:
        """Give connections of those who left to others before they say anything.

        Somebody must hold each of them: should the gateway die, it lives on in what workers hold,
        and only so gets its on_close.
        """
        # What is stuck may not read for long; should all be, this waits for the next turn.
        workers = [w for w in pool.workers if not (w.window.is_closed or w.window.is_stuck(now))]
        pool.reassigning = bool(workers)
        for _ in range(min(len(pool.orphaned), REASSIGNED) if workers else 0):
            entry = pool.orphaned.popleft()
            try:
                if entry.heard and entry.holder is None and not entry.gone and not entry.parked:
                    worker = min(workers, key=lambda worker: len(worker.connections))
                    self._move(entry, worker, attach=True)
                    self.with_output.add(worker)
            except Exception as error:
                self.failed.append((entry, error))

    def sweep(self, pool: Pool) -> None:
        """Leave out those who do not wait any more; `dispatch` does so while it serves."""
        for queue in (pool.waiting, pool.unheard, pool.unheard_left):
            live = [entry for entry in queue if entry.queue is queue]
            queue.clear()
            queue.extend(live)
        pool.leftovers = 0

    @staticmethod
    def has_messages(entry: Entry) -> bool:
        """Whether any of what is parked is a message."""
        return any(type(event) is OnMessage for event, _ in entry.parked)

    def keep_left_behind(self, entry: Entry) -> bool:
        """A client has said goodbye before a worker heard of it: keep what it has left for a
        worker, behind all who are still there. False: too much has been left already."""
        if entry.left_behind:
            return True
        flow = self._flow
        if self.left_behind + entry.held > flow.memory_limit * LEFT_BEHIND:
            return False
        entry.left_behind = entry.held
        self.left_behind += entry.left_behind
        self._leave_queue(entry)
        self._queue(entry)
        return True

    def _leave_queue(self, entry: Entry) -> None:
        """One that no worker has heard of waits no more where it did."""
        if entry.queue is None:
            return
        entry.queue = None
        pool = entry.pool
        pool.leftovers += 1
        if 2 * pool.leftovers > MOST_LEFTOVERS + len(pool.unheard) + len(pool.unheard_left):
            self.sweep(pool)

    def _uncount_left_behind(self, entry: Entry) -> None:
        self.left_behind -= entry.left_behind
        entry.left_behind = 0

    def _serve_suspects(self, pool: Pool, now: float) -> None:
        """Each suspect alone to a worker that holds nothing; then those workers rejoin."""
        suspects = pool.suspects
        while suspects:
            entry = suspects[0]
            if entry.queue is not suspects or not entry.parked:
                suspects.popleft()
                if entry.queue is suspects:
                    entry.queue = None
                continue
            worker = self._isolated_worker(pool, now)
            if worker is None:
                return
            suspects.popleft()
            entry.queue = None
            try:
                self._deliver_parked(entry, worker, now)
            except Exception as error:
                self._give_up(suspects, entry, error)
        # All are given out; who handles none of them takes part again.
        for worker in list(pool.isolated):
            if not any(
                flight.event in self._suspicion for flight in worker.window.in_flight.values()
            ):
                worker.window.reopen()
                pool.isolated.remove(worker)

    def _isolated_worker(self, pool: Pool, now: float) -> Worker | None:
        """A worker that holds nothing and takes nothing else, or None: wait for one."""
        for worker in pool.isolated:
            if not worker.window.in_flight:
                return worker
        if all(worker.window.is_slow(now) for worker in pool.isolated):
            # None yet, or each takes its time: one more, the one that is empty first; but somebody
            # must be left for those who are beyond suspicion.
            others = [worker for worker in pool.workers if not worker.window.is_closed]
            if len(others) > bool(pool.isolated or pool.expects_worker(now)):
                worker = min(others, key=lambda worker: len(worker.window.in_flight))
                if (
                    (pool.waiting or pool.unheard)
                    and len(others) == 1
                    and not worker.window.acked_events
                ):
                    # The only one there is: those who have waited for it come first, once.
                    return None
                worker.window.close()
                pool.isolated.append(worker)
                self._release_bound(worker)
                if not worker.window.in_flight:
                    return worker
        return None

    def _serve_bound(self, worker: Worker, now: float) -> bool:
        """Serve the first of those who wait for this worker; False when it has no room."""
        entry = worker.bound[0]
        try:
            return self._try_bound(worker, entry, now)
        except Exception as error:
            self._give_up(worker.bound, entry, error)
            return True

    def _try_bound(self, worker: Worker, entry: Entry, now: float) -> bool:
        if entry.queue is not worker.bound:
            worker.bound.popleft()
            return True
        if entry.parked and not worker.window.has_room(entry.parked[0][1]):
            return False
        worker.bound.popleft()
        entry.queue = None
        # Half a window is its share; beyond that its next ack queues it again.
        if entry.parked and (not entry.in_flight or 2 * entry.in_flight < worker.window.limit):
            self._deliver_parked(entry, worker, now)
        return True

    def _serve_waiting(self, pool: Pool, now: float) -> bool:
        """Serve the first of those who wait for anybody; False when nobody waits, or has room."""
        waiting, unheard = pool.waiting, pool.unheard
        queue = waiting
        if unheard and (not waiting or pool.is_unheard_turn):
            queue = unheard
        elif not waiting:
            queue = pool.unheard_left
            if not queue:
                return False
        entry = queue[0]
        try:
            return self._try_waiting(pool, queue, entry, now)
        except Exception as error:
            self._give_up(queue, entry, error)
            return True

    def _try_waiting(self, pool: Pool, queue: deque[Entry], entry: Entry, now: float) -> bool:
        if entry.queue is not queue:
            queue.popleft()
            return True
        worker = self._choose(entry, entry.parked[0][1], now) if entry.parked else None
        if entry.parked and worker is None:
            return False
        queue.popleft()
        pool.is_unheard_turn = queue is pool.waiting
        entry.queue = None
        if worker is not None:
            self._deliver_parked(entry, worker, now)
        return True

    def _deliver_parked(self, entry: Entry, worker: Worker, now: float) -> None:
        event, size = entry.unpark()
        if entry.left_behind:
            self._uncount_left_behind(entry)
        self._deliver(entry, worker, event, size, now)
        if entry.parked:
            self._queue(entry)

    # --- workers come and go ---

    def join(self, pool: Pool, worker: Worker) -> None:
        """A worker is READY: it takes load at once."""
        pool.workers.append(worker)
        pool.expected_workers = max(pool.expected_workers, len(pool.workers))
        self.with_output.add(worker)

    def drain(self, pool: Pool, worker: Worker, deadline: float) -> None:
        """No new events for it. Its connections move as their last events are acked."""
        worker.session.drain(deadline)
        self.withdraw(pool, worker)
        self.with_output.add(worker)

    def withdraw(self, pool: Pool, worker: Worker) -> None:
        """Nothing new for it, and it need not know."""
        if worker in pool.workers:
            pool.workers.remove(worker)
        if worker in pool.isolated:
            pool.isolated.remove(worker)
        self._release_bound(worker)

    def leave(
        self,
        pool: Pool,
        worker: Worker,
        died: bool,
        counts: bool,
        certain: bool = True,
        lost: bool = False,
    ) -> None:
        """Its session is over: what it held goes back, in order, to the front of its connections.

        With `died`, an event may have been handled in part: its delivery count says so. With
        `counts`, one of them may be what it died of; unless it is `certain`, that is not a death
        yet, and they are left in `unconfirmed`. With `lost`, its link was lost and it lives.
        """
        alone = worker.window.is_closed and len(worker.window.in_flight) == 1
        if not died:
            pool.expected_workers = max(len(pool.workers), pool.expected_workers - 1)
        elif counts and alone:
            pool.killed_at = self._flow.now
        self.withdraw(pool, worker)
        entries: dict[Entry, None] = {}
        for flight in reversed(worker.session.end()):
            entry = flight.owner
            entry.in_flight -= 1
            if entry.gone:
                self._suspicion.clear(flight.event)
                continue
            entries[entry] = None
            try:
                self._take_back(pool, flight, died, counts, certain, alone, lost)
            except Exception as error:
                self.failed.append((entry, error))
        for entry in worker.connections:
            entry.holder = None
            if not entry.gone:
                pool.orphaned.append(entry)
                pool.reassigning = True
        worker.connections.clear()
        self._release_bound(worker)
        # Of the suspects those come first whose connections have been served well for longest.
        for entry in sorted(entries, key=_id_of, reverse=True) if counts else list(entries):
            if entry.parked:
                try:
                    # What has killed alone is tried again behind those that may be innocent.
                    self._queue(entry, front=not (counts and alone))
                except Exception as error:
                    self.failed.append((entry, error))
        self.with_output.discard(worker)

    def _take_back(
        self,
        pool: Pool,
        flight: InFlight[Entry],
        died: bool,
        counts: bool,
        certain: bool,
        alone: bool,
        lost: bool,
    ) -> None:
        """An event that a worker held, to the front of its connection; or it goes no further."""
        entry = flight.owner
        event = flight.event
        event.delivery += died and flight.left
        deaths = losses = 0
        if lost and flight.left:
            losses = self._suspicion.lost(flight, alone)
        elif counts and flight.left and certain:
            deaths = self._suspicion.died(flight, alone)
        elif counts and flight.left:
            self._suspicion.suspect(event)
            self.unconfirmed.append(event)
        if deaths or losses:
            self._flow.remove(entry, flight.size)
            self.poisoned.append((entry, event, deaths, losses))
        elif entry.closed_by_handler and type(event) is OnMessage:
            self._drop(entry, event, flight.size)
        elif died and flight.left and not pool.repeats and type(event) is not OnClose:
            self._drop(entry, event, flight.size)
            self.unrepeated.append(entry)
        else:
            entry.park_in_front(event, flight.size)

    def confirm(self, events: Iterable[Event]) -> None:
        """The worker that held them has not come back: that was a death."""
        self._suspicion.confirm(events)

    def _drop(self, entry: Entry, event: Event, size: int) -> None:
        self._suspicion.clear(event)
        self._flow.remove(entry, size)

    def _release_bound(self, worker: Worker) -> None:
        bound, worker.bound = worker.bound, deque()
        for entry in bound:
            if entry.queue is bound:
                entry.queue = None
                if entry.parked:
                    self._queue(entry)

    def forget(self, entry: Entry) -> None:
        """The connection's on_close is acked, or nobody has heard of it."""
        self.detach(entry)
        if not entry.heard:
            self._uncount_left_behind(entry)
            self._leave_queue(entry)
        entry.queue = None
        for event, size in entry.parked:
            self._drop(entry, event, size)
        entry.parked = ()
