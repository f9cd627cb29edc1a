"""I/O. The old gateway's side of a handover: it offers its state, stops, sends everything, and then
either has handed it over or has it back.

From the stop to the end, the old gateway does nothing else: it blocks, in the middle of a turn, so
that only the taker can touch a client's socket. The sockets that it sends stay open here until the
taker serves.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from wsraw.gateway.handover.channel import LAST, Sender
from wsraw.gateway.handover.dialog import ABORT, COMMIT, Giver, Next
from wsraw.runtime.clock import monotonic
from wsraw.runtime.loop import Loop
from wsraw.runtime.printable import os_error
from wsraw.runtime.selector import READ, WRITE, Selector

log = logging.getLogger("wsraw.gateway")

PATIENCE: Final = 0.5
"""Share of the timeout, after the taker is ready, in which the old gateway waits for connections
that cannot move yet, mainly TLS handshakes. Meanwhile everything is served, and clients are
accepted."""

SETTLE: Final = 1.0
"""Further seconds of waiting, in which no client is accepted: otherwise there may never be a moment
without a handshake."""

LOOK_AGAIN: Final = 0.005
"""Seconds between two checks whether all connections can move."""


class Piece(NamedTuple):
    """A frame to send."""

    kind: int
    data: bytes
    sockets: Sequence[socket.socket] = ()


class Giving:
    """One offer, from the supervisor's request to its end."""

    def __init__(
        self, loop: Loop, words: socket.socket, records: socket.socket, timeout: float
    ) -> None:
        self._loop = loop
        self._words = words
        self._sender = Sender(records)
        self._records = records
        self.giver = Giver(timeout)
        self._wanted = Next.WAIT
        self._patience = PATIENCE * timeout
        self.since = 0.0
        """When the taker was ready; 0: not yet."""
        self.stopped_at = 0.0
        """When the gateway stopped serving, on the clock that both processes share."""
        loop.watch(words, self._hear, read=True)

    @property
    def is_due(self) -> bool:
        """Whether `advance` has something to do at the end of the turn."""
        return self._wanted is not Next.WAIT

    @property
    def why(self) -> str:
        """Why the old gateway goes on."""
        return self.giver.why

    def _hear(self, readable: bool, writable: bool) -> None:
        """Called by the loop while everything is served here."""
        self._wanted = self._listen()
        if self.is_due:
            self._loop.unwatch(self._words)
            self.since = self._loop.now

    def _listen(self) -> Next:
        try:
            data = self._words.recv(65536)
        except (BlockingIOError, InterruptedError):
            return Next.WAIT
        except OSError:
            data = b""
        now = monotonic()
        return self.giver.receive(data, now) if data else self.giver.end()

    def has_time(self, now: float) -> bool:
        """Whether to wait for connections that cannot move yet."""
        if self._wanted is not Next.GIVE or now >= self.since + self._patience + SETTLE:
            return False
        self._loop.wake_at(now + LOOK_AGAIN)
        return True

    def holds_off(self, now: float) -> bool:
        """Whether to accept no more clients."""
        return now >= self.since + self._patience

    def run(self, pieces: Iterator[Piece]) -> bool:
        """Hand over. Blocks. True: the taker has everything. False: everything is still here, and
        `why` gives the reason."""
        giver = self.giver
        self._wanted = Next.WAIT
        if giver.over is None:
            self.stopped_at = monotonic()
            with Selector() as selector:
                selector.register(self._words, READ)
                try:
                    self._talk(selector, pieces)
                except Exception as error:
                    # A bug: nothing is lost by it, as long as nothing was decided.
                    log.exception("an upgrade has failed")
                    if giver.fail(f"a bug in wsraw: {error!r}") is Next.WAIT:
                        self._wait_for_the_end()
        self._close()
        return giver.over is Next.LEAVE

    def _talk(self, selector: Any, pieces: Iterator[Piece]) -> None:
        giver = self.giver
        selector.register(self._records, WRITE)
        is_sending = True
        while giver.over is None:
            if is_sending and self._send(pieces):
                selector.unregister(self._records)
                is_sending = False
            wait = giver.wake_at - monotonic()
            ready = selector.select(min(max(0.0, wait), 3600.0))
            for key, _ in ready:
                if key.fileobj is self._words and self._listen() is Next.COMMIT:
                    self._say(COMMIT)
            giver.check(monotonic())

    def _send(self, pieces: Iterator[Piece]) -> bool:
        """Send until the system takes no more. True: everything was sent, or the taker is gone."""
        sender = self._sender
        try:
            while True:
                if not sender.is_done:
                    sender.send()
                    if not sender.is_done:
                        return False
                piece = next(pieces, None)
                if piece is None:
                    return True
                sender.put(*piece)
                if piece.kind == LAST:
                    sender.send()
                    return sender.is_done
        except ConnectionError:
            # The words tell what has become of the taker.
            return True
        except OSError as error:
            self.giver.fail(os_error(error))
            return True

    def _wait_for_the_end(self) -> None:
        """After a commit, only what the taker does decides."""
        self._words.setblocking(True)
        while self.giver.over is None:
            self._listen()

    def _say(self, word: bytes) -> None:
        try:
            # A single byte, and nothing else is in transit: there is room.
            self._words.send(word)
        except OSError:
            # The taker is gone; the end of its words shows that.
            pass

    def _close(self) -> None:
        if self.giver.over is Next.KEEP and not self.giver.has_committed:
            self._say(ABORT)
        self._words.close()
        self._records.close()

    def abandon(self, why: str) -> None:
        """Another offer, or the end of the run, came before anything was handed over."""
        self._loop.unwatch(self._words)
        self.giver.fail(why)
        self._close()
