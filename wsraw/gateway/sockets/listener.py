"""I/O. Listening sockets: a bounded number accepted in a turn, a pause when resources run out."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.gateway.sockets.descriptors import TOO_MANY, Descriptors
from wsraw.runtime import sockets as listening
from wsraw.runtime.loop import Loop

log = logging.getLogger("wsraw.gateway")

ACCEPT_BUDGET: Final = 16
"""Connections accepted from one listener in a turn; a storm must not starve open connections."""

ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting after the system has refused a descriptor or memory."""

COMPLAIN_EVERY: Final = 10.0
"""Seconds between two lines in the log about the same problem."""

EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Accepted = Callable[[Listen, socket.socket, object], object]
"""Called for each new connection with its listener's setting, the socket and the peer's address."""


class Listener:
    """A listening socket, given by our parent or opened here. Raises OSError, with advice, if it
    cannot be opened."""

    def __init__(
        self,
        loop: Loop,
        listen: Listen,
        accepted: Accepted,
        given: socket.socket | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self.listen = listen
        self._descriptors = descriptors or Descriptors()
        self._loop = loop
        self._accepted = accepted
        self.accepting = False
        self.accepted = 0
        """Connections accepted so far."""
        self.exhausted_until = 0.0
        """Until then nothing is accepted, because descriptors ran out; 0: they have not."""
        self._complained_at = -COMPLAIN_EVERY
        self._is_given = given is not None
        self._sock = given if given is not None else listening.bind(listen)

    @property
    def address(self) -> str:
        """The address that it listens on, with the real port for port 0."""
        return listening.printable(self._sock.getsockname())

    def update(self, room: bool) -> None:
        """Accept while there is room. To be called when the room has changed, or descriptors had
        run out."""
        now = self._loop.now
        if self.exhausted_until and now >= self.exhausted_until:
            if self._descriptors.has_room():
                self.exhausted_until = 0.0
            else:
                self._pause(TOO_MANY)
        accepting = room and not self.exhausted_until
        if accepting is not self.accepting:
            self.accepting = accepting
            if accepting:
                try:
                    self._loop.watch(self._sock, self._handle, read=True)
                except OSError as error:
                    self.accepting = False
                    self._pause(error)
            else:
                self._loop.unwatch(self._sock)

    def _handle(self, readable: bool, writable: bool) -> None:
        for _ in range(ACCEPT_BUDGET):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(error)
                    return
                # accept(2) also reports errors of a connection that ended in the queue.
                continue
            except Exception as error:
                # For example an address that Python cannot read.
                log.exception(
                    "a client of %s was lost because of an error in wsraw", self.listen.name
                )
                self._pause(error)
                return
            number = sock.fileno()
            self.accepted += 1
            self._accepted(self.listen, sock, address)
            if self._descriptors.is_last(number) and sock.fileno() >= 0:
                # This client stays. The others wait until there is room again.
                self._pause(TOO_MANY)
                return

    def _pause(self, error: Exception) -> None:
        now = self._loop.now
        self.exhausted_until = now + ACCEPT_PAUSE
        # This only wakes the loop; `update` does the rest.
        self._loop.wake_at(self.exhausted_until)
        if now - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = now
            log.error(
                "cannot accept on %s: %s; paused, trying again every %s s. "
                "Raise the limit of open files (ulimit -n) to hold more connections",
                self.listen.name,
                getattr(error, "strerror", None) or error,
                ACCEPT_PAUSE,
            )

    def close(self) -> None:
        self._loop.unwatch(self._sock)
        if self._is_given:
            self._sock.close()
        else:
            listening.close(self._sock, self.listen)
