"""I/O. The gateway's links to its workers: batches out, batches in, and when a worker is dead.

Death is certain, or it is not: a worker is dead when its exit was reported (or, where nobody
watches the process, its link is lost), and a send to it says EHOSTUNREACH, and after that nothing
more of it is to be read: a drain of the ROUTER found nothing at all, or nothing of it while another
worker was read from several times (a ROUTER reads from its peers in turn). EHOSTUNREACH comes
before its last batches are read, and their acks count; a full queue is neither a sign of life nor
of death.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.remote.remote import Remote
from wsraw.gateway.remote.transport import DRAIN_TIME, Router, Sent, Wire, WorkerSocket
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import encode
from wsraw.link.states import GONE, NEW
from wsraw.runtime.loop import Loop

DRAIN_BUDGET: Final = 256
"""Batches read from workers in a turn, so that a flood of commands does not starve the sockets."""

REMOTE_BUDGET: Final = 128
"""The same for remote workers: a flood from the network does not hold up those of this machine."""

RETRY: Final = 0.01
"""Seconds until a batch that found a full queue is tried again."""

DEATH_CERTAIN_AFTER: Final = 0.25
"""Seconds after a worker's exit was reported within which its last batches must have come."""

LOOK_AGAIN: Final = 0.002
"""Seconds between two looks at a worker whose death is not yet certain."""

UNREAD_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of batches that wait for those before them; with more, nothing is read from workers."""

ROUNDS: Final = 3
"""Batches of one worker, without any of another one between them, that tell that the other one's
queue is empty. Two would do but for the moment in which libzmq forgets a peer."""

UNSENT_LIMIT: Final = 32 * 1024 * 1024
"""Bytes that may wait for a worker whose queue is full. The window bounds the events among them;
what it is told of connections nothing else does."""


class Links:
    """All workers' links, over the ROUTER of this machine and the one for others."""

    def __init__(
        self, loop: Loop, registry: Registry, sessions: Sessions, wire: WorkerSocket
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._sessions = sessions
        self._remote: Remote | None = None
        self._routers: list[Router] = [wire]
        """By the first byte of an identity: REMOTE_MARK is 1, others begin with 0."""
        self._wires: list[Wire] = [wire]
        """Whatever a message may come from."""
        self._unsent: dict[Worker, deque[bytes]] = {}
        self._unsent_bytes: dict[Worker, int] = {}
        self.dying: dict[Worker, float] = {}
        """Workers whose death is not certain yet, and since when: `end_dead` finds out."""
        self._final_reads: dict[Worker, dict[bytes, int]] = {}
        """Those of them whose link is gone, and how many batches of each other worker have come
        since the last one of theirs."""
        self._look_at = 0.0
        loop.watch(wire.fd, wire.wake, read=True)

    def add_remote(self, remote: Remote) -> None:
        """Let workers on other machines connect."""
        self._remote = remote
        self._routers.append(remote.router)
        self._wires += remote.wires

    # --- in ---

    def drain(self, seconds: float = DRAIN_TIME) -> None:
        """Read what workers have sent, up to a budget; the last batch may take it over that."""
        if self._sessions.backlog.unread > UNREAD_LIMIT:
            self._routers[0].drained = False
            return
        self._routers[0].drain(self._receive, DRAIN_BUDGET, seconds)
        if self._remote is not None:
            self._remote.answer_handshakes()
            self._remote.router.drain(self._receive, REMOTE_BUDGET, seconds)

    def look_again(self) -> None:
        """The loop is behind, and has not looked at the descriptors."""
        for wire in self._wires:
            wire.look_again()

    def _receive(self, identity: bytes, data: bytes | memoryview) -> None:
        if self._final_reads:
            self._count_read(identity)
        self._sessions.receive(identity, data, self._loop.now)

    # --- out ---

    def send(self, now: float) -> None:
        """One batch to each worker that has something to be sent."""
        sessions = self._sessions
        for worker, batch in sessions.batches(now):
            try:
                self._send(worker, batch)
            except Exception as error:
                sessions.fault(worker, error, now)
        if sessions.replies:
            replies, sessions.replies = sessions.replies, []
            for identity, reply in replies:
                try:
                    self._transmit(identity, reply)
                except Exception as error:
                    self._registry.counters.fault("an answer to a worker", error)

    def _transmit(self, identity: bytes, data: bytes) -> Sent:
        return self._routers[identity[0]].send(identity, data)

    def _send(self, worker: Worker, batch: bytes) -> None:
        if worker not in self._unsent:
            sent = self._transmit(worker.session.identity, batch)
            if sent is Sent.GONE:
                self._lost(worker)
            if sent is not Sent.FULL:
                return
            # It is sent in order once there is room; until then this worker gets no new events.
            if not self._unsent:
                self._loop.call_later(RETRY, self._send_rest)
            self._unsent[worker] = deque()
            self._unsent_bytes[worker] = 0
            worker.window.choked = True
        self._unsent[worker].append(batch)
        self._unsent_bytes[worker] += len(batch)
        self._registry.flow.hold(len(batch))
        if self._unsent_bytes[worker] > UNSENT_LIMIT and worker not in self.dying:
            self._forget_unsent(worker)
            self._sessions.end_unread(worker, self._loop.now)
            # What it held is for others, in a turn that does not wait.
            self._loop.wake_at(self._loop.now)

    def _forget_unsent(self, worker: Worker) -> None:
        del self._unsent[worker]
        self._registry.flow.hold(-self._unsent_bytes.pop(worker))
        worker.window.choked = False

    def _send_rest(self) -> None:
        for worker in list(self._unsent):
            try:
                self._send_rest_to(worker)
            except Exception as error:
                self._forget_unsent(worker)
                self._sessions.fault(worker, error, self._loop.now)
        if self._unsent:
            self._loop.call_later(RETRY, self._send_rest)

    def _send_rest_to(self, worker: Worker) -> None:
        batches = self._unsent[worker]
        while batches and worker.session.state is not GONE:
            sent = self._transmit(worker.session.identity, batches[0])
            if sent is Sent.FULL:
                break
            size = len(batches.popleft())
            self._unsent_bytes[worker] -= size
            self._registry.flow.hold(-size)
            if sent is Sent.GONE:
                self._lost(worker)
        if not batches or worker.session.state is GONE:
            self._forget_unsent(worker)

    # --- death ---

    def probe_unwatched(self) -> None:
        """Once a second: a batch of no records finds out whether a worker started by hand is still
        connected, as nobody reports its exit."""
        for worker in list(self._sessions.workers.values()):
            is_by_hand = not worker.number and worker.session.state is not NEW
            if is_by_hand and self._is_unreachable(worker):
                self._lost(worker)

    def _is_unreachable(self, worker: Worker) -> bool:
        """Whether even a batch of no records cannot be sent to it."""
        try:
            return (
                self._transmit(worker.session.identity, encode([worker.session.number]))
                is Sent.GONE
            )
        except Exception as error:
            self._sessions.fault(worker, error, self._loop.now)
            return True

    def _lost(self, worker: Worker) -> None:
        """EHOSTUNREACH; of one that was spawned its exit must be reported, too."""
        if not worker.number:
            self.dying.setdefault(worker, self._loop.now)

    def exited(self, n: int, now: float) -> None:
        """The process of worker `n` is gone."""
        worker = self._sessions.numbered(n)
        self._sessions.tokens.remove(n)
        if worker is not None:
            self.dying[worker] = now

    def end_dead(self, now: float) -> None:
        """End the sessions of workers whose death has become certain."""
        reads = self._final_reads
        for worker, since in self.dying.items():
            if worker not in reads and (
                now - since > DEATH_CERTAIN_AFTER or self._is_unreachable(worker)
            ):
                reads[worker] = {}
        if reads:
            self.drain()
        for worker, others in list(reads.items()):
            # Unless that last drain has brought its bye, or has left something unread.
            if worker.session.state is not GONE:
                if worker in self._sessions.backlog.workers:
                    # What it has sent is still being applied.
                    continue
                if not self._is_drained(worker) and max(others.values(), default=0) < ROUNDS:
                    continue
                try:
                    self._registry.counters.say(
                        "warning",
                        "%s is gone; its events go to others",
                        worker.name,
                    )
                    self._sessions.link_lost(worker, now)
                except Exception as error:
                    self._sessions.fault(worker, error, now)
            del reads[worker]
        self.dying = {w: at for w, at in self.dying.items() if w.session.state is not GONE}
        if self.dying and now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._loop.wake_at(self._look_at)

    def _count_read(self, identity: bytes) -> None:
        """A batch of this worker is read while others are dying."""
        for worker, others in self._final_reads.items():
            if identity == worker.session.identity:
                others.clear()
            elif identity[0] == worker.session.identity[0]:
                others[identity] = others.get(identity, 0) + 1

    def _is_drained(self, worker: Worker) -> bool:
        return self._routers[worker.session.identity[0]].drained

    def pending(self) -> bool:
        """Whether there is more to read: to be asked after every send, before every sleep."""
        pending = False
        for wire in self._wires:
            pending = pending or wire.pending()
        return pending

    def close(self) -> None:
        """Close the sockets; what is still to be read or sent is lost with us."""
        for wire in self._wires:
            wire.close()
