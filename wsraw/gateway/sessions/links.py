"""I/O. The gateway's links to workers of this machine: batches in, batches out, and their ends.

The loop watches links like clients' sockets, so the end of a link is certain: it comes after all
that the worker has sent. The rules for a worker's death follow from that, and lose neither an ack
nor an on_close:

- The end of its link ends a worker's session, in order: what it has sent is applied first, even if
  that takes several turns. Its events go to other workers. Whether the process lives does not
  matter: if it comes back, it starts again on a new link.
- A reported exit ends nothing by itself, as the system closes the sockets of a process before its
  exit is reported. If the link is still open after HELD_OPEN_FOR (because a child of the process
  has inherited it), it is read once more and then closed.
- An event may have been handled if the system has taken its whole batch. Other events have not been
  seen: they are given to another worker as if for the first time.
"""

from __future__ import annotations

import math
import socket
from functools import partial
from typing import Final, Protocol

from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import UNSENT_LIMIT, Sessions
from wsraw.link.batches import Batch
from wsraw.link.states import NEW
from wsraw.runtime.clock import monotonic
from wsraw.runtime.link.server import Link, LinkServer
from wsraw.runtime.loop import Loop

READ_TIME: Final = 0.0015
"""Seconds of a turn for batches of workers; answering a flood can take long, too."""

CHOKED_ABOVE: Final = 1024 * 1024
"""Bytes that wait for a worker that does not read; above this it gets no new events."""

HELD_OPEN_FOR: Final = 0.25
"""Seconds in which the link of a worker must end after its exit was reported."""


class RemoteLinks(Protocol):
    """The links to workers on other machines: the `ZmqLinks` of gateway/remote/."""

    def drain(self, seconds: float) -> None: ...
    def look_again(self) -> None: ...
    def send(self, worker: Worker, batch: bytes) -> None: ...
    def reply(self, identity: bytes, batch: bytes) -> None: ...
    def probe(self) -> None: ...
    def end_dead(self, now: float) -> None: ...
    def pending(self) -> bool: ...
    def close(self) -> None: ...


class Links:
    """The links of all workers."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        sessions: Sessions,
        folder: str,
        given: socket.socket | None = None,
        listens: bool = True,
    ) -> None:
        """Listens in this folder, or on loopback if there is none: there on the given socket, if
        there is one. Without `listens`, `take_over` comes first. Raises OSError."""
        self._loop = loop
        self._registry = registry
        self._sessions = sessions
        sessions.unsent = self._unsent
        sessions.read_out = self._read_out
        self._clock = monotonic
        self.remote: RemoteLinks | None = None
        """Set if workers on other machines may connect."""
        self.is_open = False
        """Whether links are read; see `open`."""
        self._early: list[Link] = []
        """Links that connected before `open`."""
        self._links: dict[bytes, Link] = {}
        """By identity, all links that have sent something and have not ended."""
        self.ready: dict[Link, None] = {}
        """Links that have something to read, in the order in which it came."""
        self.strangers: dict[Link, None] = {}
        """Links without a hello that have something to read. They are read after all others,
        because an old link of the same worker comes before its new one."""
        self._until = 0.0
        """When the time for reading is over."""
        self._paused: Link | None = None
        """The link in the middle of whose batches the time was over."""
        self._behind: dict[Link, int] = {}
        """Bytes that wait for workers that do not read, as last counted."""
        self.dying: dict[Worker, str] = {}
        """Workers whose links have ended while their batches are still being applied, with what was
        wrong."""
        self._server = LinkServer(
            loop,
            folder,
            "link",
            receive=self._receive,
            ended=self._ended,
            readable=self._note,
            given=given,
            listens=listens,
        )

    @property
    def endpoint(self) -> str:
        """The address to which workers on this machine connect."""
        return self._server.endpoint

    def relink(self, folder: str) -> None:
        """Listen in this folder again, after the socket's file was removed. Connected workers stay
        connected. Raises OSError."""
        self._server.bind(folder)

    def listener(self) -> tuple[socket.socket, str]:
        """The listening socket, and the path of its file."""
        return self._server.listener()

    def take_over(self, sock: socket.socket, path: str) -> None:
        """Listen on the socket of the old gateway. Raises OSError."""
        self._server.take_over(sock, path)

    def open(self) -> None:
        """Begin to read: from now on hellos can be answered."""
        if self.is_open:
            return
        self.is_open = True
        early, self._early = self._early, []
        for link in early:
            link.resume()

    # --- in ---

    def _note(self, link: Link) -> None:
        """Called by the loop for a link that can be read. The turn itself reads, at its own
        places."""
        if not self.is_open:
            link.pause()
            self._early.append(link)
        elif link.is_admitted:
            self.ready[link] = None
        else:
            self.strangers[link] = None

    def look_again(self) -> None:
        """The loop is behind, and may have missed acks of workers with events."""
        for identity, worker in self._sessions.workers.items():
            if worker.window.in_flight and identity in self._links:
                self.ready[self._links[identity]] = None
        if self.remote is not None:
            self.remote.look_again()

    def drain(self, seconds: float = READ_TIME) -> None:
        """Read what workers have sent, one link after the other, for this many seconds; the last
        batch may exceed them. The rest is for the next turn."""
        if self.ready:
            ready, self.ready = self.ready, {}
            self._read_each(ready, self.ready, seconds)
        if self.remote is not None and self.is_open:
            self.remote.drain(seconds)

    def meet(self) -> None:
        """Read links without a hello, after the supervisor's records about their workers."""
        if self.strangers:
            strangers, self.strangers = self.strangers, {}
            self._read_each(strangers, self.strangers, READ_TIME)

    def _read_each(self, links: dict[Link, None], left: dict[Link, None], seconds: float) -> None:
        """Read these links as long as there is time, and put those that were not read into `left`.
        A link whose earlier batches are still being applied waits."""
        self._until = self._clock() + seconds
        waiting, workers = self._sessions.backlog.workers, self._sessions.workers
        is_late = False
        for link in links:
            if is_late or (waiting and workers.get(link.identity) in waiting):
                left[link] = None
                continue
            try:
                link.read()
            except Exception as error:
                # This is an error of the link itself; an error in a batch belongs to the session.
                link.handle_fault(error)
            is_late = self._clock() > self._until
        if self._paused is not None:
            paused, self._paused = self._paused, None
            paused.resume()

    def _receive(self, link: Link, batch: Batch) -> None:
        """Handle a batch."""
        identity = link.identity
        self._sessions.receive(identity, batch, self._loop.now)
        if not link.is_admitted:
            self._links[identity] = link
            worker = self._sessions.workers.get(identity)
            if worker is not None and worker.session.number:
                link.admit()
        if self._clock() > self._until and not link.ended:
            # The rest of what was read is for the next turn.
            self._paused = link
            link.pause()

    # --- out ---

    def send(self, now: float) -> None:
        """Send one batch to each worker for which there is something."""
        sessions, links = self._sessions, self._links
        if self._behind:
            self._look_at_unsent()
        for worker, batch in sessions.batches(now):
            try:
                link = links.get(worker.session.identity)
                if link is not None:
                    if not link.send(batch):
                        self._fell_short(link)
                elif worker.remote is None:
                    # Its link has ended in this turn, and its batches are being applied.
                    worker.session.take_back((batch,))
                elif self.remote is not None:
                    self.remote.send(worker, batch)
            except Exception as error:
                sessions.fault(worker, error, now)
        if sessions.replies:
            replies, sessions.replies = sessions.replies, []
            for identity, reply in replies:
                try:
                    self._reply(identity, reply)
                except Exception as error:
                    self._registry.counters.fault("an answer to a worker", error)
        if sessions.left:
            left, sessions.left = sessions.left, []
            for identity in left:
                self._dismiss(identity)
        if sessions.cuts:
            cuts, sessions.cuts = sessions.cuts, []
            for identity, why, last in cuts:
                link = links.get(identity)
                if link is not None:
                    self._forget(link)
                    if last:
                        link.part(last, why)
                    else:
                        link.cut(why)

    def _dismiss(self, identity: bytes) -> None:
        """A worker has said bye. It may say hello again on its link, but cannot keep the link for
        ever."""
        link, worker = self._links.get(identity), self._sessions.workers.get(identity)
        if link is not None and (worker is None or not worker.session.number):
            link.dismiss()

    def _reply(self, identity: bytes, batch: bytes) -> None:
        link = self._links.get(identity)
        if link is not None:
            if not link.send(batch):
                self._fell_short(link)
        elif self.remote is not None:
            self.remote.reply(identity, batch)

    def _fell_short(self, link: Link) -> None:
        """The system has not taken everything. If the worker is gone, reading will find the end of
        its link."""
        if not link.ended:
            self._behind.setdefault(link, 0)
            self._count_unsent(link)

    def _look_at_unsent(self) -> None:
        for link in list(self._behind):
            self._count_unsent(link)

    def _count_unsent(self, link: Link) -> None:
        unsent, before = link.unsent, self._behind[link]
        self._registry.flow.hold(unsent - before)
        self._behind[link] = unsent
        worker = self._sessions.workers.get(link.identity)
        if worker is not None:
            worker.window.choked = unsent > CHOKED_ABOVE
        if not unsent:
            del self._behind[link]
        elif unsent > UNSENT_LIMIT and _size_behind_first(link) > UNSENT_LIMIT:
            if worker is not None:
                self._sessions.end_unread(worker, self._loop.now)
                # Its events are for other workers, in a turn that does not wait.
                self._loop.wake_at(self._loop.now)
            else:
                self._forget(link)
                link.cut("it does not read what is sent to it")

    def _unsent(self, identity: bytes) -> list[bytes]:
        link = self._links.get(identity)
        return link.unsent_batches(begun=False) if link is not None else []

    # --- death ---

    def _forget(self, link: Link) -> None:
        self._links.pop(link.identity, None)
        self.ready.pop(link, None)
        self.strangers.pop(link, None)
        self._registry.flow.hold(-self._behind.pop(link, 0))

    def _ended(self, link: Link, fault: str) -> None:
        """A link has ended, and all that came over it was read. `fault`: what was wrong with the
        link."""
        self._forget(link)
        worker = self._sessions.workers.get(link.identity)
        if worker is None:
            # The worker has said bye, or never said hello.
            return
        # A worker that still lives gets the rest of a batch that was begun, and then learns what
        # was wrong.
        worker.session.take_back(link.unsent_batches(begun=not fault))
        self._end(worker, fault)

    def _end(self, worker: Worker, fault: str) -> None:
        """End a session, once all batches of its worker are applied."""
        sessions, now = self._sessions, self._loop.now
        if worker in sessions.backlog.workers:
            self.dying[worker] = fault
            sessions.withdraw(worker)
            return
        try:
            if fault:
                # Its events are not forgiven if it comes back: one of them may break each link.
                text = "%s was disconnected: %s"
                self._registry.counters.say("error", text, worker.name, fault)
                sessions.end(worker, now, died=True)
                return
            if worker.session.state is not NEW:
                text = "%s is gone; its events go to others"
                if worker.is_agent:
                    text = "%s is gone; until there is another one, other nodes get nothing"
                self._registry.counters.say("warning", text, worker.name)
            sessions.link_lost(worker, now)
        except Exception as error:
            sessions.fault(worker, error, now)

    def end_dead(self, now: float) -> None:
        """End the sessions of workers whose links have ended and whose batches are all applied."""
        dying, self.dying = self.dying, {}
        for worker, fault in dying.items():
            if self._sessions.workers.get(worker.session.identity) is worker:
                self._end(worker, fault)
        if self.remote is not None:
            self.remote.end_dead(now)

    def exited(self, n: int) -> None:
        """The process of worker `n` has ended."""
        worker = self._sessions.exited(n)
        if worker is not None:
            self._loop.call_later(HELD_OPEN_FOR, partial(self._end_exited, worker))

    def _end_exited(self, worker: Worker) -> None:
        link = self._links.get(worker.session.identity)
        if link is None or self._sessions.workers.get(worker.session.identity) is not worker:
            # That is the normal case.
            return
        self._read_out(link.identity)
        if not link.ended:
            self._ended(link, "")
            link.cut("the process of this worker has ended")

    def _read_out(self, identity: bytes) -> None:
        """Apply all that has come over its link at once: nothing more will come."""
        link = self._links.get(identity)
        if link is None:
            return
        until, self._until = self._until, math.inf
        try:
            link.read_out()
        except Exception as error:
            link.handle_fault(error)
        self._until = until

    # --- the rest ---

    def tick(self) -> None:
        """Once a second: free spare buffers, and probe the links to other machines."""
        self._server.free_spares()
        if self.remote is not None:
            self.remote.probe()

    def pending(self) -> bool:
        """Whether there is something to read that the loop need not report: to be asked after every
        send, and before every sleep."""
        return bool(
            self.ready
            or self.strangers
            or (self.remote is not None and self.is_open and self.remote.pending())
        )

    def close(self) -> None:
        """Close the sockets; batches that are not read or sent are lost."""
        self._server.close()
        if self.remote is not None:
            self.remote.close()


def _size_behind_first(link: Link) -> int:
    """Bytes of the batches that wait behind the one that is being written, which may be as
    long as a batch can be."""
    return sum([len(batch) for batch in link.unsent_batches()[1:]])
