"""I/O. Names to addresses, off the loop: getaddrinfo always blocks. Other slow work goes there."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

THREADS: Final = 4
"""Names resolved at the same time; a slow name server holds up no more than its own."""

Address = tuple[int, Any]
"""Family and socket address."""

Answer = Callable[[list[Address], str], object]
"""Called with addresses, or none and the error's text."""

Job = Callable[[], tuple[Any, ...]]


class Resolver:
    """Looks names up in daemon threads, started when first needed."""

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._post = post
        self._jobs: queue.SimpleQueue[tuple[Job, Callable[..., object]]] = queue.SimpleQueue()
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
        self.call(partial(_resolve, host, port), answer)

    def call(self, job: Job, answer: Callable[..., object]) -> None:
        """Call `job` in a thread, and then `answer(*what it returned)` in the loop's. It must not
        raise."""
        self._waiting += 1
        if self._threads < min(THREADS, self._waiting):
            self._threads += 1
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        self._jobs.put((job, answer))

    def _work(self) -> None:
        while True:
            job, answer = self._jobs.get()
            self._post(partial(self._done, answer, job()))

    def _done(self, answer: Callable[..., object], result: tuple[Any, ...]) -> None:
        self._waiting -= 1
        answer(*result)


def _resolve(host: str, port: int) -> tuple[list[Address], str]:
    try:
        return _look_up(host, port, 0), ""
    except OSError as error:
        return [], f"cannot resolve {host!r}: {error.strerror or error}"
    except UnicodeError as error:
        return [], f"cannot resolve {host!r}: {error}"


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
