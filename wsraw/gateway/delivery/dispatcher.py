"""Sans-I/O. The dispatcher: which worker gets the events of which connection.

The rules (docs/worker-protocol.md gives the reasons):

- One worker at a time for a connection. While it has events in flight, its next events go to the
  same worker or are parked.
- With nothing in flight, it stays with its last worker while that one has room and is not stuck.
  While another worker is idle, it also leaves one that is late, or that other connections lately
  made stuck. Then it goes to the worker with the least outstanding.
  In `sticky` pools it never moves while its worker lives.
- One connection takes at most half a window; parked connections are served in turn. Clients that no
  worker has heard of have a queue of their own; those that have left again come after all others.
- When a worker leaves, its events return, in order, to the front of their connections. If it died,
  they are suspects (suspects.py): each is delivered alone to a worker that has nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from wsraw.gateway.delivery.accounts import Flow, size_of
from wsraw.gateway.delivery.entry import EVENT_COST, Entry, Pool, Queue, Worker, held_size
from wsraw.gateway.delivery.suspects import Suspects
from wsraw.link.records import Ack, Attach, Detach, Event, OnClose, OnConnect, OnMessage, OnRequest
from wsraw.link.states import GONE, READY
from wsraw.link.window import InFlight

SHUNNED_FOR: Final = 10.0
"""Seconds for which other connections avoid a worker that was stuck, while another one is idle: a
connection that has made its handler slow is likely to do so again."""

SERVED: Final = 128
"""Parked events that are delivered in a turn: this many from the queues of the pool, and as many
from those of its workers. A fast worker has room for thousands, and the turn lasts until all are
sent."""

LEFT_BEHIND: Final = 1 / 16
"""Share of the memory limit for events of clients that have left before a worker heard of them."""

REASSIGNED: Final = 200
"""Connections that are given to another worker in a turn after theirs has left."""


def _id_of(entry: Entry) -> int:
    return entry.id


def is_among(event: Event, events: Iterable[Event]) -> bool:
    """Whether this very event is in the collection, and not only one with the same content."""
    return any(each is event for each in events)


class Bridged:
    """Hooks for the clients of bridges and their targets, implemented in gateway/splices/."""

    def tell(self, entry: Entry, event: Event, now: float) -> None:
        """Handle an event that is not a message."""

    def begin_again(self, entry: Entry, now: float) -> None:
        """Handle a client that was taken over from another process and has no target yet."""


class Spliced:
    """Hooks for spliced connections, implemented in gateway/splices/."""

    def take(self, entry: Entry, event: OnMessage, now: float) -> None:
        """Forward a message."""

    def ended(self, entry: Entry, now: float) -> None:
        """Handle the end of a connection."""

    def half_closed(self, entry: Entry, now: float) -> bool:
        """Handle that the peer sends nothing more that counts. True: the connection must not end
        yet, or this hook prepares its end."""
        return False

    def forget(self, entry: Entry) -> None:
        """Forward what waits, because the entry is about to be deleted."""


def _nothing_to_end(entry: Entry) -> None:
    """The default of `ending`."""


class Dispatcher:
    """Events of connections in, events to workers out."""

    def __init__(self, flow: Flow, max_deliveries: int) -> None:
        self._flow = flow
        self.suspects = Suspects(max_deliveries)
        self.poisoned: list[tuple[Entry, Event, int, int]] = []
        """Events that were dropped because of the workers that they killed or the links that they
        broke: the entry, the event, the number of deaths, the number of lost links."""
        self.unrepeated: list[Entry] = []
        """Connections that lost messages with a worker, because their pool does not repeat them."""
        self.unwanted: list[Entry] = []
        """Half-closed connections with a dropped event that their worker does not take: it may have
        been the last event that they waited for."""
        self.blamed: list[Event] = []
        """Events held by the worker that has left last, if one of them may have killed it."""
        self.with_output: set[Worker] = set()
        """Workers that have something to be sent at the end of the turn."""
        self.failed: list[tuple[Entry, BaseException]] = []
        """Connections that are to be ended because of a bug in wsraw."""
        self.leaving: dict[Worker, tuple[float, float]] = {}
        """Workers that are to be told to leave: since when, and how many seconds they have."""
        self.ending: Callable[[Entry], object] = _nothing_to_end
        """Called with a connection that is in groups, before its on_close is dispatched."""
        self.left_behind = 0
        """Bytes of events of clients that had left before any worker heard of them."""
        self.failed_workers: list[tuple[Worker, BaseException]] = []
        """Workers whose sessions are to be ended because of a bug in wsraw."""
        self.spliced: Spliced = Spliced()
        """Takes the messages that do not go to workers."""
        self.bridged: Bridged = Bridged()
        """Takes the events of bridges, which have no workers."""

    # --- events in ---

    def take(self, entry: Entry, event: Event, now: float) -> None:
        """Deliver an event, or park it until a worker has room."""
        if type(event) is OnMessage:
            if entry.closed_by_handler:
                if entry.splice is not None:
                    self.spliced.take(entry, event, now)
                return
            size = len(event.data) + EVENT_COST
            entry.received_at = now
        else:
            size = EVENT_COST
            entry.totals.notices += 1
            if type(event) is OnClose and entry.is_open:
                if entry.groups:
                    self.ending(entry)
                self.count_end(entry, event.cause)
            if entry.pool.is_bridge:
                self.bridged.tell(entry, event, now)
                return
            if type(event) is OnRequest:
                size += len(event.body)
            response = entry.con.about.get("response")
            if response is not None:
                # The events of an opened connection that the server has refused carry its answer.
                size += size_of(response)
        flow = self._flow
        flow.total += size
        entry.event_bytes += size
        if entry.event_bytes + entry.output_counted > flow.high:
            flow.check_marks(entry)
        if entry.parked:
            entry.park(event, size, now)
            return
        worker: Worker | None
        if entry.in_flight:
            worker = entry.holder
            assert worker is not None
            if (
                2 * entry.in_flight >= worker.window.limit
                or worker.is_withdrawn
                or not worker.window.has_room(size)
            ):
                worker = None
        else:
            # Connections that wait already come first.
            pool = entry.pool
            worker = None if pool.waiting or pool.unheard else self._choose(entry, size, now)
        if worker is not None:
            self._deliver(entry, worker, event, size, now)
        else:
            entry.park(event, size, now)
            self.queue(entry)

    @staticmethod
    def count_end(entry: Entry, cause: str) -> None:
        """Count that a connection is not open any more."""
        entry.is_open = False
        entry.totals.open -= 1
        entry.totals.count_end(cause, entry.con.ending.status)
        closed = entry.pool.totals.closed
        closed[cause] = closed.get(cause, 0) + 1

    def _choose(self, entry: Entry, size: int, now: float) -> Worker | None:
        """The worker for a connection with nothing in flight; None if it must wait."""
        pool = entry.pool
        last = entry.holder
        if last is not None and entry.fragment is last and last.session.state is READY:
            # This event may belong to a fragmented answer: its rest comes from the worker that has
            # begun it, even if that worker is about to leave.
            return last if last.window.has_room(size) else None
        alone = len(pool.workers) == 1
        if last is not None and not last.is_withdrawn:
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
        # A worker that is only full has room again within milliseconds. If all are stuck, one of
        # them is better than none.
        return best if best is not None or full else stuck

    @staticmethod
    def _idle(pool: Pool, since: float) -> Worker | None:
        """An idle worker that has not been stuck since then: there an event waits less than behind
        one of another connection that takes long, or is likely to."""
        for worker in pool.workers:
            if not worker.window.in_flight and worker.window.limit and worker.slow_at <= since:
                return worker
        return None

    @staticmethod
    def _load(pool: Pool, worker: Worker) -> tuple[int, int]:
        outstanding, connections = len(worker.window.in_flight), len(worker.connections)
        # sticky: a worker that joins late gets its share of the connections that are opened
        # afterwards.
        return (connections, outstanding) if pool.sticky else (outstanding, connections)

    def _deliver(self, entry: Entry, worker: Worker, event: Event, size: int, now: float) -> None:
        if worker.skips and type(event) in worker.skips:
            self._drop(entry, event, size)
            if entry.con.intake.half_closed:
                self.unwanted.append(entry)
            return
        if entry.holder is not worker:
            # These events bring all that is known, unless the opener has already set a state.
            known = type(event) in (OnConnect, OnRequest) and not entry.version
            self._move(entry, worker, attach=entry.heard and not known)
        entry.in_flight += 1
        worker.session.deliver(event, entry, size, now)
        entry.heard = True
        self.with_output.add(worker)

    def _move(self, entry: Entry, worker: Worker, attach: bool) -> None:
        """Give a connection with nothing in flight, and its state, to another worker."""
        self.detach(entry)
        entry.holder = worker
        worker.connections.add(entry)
        if attach:
            con = entry.con
            worker.session.notice(Attach(entry.id, con.inf, entry.state, entry.version, con.about))

    def hold(self, entry: Entry, worker: Worker) -> None:
        """Let the worker that opened a connection hold it from the beginning."""
        entry.heard = True
        entry.holder = worker
        worker.connections.add(entry)

    def give_back(self, entry: Entry, worker: Worker) -> None:
        """Let a worker that has begun a new session hold its connection again, with the events that
        wait."""
        self.hold(entry, worker)
        if entry.parked:
            self.queue(entry)

    def detach(self, entry: Entry) -> None:
        """Take a connection from its worker, if it has one."""
        holder, entry.holder = entry.holder, None
        if holder is not None:
            holder.connections.discard(entry)
            if holder.session.state is not GONE:
                holder.session.notice(Detach(entry.id))
                self.with_output.add(holder)

    # --- acks ---

    def acked(self, worker: Worker, ack: Ack) -> list[InFlight[Entry]]:
        """Take acked events out of flight and out of the accounts."""
        worker.fresh_acks = True
        self.with_output.add(worker)
        flow, suspects = self._flow, self.suspects
        # Once a turn: the age of the next events is known only after the acks are measured.
        stuck = worker.slow_at < flow.now and worker.window.is_stuck(flow.now)
        flights = worker.window.take(ack)
        if stuck and flights:
            # A slow event is acked at once, without the following ones: it is the last one here.
            culprit = flights[-1].owner
            culprit.slow_at = worker.slow_at = flow.now
        for flight in flights:
            entry = flight.owner
            entry.in_flight -= 1
            if entry.gone:
                # The worker acked its on_close too early; the accounts must still be right.
                suspects.clear(flight.event)
                continue
            size = flight.size
            flow.total -= size
            entry.event_bytes -= size
            try:
                if suspects.deaths or suspects.losses:
                    suspects.clear(flight.event)
                if entry.pauses:
                    flow.check_marks(entry)
                if entry.parked and (entry.queue is None or not entry.in_flight):
                    # With nothing in flight, the connection can go to any worker.
                    self.queue(entry)
            except Exception as error:
                self.failed.append((entry, error))
        return flights

    def take_back(self, worker: Worker, seq: int, pool: Pool) -> Entry | None:
        """Return an event whose handler has failed, and the following ones of its connection, to
        the front of that connection. Return the connection, or None if the event is not in
        flight."""
        flight = worker.window.in_flight.get(seq)
        if flight is None:
            return None
        worker.fresh_acks = True
        self.with_output.add(worker)
        for each in reversed(worker.window.give_back(flight.owner)):
            entry = each.owner
            entry.in_flight -= 1
            self.suspects.clear(each.event)
            # No handler has begun with the following events.
            each.left = each.event.seq <= seq
            if not entry.gone:
                self._take_back(pool, each, True, False, False, False, False)
        return flight.owner

    # --- faults of our own ---

    def recount(self, entry: Entry) -> None:
        """Recount the accounts of a connection from its parked events and those in flight, because
        a bug may have left them wrong."""
        size = sum([size for _, size, _ in entry.parked])
        size += sum([held_size(record) for _, record in entry.held_back or ()])
        if entry.splice is not None:
            size += sum([len(event.data) + EVENT_COST for event in entry.splice.waiting])
        holder = entry.holder
        entry.in_flight = 0
        if holder is not None:
            for flight in holder.window.in_flight.values():
                if flight.owner is entry:
                    entry.in_flight += 1
                    size += flight.size
            holder.window.bytes = sum([flight.size for flight in holder.window.in_flight.values()])
        self._flow.total += size - entry.event_bytes
        entry.event_bytes = size

    @staticmethod
    def has_end(entry: Entry) -> bool:
        """Whether the on_close of a connection is parked or in flight."""
        events = [event for event, _, _ in entry.parked]
        if entry.holder is not None:
            flights = entry.holder.window.in_flight.values()
            events += [flight.event for flight in flights if flight.owner is entry]
        return OnClose in [type(event) for event in events]

    def drop_messages(self, entry: Entry) -> None:
        """Drop the messages of a connection that its handler has closed, now and from now on."""
        entry.closed_by_handler = True
        for event, size, since in entry.take_parked():
            if type(event) is OnMessage:
                self._drop(entry, event, size)
            else:
                entry.park(event, size, since)
        if not entry.parked:
            entry.leave_queue()

    # --- parked connections, in turn ---

    def queue(self, entry: Entry, front: bool = False) -> None:
        """Let a connection with parked events wait for a worker."""
        holder = entry.holder
        ready = holder is not None and not holder.is_withdrawn
        if entry.in_flight and not ready:
            # The connection moves when its last event is acked: then `acked` queues it.
            entry.leave_queue()
            return
        pool = entry.pool
        if not entry.in_flight and entry.parked[0][0] in self.suspects:
            queue = pool.suspects
        elif (
            holder is not None
            and ready
            and (entry.in_flight or pool.sticky or entry.inherited or entry.fragment is holder)
        ):
            queue = holder.bound
        elif entry.heard:
            queue = pool.waiting
        else:
            queue = pool.unheard_left if entry.left_behind else pool.unheard
        if entry.queue is queue:
            return
        entry.leave_queue()
        entry.queue = queue
        queue[entry] = None
        if front:
            queue.move_to_end(entry, last=False)

    def dispatch(self, pool: Pool, now: float) -> None:
        """Once a turn: measure the acks, then deliver parked events, the connections in turn."""
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
        if self.leaving:
            self._drain_finished(now)
        pool.is_behind = False
        share = SERVED // len(workers) + 1 if workers else 0
        for worker in workers:
            left = share
            while worker.bound and left and self._serve(worker.bound, worker, now):
                left -= 1
                if pool.waiting or pool.unheard:
                    # Connections that wait for any worker do not wait behind those that wait for
                    # this one.
                    self._serve_waiting(pool, now)
            pool.is_behind |= not left
        left = SERVED
        while (pool.waiting or pool.unheard or pool.unheard_left) and left:
            if not self._serve_waiting(pool, now):
                break
            left -= 1
        pool.is_behind |= not left
        # The connections just served may have more events, and their worker room for them.
        for worker in workers:
            left = share
            while worker.bound and left and self._serve(worker.bound, worker, now):
                left -= 1
            pool.is_behind |= not left

    def _reassign(self, pool: Pool, now: float) -> None:
        """Give connections whose worker has left to other workers before their next event comes. If
        the gateway dies, only connections that a worker holds get their on_close."""
        # A stuck worker may not read for long. If all are stuck, this waits for the next turn.
        workers = [w for w in pool.workers if not (w.window.is_closed or w.window.is_stuck(now))]
        pool.reassigning = bool(workers)
        for _ in range(min(len(pool.orphaned), REASSIGNED) if workers else 0):
            entry = pool.orphaned.popleft()
            try:
                is_ours = entry.heard and entry.pool is pool
                if is_ours and entry.holder is None and not entry.gone and not entry.parked:
                    worker = min(workers, key=lambda worker: len(worker.connections))
                    self._move(entry, worker, attach=True)
                    self.with_output.add(worker)
            except Exception as error:
                self.failed.append((entry, error))

    def keep_left_behind(self, entry: Entry) -> bool:
        """Keep the events of a client that has left before a worker heard of it, behind those of
        all others. False if too many are kept already."""
        if entry.left_behind:
            return True
        flow = self._flow
        if self.left_behind + entry.event_bytes > flow.memory_limit * LEFT_BEHIND:
            return False
        entry.left_behind = entry.event_bytes
        self.left_behind += entry.left_behind
        self.queue(entry)
        return True

    def _uncount_left_behind(self, entry: Entry) -> None:
        self.left_behind -= entry.left_behind
        entry.left_behind = 0

    def _serve_suspects(self, pool: Pool, now: float) -> None:
        """Deliver each suspect alone to an idle worker; then those workers rejoin."""
        while pool.suspects:
            entry = next(iter(pool.suspects))
            if entry.parked[0][0] not in self.suspects:
                # The worker that held the connection has come back.
                self.queue(entry, front=True)
                continue
            worker = self._isolated_worker(pool, now)
            if worker is None:
                return
            entry.leave_queue()
            try:
                self._deliver_parked(entry, worker, now)
            except Exception as error:
                self.failed.append((entry, error))
        # No suspects wait any more: workers that have none of them in flight rejoin.
        for worker in list(pool.isolated):
            if not any(
                flight.event in self.suspects for flight in worker.window.in_flight.values()
            ):
                worker.window.reopen()
                pool.isolated.remove(worker)

    def _isolated_worker(self, pool: Pool, now: float) -> Worker | None:
        """An idle worker that gets nothing but suspects; None if there is none yet."""
        for worker in pool.isolated:
            if not worker.window.in_flight:
                return worker
        if all(worker.window.is_slow(now) for worker in pool.isolated):
            # None, or all of them take long: isolate one more, the idlest one. But one worker must
            # be left for events that are not suspects.
            others = [worker for worker in pool.workers if not worker.window.is_closed]
            if len(others) > bool(pool.isolated or pool.expects_worker(now)):
                worker = min(others, key=lambda worker: len(worker.window.in_flight))
                if (
                    (pool.waiting or pool.unheard)
                    and len(others) == 1
                    and not worker.window.acked_events
                ):
                    # It is the only worker: events that have waited for it come first, once.
                    return None
                worker.window.close()
                pool.isolated.append(worker)
                self._release_bound(worker)
                if not worker.window.in_flight:
                    return worker
        return None

    def _serve_waiting(self, pool: Pool, now: float) -> bool:
        """Serve the first connection that waits for any worker; False if there is no room."""
        queue = pool.waiting
        if pool.unheard and (not queue or pool.is_unheard_turn):
            queue = pool.unheard
        elif not queue:
            queue = pool.unheard_left
        if not self._serve(queue, None, now):
            return False
        pool.is_unheard_turn = queue is pool.waiting
        return True

    def _serve(self, queue: Queue, worker: Worker | None, now: float) -> bool:
        """Serve the first connection of a queue, by this worker or any; False: there is no room."""
        entry = next(iter(queue))
        try:
            size = entry.parked[0][1]
            if worker is None:
                worker = self._choose(entry, size, now)
            elif not worker.window.has_room(size):
                worker = None
            if worker is None:
                return False
            entry.leave_queue()
            # Half a window is its share; beyond that, its next ack queues it again.
            if not entry.in_flight or 2 * entry.in_flight < worker.window.limit:
                self._deliver_parked(entry, worker, now)
        except Exception as error:
            # The delivery would be tried again for ever.
            entry.leave_queue()
            self.failed.append((entry, error))
        return True

    def _deliver_parked(self, entry: Entry, worker: Worker, now: float) -> None:
        event, size, _ = entry.unpark()
        if entry.left_behind:
            self._uncount_left_behind(entry)
        self._deliver(entry, worker, event, size, now)
        if entry.parked:
            self.queue(entry)

    # --- workers come and go ---

    def join(self, pool: Pool, worker: Worker) -> None:
        """Give events to a worker that is READY."""
        pool.workers.append(worker)
        pool.expected_workers = max(pool.expected_workers, len(pool.workers))
        self.with_output.add(worker)

    def drain(self, pool: Pool, worker: Worker, deadline: float) -> None:
        """Let a worker finish and leave. For at most half of the time it first completes messages
        that it sends in fragments, as its clients' fragments come."""
        if worker.session.state is READY and worker not in self.leaving:
            self.withdraw(pool, worker)
            self.leaving[worker] = self._flow.now, deadline
            self._drain_finished(self._flow.now)

    def _drain_finished(self, now: float) -> None:
        for worker, (since, deadline) in list(self.leaving.items()):
            is_amid = any(entry.fragment is entry.holder is worker for entry in worker.ties)
            if worker.session.state is not READY:
                del self.leaving[worker]
            elif not is_amid or now - since > deadline / 2:
                del self.leaving[worker]
                worker.session.drain(max(0.0, since + deadline - now))
                self.with_output.add(worker)

    def withdraw(self, pool: Pool, worker: Worker) -> None:
        """Give a worker nothing new without telling it, whatever it acks. Its connections move once
        their last events are acked, and no message to them is unfinished."""
        worker.is_withdrawn = True
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
        """Return the events of a worker whose session is over to the front of their connections.
        `died`: an event may have been partly handled, and its delivery count says so. `counts`: one
        of the events may have killed the worker, and they are put into `blamed`; if the death is
        `certain`, it is counted for them. `lost`: the link was lost, and the worker lives."""
        self.blamed = []
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
                self.suspects.clear(flight.event)
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
        # Suspects of older connections come first: those connections have worked well for longer.
        for entry in sorted(entries, key=_id_of, reverse=True) if counts else list(entries):
            if entry.parked:
                try:
                    # An event that has killed a worker while alone is tried again behind the other
                    # suspects.
                    self.queue(entry, front=not (counts and alone))
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
        """Return an event to the front of its connection, or drop it."""
        entry = flight.owner
        event = flight.event
        event.delivery += died and flight.left
        deaths = losses = 0
        if lost and flight.left:
            losses = self.suspects.blame(flight, alone, lost=True)
        elif counts and flight.left:
            self.blamed.append(event)
            if certain:
                deaths = self.suspects.blame(flight, alone)
            else:
                self.suspects.suspect(event)
        if deaths or losses:
            self._flow.add(entry, -flight.size)
            self.poisoned.append((entry, event, deaths, losses))
        elif (
            entry.closed_by_handler
            and type(event) is OnMessage
            and (entry.splice is None or not is_among(event, entry.splice.begun))
        ):
            # The other messages of a spliced connection are forwarded.
            self._drop(entry, event, flight.size)
        elif died and flight.left and not pool.repeats and type(event) is not OnClose:
            self._drop(entry, event, flight.size)
            self.unrepeated.append(entry)
        else:
            pool.totals.redelivered += event.delivery > 1
            entry.park(event, flight.size, flight.sent_at, front=True)

    def _drop(self, entry: Entry, event: Event, size: int) -> None:
        self.suspects.clear(event)
        self._flow.add(entry, -size)

    def _release_bound(self, worker: Worker) -> None:
        for entry in list(worker.bound):
            entry.leave_queue()
            self.queue(entry)

    def forget(self, entry: Entry) -> None:
        """Drop all parked events of a connection, and take it from its worker."""
        self.detach(entry)
        if not entry.heard:
            self._uncount_left_behind(entry)
        entry.leave_queue()
        for event, size, _ in entry.take_parked():
            self._drop(entry, event, size)
