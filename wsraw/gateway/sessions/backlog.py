"""Sans-I/O. Batches of workers, applied a share at a time.

A large batch of one worker must not delay other clients and workers: in each turn a share of it is
applied, and what the worker sends meanwhile waits behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from wsraw.gateway.delivery.entry import EVENT_COST, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.link.gateway_end import LONGEST_WHY
from wsraw.link.records import Ack, Bye, Join, Mark, Query, Record, Splice, call_of
from wsraw.link.states import GONE

SHARE: Final = 64
"""Commands of a large batch that are applied in a turn: other clients and workers wait for as many
writes."""

PER_EVENT: Final = 4
"""Commands for each event that an ordinary batch may have: under full load it has hundreds of
events, and applying it in shares would cost more than it gains."""

WORK: Final = 256
"""Work after which a share ends sooner; see `Outgoing.work`."""

BATCHES: Final = 16
"""Batches that waited and are handled in one turn of their worker."""


class Unapplied:
    """What a worker has sent that is not applied yet."""

    __slots__ = ("at", "batches", "records", "size")

    def __init__(self, records: list[Any], at: int, size: int) -> None:
        self.records = records
        """The batch that is being applied; from which record on, and how many bytes it has."""
        self.at = at
        self.size = size
        self.batches: deque[bytes | memoryview] = deque()
        """The batches behind it."""


class Backlog:
    """What workers have sent that is not applied yet."""

    def __init__(
        self,
        registry: Registry,
        apply: Callable[[Worker, Any, float], str | None],
        receive: Callable[[Worker, bytes | memoryview, float], None],
        fault: Callable[[Worker, BaseException, float], None],
    ) -> None:
        """`apply` is called with each record, `receive` with the next batch of a worker when it is
        its turn, `fault` with a worker whose session cannot continue."""
        self._registry = registry
        self._apply = apply
        self._receive = receive
        self._fault = fault
        self.workers: dict[Worker, Unapplied] = {}
        """Workers, in the order of their turns."""
        self.unread = 0
        """Bytes of batches that have not been parsed yet."""
        self.share = SHARE
        self.per_event = PER_EVENT

    def append(self, worker: Worker, data: bytes | memoryview) -> None:
        """Keep a batch until earlier ones of its worker are applied."""
        self.workers[worker].batches.append(data)
        self._count(len(data) + EVENT_COST)

    def _count(self, size: int) -> None:
        self.unread += size
        self._registry.flow.hold(size)

    def apply(self, worker: Worker, records: list[Any], at: int, size: int, now: float) -> None:
        """Apply records from `at` on, of `size` bytes: all of an ordinary batch, or a share of a
        large one. The rest is for later turns; it cannot be lost, because the whole batch is
        here."""
        apply, outgoing = self._apply, self._registry.outgoing
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
                # The worker has said bye: further records are ignored.
                return
            if why is not None:
                if why == UNFINISHED:
                    end = index
                    break
                self._refuse(worker, index, record, why)
            if outgoing.work > limit:
                end = index + 1
                break
        if end < len(records):
            if not at:
                size += worker.session.joined_size
            # A record that was applied may wait for its connection, where it counts, or be done.
            size = size * (len(records) - end) // (len(records) - at)
            records[at:end] = [None] * (end - at)
            self.workers[worker] = Unapplied(records, end, size)
            self._registry.flow.hold(size)

    def _refuse(self, worker: Worker, index: int, record: Record, why: str) -> None:
        call = call_of(record)
        ref = record.ref if isinstance(record, Join | Mark | Query) else 0
        worker.session.refuse(index, f"{call}: {why}", ref)
        self._registry.dispatcher.with_output.add(worker)
        self._registry.counters.say(
            "warning", "%s: refused %s: %s", worker.name, call, why[:LONGEST_WHY]
        )

    def _record_fault(
        self, worker: Worker, record: Record, error: Exception, now: float
    ) -> str | None:
        """A command was not applied, or only in part: end its connection, and apply the rest of the
        batch. (Otherwise its event would come again, and so would this fault.)"""
        if type(record) is Ack or type(record) is Bye:
            raise error
        # For spliced connections, workers leave the messages of both sides to the gateway.
        ids = getattr(record, "con", 0), record.other if type(record) is Splice else 0
        entries = [self._registry.entries[con] for con in ids if con in self._registry.entries]
        if not entries:
            self._registry.counters.fault(f"{type(record).__name__} of {worker.name}", error)
        for entry in entries:
            self._registry.fault(entry.con, error, now)
        return "a bug in the gateway; see its log"

    # --- what is left of earlier turns ---

    def go_on(self, now: float) -> bool:
        """Once a turn: apply a share of what is left, of each worker in turn; of only one worker as
        long as much output waits. Returns whether anything was left."""
        outgoing = self._registry.outgoing
        if not (self.workers or outgoing.broadcasts or outgoing.compressing):
            return False
        outgoing.go_on(now)
        limit = outgoing.work + WORK
        for worker in list(self.workers):
            if worker in self.workers:
                try:
                    self._go_on(worker, now)
                except Exception as error:
                    self._fault(worker, error, now)
            if outgoing.work > limit or len(self._registry.dirty) > self.share:
                break
        return True

    def _go_on(self, worker: Worker, now: float) -> None:
        """Apply a share of what this worker has sent; then it queues behind the others."""
        rest = self.workers.pop(worker)
        try:
            self._apply_rest(worker, rest, now)
        except Exception:
            self._drop(rest)
            raise
        if worker.session.state is GONE:
            self._drop(rest)
        elif worker in self.workers:
            self.workers[worker].batches = rest.batches
        elif rest.batches:
            self.workers[worker] = rest

    def _apply_rest(self, worker: Worker, rest: Unapplied, now: float) -> None:
        records, rest.records = rest.records, []
        if records:
            self._registry.flow.hold(-rest.size)
            self.apply(worker, records, rest.at, rest.size, now)
        for _ in range(BATCHES):
            if worker in self.workers or not rest.batches or worker.session.state is GONE:
                break
            data = rest.batches.popleft()
            self._count(-len(data) - EVENT_COST)
            self._receive(worker, data, now)

    def _drop(self, rest: Unapplied) -> None:
        self._count(-sum([len(data) + EVENT_COST for data in rest.batches]))
        if rest.records:
            self._registry.flow.hold(-rest.size)

    def ends(self) -> dict[Worker, int]:
        """The number of the last batch that each worker has sent and that is not applied."""
        return {
            worker: worker.session.batches + len(rest.batches)
            for worker, rest in self.workers.items()
        }

    def is_applied(self, worker: Worker, number: int) -> bool:
        """Whether the batch with this number, from `ends`, is applied."""
        return worker not in self.workers or worker.session.batches > number

    def discard(self, worker: Worker) -> None:
        """Drop what is left of a worker."""
        rest = self.workers.pop(worker, None)
        if rest is not None:
            self._drop(rest)

    def finish(self, worker: Worker, now: float) -> None:
        """Apply all that is left of a worker, because its session is about to end."""
        while worker in self.workers:
            rest = self.workers[worker]
            before = rest.at, len(rest.batches)
            self._go_on(worker, now)
            rest = self.workers.get(worker, rest)
            if before == (rest.at, len(rest.batches)):
                # It may wait for another worker's message, or for broadcasts.
                for other in list(self.workers):
                    if other in self.workers:
                        self._go_on(other, now)
                self._registry.outgoing.go_on(now)
