"""I/O. The gateway's links to its workers: batches out, batches in, and when a worker is dead.

Death is certain, or it is not: a worker is dead when its exit was reported (or, where nobody
watches the process, its link is lost), and a send to it says EHOSTUNREACH, and after that one drain
of the ROUTER found nothing more to read. EHOSTUNREACH comes before its last batches are read, and
their acks count; a full queue is neither a sign of life nor of death.
"""

from __future__ import annotations

import logging
from typing import Final

from wsraw import messages as m
from wsraw.gateway.route import Worker
from wsraw.gateway.router import Router
from wsraw.gateway.wire import Sent, WorkerWire
from wsraw.link import LinkState
from wsraw.loop import Loop

log = logging.getLogger("wsraw.gateway")

DRAIN_BUDGET: Final = 256
"""Batches read from workers in a turn, so that a flood of commands does not starve the sockets."""

RETRY: Final = 0.01
"""Seconds until a batch that found a full queue is tried again."""

DEATH_CERTAIN_AFTER: Final = 0.25
"""Seconds after a worker's exit was reported within which its last batches must have come."""

LOOK_AGAIN: Final = 0.002
"""Seconds between two looks at a worker whose death is not yet certain."""


class Links:
    """All workers' links, over one ROUTER."""

    def __init__(self, loop: Loop, router: Router, wire: WorkerWire) -> None:
        self._loop = loop
        self._router = router
        self._wire = wire
        self._unsent: dict[Worker, list[bytes]] = {}
        self._dying: dict[Worker, float] = {}
        self._look_at = 0.0
        self.drained = True
        """Whether the last drain has read all that there was."""
        loop.watch(wire.fd, _wake, read=True)

    # --- in ---

    def drain(self) -> None:
        """Read what workers have sent, up to a budget."""
        self.drained = self._wire.drain(self._receive, DRAIN_BUDGET)

    def _receive(self, identity: bytes, data: bytes) -> None:
        self._router.receive(identity, data, self._loop.now)

    # --- out ---

    def send(self, now: float) -> None:
        """One batch to each worker that has something to be sent."""
        router = self._router
        for worker, batch in router.batches(now):
            self._send(worker, batch)
        if router.replies:
            for identity, reply in router.replies:
                self._wire.send(identity, reply)
            router.replies.clear()

    def _send(self, worker: Worker, batch: bytes) -> None:
        unsent = self._unsent.get(worker)
        if unsent is not None:
            unsent.append(batch)
            return
        sent = self._wire.send(worker.identity, batch)
        if sent is Sent.FULL:
            # The window bounds what can gather here; it goes out in order once there is room.
            self._unsent[worker] = [batch]
            self._loop.call_later(RETRY, self._send_rest)
        elif sent is Sent.GONE:
            self._lost(worker)

    def _send_rest(self) -> None:
        for worker, batches in list(self._unsent.items()):
            while batches and worker.state is not LinkState.GONE:
                sent = self._wire.send(worker.identity, batches[0])
                if sent is Sent.FULL:
                    break
                batches.pop(0)
                if sent is Sent.GONE:
                    self._lost(worker)
            if not batches or worker.state is LinkState.GONE:
                del self._unsent[worker]
        if self._unsent:
            self._loop.call_later(RETRY, self._send_rest)

    # --- death ---

    def ask_unwatched(self) -> None:
        """Once a second: nobody reports the exit of a worker started by hand, so a batch of no
        records asks whether its link still stands."""
        for worker in list(self._router.workers.values()):
            if not worker.worker and worker.state is not LinkState.NEW:
                batch = m.encode([worker.session])
                if self._wire.send(worker.identity, batch) is Sent.GONE:
                    self._lost(worker)

    def _lost(self, worker: Worker) -> None:
        """EHOSTUNREACH; of one that was spawned its exit must be reported, too."""
        if not worker.worker:
            self._dying.setdefault(worker, self._loop.now)

    def exited(self, n: int, now: float) -> None:
        """The process of worker `n` is gone."""
        worker = self._router.worker_number(n)
        self._router.exited(n)
        if worker is not None:
            self._dying[worker] = now

    def judge_dying(self, now: float) -> None:
        """End the sessions of those whose death has become certain."""
        if not self._dying:
            return
        gone = [
            worker
            for worker, since in self._dying.items()
            if worker.state is not LinkState.GONE
            and (
                now - since > DEATH_CERTAIN_AFTER
                or self._wire.send(worker.identity, m.encode([worker.session])) is Sent.GONE
            )
        ]
        if gone:
            self.drain()
        if self.drained:
            for worker in gone:
                # Unless that last drain has brought its bye.
                if worker.state is not LinkState.GONE:
                    log.warning("%s is gone; its events go to others", self._router.name_of(worker))
                    self._router.end_session(worker, now, died=True)
        self._dying = {w: at for w, at in self._dying.items() if w.state is not LinkState.GONE}
        if self._dying and now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._loop.wake_at(self._look_at)

    def pending(self) -> bool:
        """Whether there is more to read: to be asked after every send, before every sleep."""
        return not self.drained or self._wire.pending()


def _wake(readable: bool, writable: bool) -> None:
    """The descriptor only ends the wait: the turn itself drains the socket."""
