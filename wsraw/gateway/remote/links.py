"""I/O. The gateway's links to workers on other machines: batches out and in, and when one is lost.

Over a network nobody reports the death of a process, and libzmq does not say when a link has ended.
A link is lost when a send has failed with EHOSTUNREACH, and then all its batches have been read: a
drain of the ROUTER found nothing at all, or nothing of this worker while another one was read from
several times (a ROUTER reads from its peers in turn). EHOSTUNREACH comes before the worker's last
batches are read, and the acks in these count. A full queue is a sign of neither life nor death.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.remote.remote import Remote
from wsraw.gateway.remote.transport import DRAIN_TIME, REMOTE_MARK, Sent
from wsraw.gateway.sessions.sessions import UNSENT_LIMIT, Sessions
from wsraw.link.records import encode
from wsraw.link.states import GONE, NEW
from wsraw.runtime.loop import Loop

BUDGET: Final = 128
"""Batches read from workers in a turn, so that a flood of commands does not starve the sockets."""

RETRY: Final = 0.01
"""Seconds until a batch that found a full queue is tried again."""

LOOK_AGAIN: Final = 0.002
"""Seconds between two checks of a worker whose death is not yet certain."""

UNREAD_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of batches that may wait behind earlier ones; if there are more, nothing is read from
workers."""

ROUNDS: Final = 3
"""Batches of one worker, without any of another one between them, that show that the other one's
queue is empty. Two would be enough except in the moment in which libzmq forgets a peer."""


class ZmqLinks:
    """All links over libzmq."""

    def __init__(self, loop: Loop, registry: Registry, sessions: Sessions) -> None:
        """Raises OSError or ValueError, with a text that says what to do."""
        self._loop = loop
        self._registry = registry
        self._sessions = sessions
        self._remote = Remote(loop, registry, sessions.workers, sessions.add_remote)
        self._router = self._remote.router
        self._unsent: dict[Worker, deque[bytes]] = {}
        self._unsent_bytes: dict[Worker, int] = {}
        self._lost: dict[Worker, dict[bytes, int]] = {}
        """Workers whose link is gone, and how many batches of each other worker have been read
        since their own last one: `end_dead` uses this to decide that nothing more will come."""
        self._look_at = 0.0

    # --- in ---

    def drain(self, seconds: float) -> None:
        """Read what workers have sent, up to a budget; the last batch may exceed it."""
        if self._sessions.backlog.unread > UNREAD_LIMIT:
            self._router.drained = False
            return
        self._remote.answer_handshakes()
        self._router.drain(self._receive, BUDGET, seconds)

    def look_again(self) -> None:
        """The loop is behind, and may have missed that the descriptors are ready."""
        for wire in self._remote.wires:
            wire.look_again()

    def _receive(self, identity: bytes, data: bytes | memoryview) -> None:
        if self._lost:
            self._count_read(identity)
        self._sessions.receive(identity, data, self._loop.now)

    # --- out ---

    def reply(self, identity: bytes, batch: bytes) -> None:
        """Send a batch to a worker without a session; it may be lost."""
        if identity.startswith(REMOTE_MARK):
            self._router.send(identity, batch)

    def send(self, worker: Worker, batch: bytes) -> None:
        """Send a batch, after those that wait for room."""
        if worker not in self._unsent:
            sent = self._router.send(worker.session.identity, batch)
            if sent is Sent.GONE:
                self._lost.setdefault(worker, {})
            if sent is not Sent.FULL:
                return
            # The batch is sent in order once there is room; until then this worker gets no new
            # events.
            if not self._unsent:
                self._loop.call_later(RETRY, self._send_rest)
            self._unsent[worker] = deque()
            self._unsent_bytes[worker] = 0
            worker.window.choked = True
        self._unsent[worker].append(batch)
        self._unsent_bytes[worker] += len(batch)
        self._registry.flow.hold(len(batch))
        waiting = self._unsent_bytes[worker] - len(self._unsent[worker][0])
        if waiting > UNSENT_LIMIT and worker not in self._lost:
            self._forget_unsent(worker)
            self._sessions.end_unread(worker, self._loop.now)
            # Its events are for other workers, in a turn that does not wait.
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
            sent = self._router.send(worker.session.identity, batches[0])
            if sent is Sent.FULL:
                break
            size = len(batches.popleft())
            self._unsent_bytes[worker] -= size
            self._registry.flow.hold(-size)
            if sent is Sent.GONE:
                self._lost.setdefault(worker, {})
        if not batches or worker.session.state is GONE:
            self._forget_unsent(worker)

    # --- death ---

    def probe(self) -> None:
        """Once a second: an empty batch finds out whether a worker is still connected."""
        for worker in list(self._sessions.workers.values()):
            if worker.remote is None or worker.session.state is NEW:
                continue
            try:
                sent = self._router.send(worker.session.identity, encode([worker.session.number]))
            except Exception as error:
                self._sessions.fault(worker, error, self._loop.now)
            else:
                if sent is Sent.GONE:
                    self._lost.setdefault(worker, {})

    def end_dead(self, now: float) -> None:
        """End the sessions of workers from which nothing more will come."""
        if not self._lost:
            return
        self.drain(DRAIN_TIME)
        for worker, others in list(self._lost.items()):
            # Unless the last drain has read its bye, or has left something unread.
            if worker.session.state is not GONE:
                if worker in self._sessions.backlog.workers:
                    # Its batches are still being applied.
                    continue
                if not self._router.drained and max(others.values(), default=0) < ROUNDS:
                    continue
                try:
                    text = "%s is gone; its events go to others"
                    self._registry.counters.say("warning", text, worker.name)
                    self._sessions.link_lost(worker, now)
                except Exception as error:
                    self._sessions.fault(worker, error, now)
            del self._lost[worker]
        if self._lost and now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._loop.wake_at(self._look_at)

    def _count_read(self, identity: bytes) -> None:
        """A batch of this worker is read while others may be dead."""
        for worker, others in self._lost.items():
            if identity == worker.session.identity:
                others.clear()
            else:
                others[identity] = others.get(identity, 0) + 1

    def pending(self) -> bool:
        """Whether there is more to read: to be asked after every send, and before every sleep."""
        return any(wire.pending() for wire in self._remote.wires)

    def close(self) -> None:
        """Close the sockets; batches that are not read or sent are lost."""
        self._remote.close()
