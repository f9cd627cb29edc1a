"""I/O. Clients above a limit are refused cheaply: with an answer if they speak HTTP, else a reset.

Which of them depends on the first bytes, so a few clients at a time may wait for theirs for a short
time. In a storm the others are reset at once.
"""

from __future__ import annotations

import logging
import socket
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.gateway.admission.per_address import (
    ENOUGH,
    MOST_REFUSED,
    OVER_LIMIT,
    REFUSAL_TIMEOUT,
    RETRY_AFTER,
)
from wsraw.gateway.admission.sniffer import speaks_http
from wsraw.gateway.http import answer_for, http_answer
from wsraw.gateway.sockets.descriptors import Descriptors
from wsraw.gateway.sockets.transport import reset
from wsraw.runtime.loop import Loop, Timer

log = logging.getLogger("wsraw.gateway")

ANSWERS: Final = {
    429: OVER_LIMIT,
    503: http_answer(503, "too many connections", ("Retry-After", str(RETRY_AFTER))),
}


class Refusals:
    """Refused clients whose answer is not decided yet, or not read."""

    def __init__(self, loop: Loop, descriptors: Descriptors | None = None) -> None:
        self._loop = loop
        self._descriptors = descriptors or Descriptors()
        self._waiting: set[_Refused] = set()
        self.over: list[_Refused] = []
        """To be closed by `free`."""

    def refuse(self, listen: Listen, sock: socket.socket, status: int) -> None:
        """Take over the socket of a client, answer with the status, and close it."""
        is_full = len(self._waiting) >= MOST_REFUSED or self._descriptors.is_last(sock.fileno())
        if listen.protocol == "raw" or is_full:
            reset(sock)
            return
        sock.setblocking(False)
        refused = _Refused(sock, ANSWERS[status], self.over)
        refused.timer = self._loop.call_later(REFUSAL_TIMEOUT, refused.end)
        self._waiting.add(refused)
        self._loop.watch(sock, refused.handle, read=True)

    def free(self) -> None:
        """At the end of a turn, close those that are done: nothing is closed inside a callback."""
        over = list(self.over)
        self.over.clear()
        for refused in over:
            if refused in self._waiting:
                self._waiting.discard(refused)
                try:
                    self._loop.unwatch(refused.sock)
                    refused.close()
                except Exception:
                    log.exception("cannot close a refused client")
                    refused.sock.close()

    def close(self) -> None:
        self._over.extend(self._waiting)
        self.free()


class _Refused:
    __slots__ = ("_answer", "_answered", "_over", "_seen", "sock", "timer")

    def __init__(self, sock: socket.socket, answer: bytes, over: list[_Refused]) -> None:
        self.sock = sock
        self.timer: Timer | None = None
        self._answer = answer
        self._answered = False
        self._over = over
        self._seen = b""

    def handle(self, readable: bool, writable: bool) -> None:
        try:
            data = self.sock.recv(4096)
            if self._answered or not data:
                # Reading goes on, as unread bytes would make closing a reset, which destroys our
                # answer.
                if not data:
                    self.end()
                return
            self._seen += data[:ENOUGH]
            speaks = speaks_http(self._seen)
            if speaks:
                self._answered = True
                self.sock.send(answer_for(self._seen, self._answer))
                self.sock.shutdown(socket.SHUT_WR)
            elif speaks is False:
                self.end()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.end()

    def end(self) -> None:
        self._over.append(self)

    def handle_fault(self, error: BaseException) -> None:
        log.error("reset a refused client for a fault of wsraw itself", exc_info=error)
        self._answered = False
        self.end()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self._answered:
            self.sock.close()
        else:
            reset(self.sock)
