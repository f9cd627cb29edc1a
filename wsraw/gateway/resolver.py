"""I/O. Names to addresses, off the loop: getaddrinfo is the one call that always blocks."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

THREADS: Final = 4
"""Names resolved at the same time; a slow name server holds up no more than its own."""

Address = tuple[int, Any]
"""Family and socket address."""

Answer = Callable[[list[Address], str], object]
"""Called with addresses, or none and the error's text."""


class Resolver:
    """Looks names up in daemon threads, started when first needed."""

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._post = post
        self._jobs: queue.SimpleQueue[tuple[str, int, Answer]] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0

    def resolve(self, host: str, port: int, answer: Answer) -> None:
        """Call `answer` in the loop's thread; at once when `host` is an address already."""
        try:
            found = _look_up(host, port, socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            # No address. A name that cannot be (RFC 5890: a label of 64 bytes) is told below.
            pass
        else:
            answer(found, "")
            return
        self._waiting += 1
        if self._threads < min(THREADS, self._waiting):
            self._threads += 1
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        self._jobs.put((host, port, answer))

    def _work(self) -> None:
        while True:
            host, port, answer = self._jobs.get()
            found: list[Address] = []
            why = ""
            try:
                found = _look_up(host, port, 0)
            except OSError as error:
                why = f"cannot resolve {host!r}: {error.strerror or error}"
            except UnicodeError as error:
                why = f"cannot resolve {host!r}: {error}"
            self._post(lambda a=answer, f=found, w=why: self._done(a, f, w))  # type: ignore[misc]

    def _done(self, answer: Answer, found: list[Address], why: str) -> None:
        self._waiting -= 1
        answer(found, why)


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
