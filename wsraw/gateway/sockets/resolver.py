"""I/O. Threads that resolve names, because getaddrinfo blocks, and do other slow work.

A name whose server does not answer holds a thread for ten seconds and more, and nothing can stop
it. So that such names never starve others:

- an address, or `localhost`, never waits;
- connections to the same name share one look-up;
- a look-up that no connection waits for any more leaves the queue;
- a domain may begin a look-up only while it has fewer under way than there are threads left: the
  first bad domain gets half of all threads, the next one half of the rest.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from wsraw.runtime.loop import blame

THREADS: Final = 64
"""Look-ups in progress at the same time; each has a thread of its own."""

MOST_WAITING: Final = 10_000
"""Look-ups that may wait for a thread; further ones fail at once."""

Address = tuple[int, Any]
"""Family and socket address."""

Job = Callable[[], Any]
"""Runs in a thread. The text of an exception becomes the error's text."""

Done = Callable[[Any, str], object]
"""Called in the loop's thread with the job's result, or with None and the error's text."""


class LookUp:
    """A job, and the callbacks that wait for its result."""

    __slots__ = ("callbacks", "domain", "job", "key")

    def __init__(self, key: object, domain: str, job: Job) -> None:
        self.key = key
        self.domain = domain
        self.job = job
        self.callbacks: dict[Done, None] = {}


class Resolver:
    """Looks up names in daemon threads. All methods except `_work` run in the loop's thread."""

    def __init__(
        self, post: Callable[[Callable[[], object]], object], threads: int = THREADS
    ) -> None:
        """`threads` is the maximum; each look-up takes some descriptors."""
        self._post = post
        self._most = max(1, min(threads, THREADS))
        self._look_ups: dict[object, LookUp] = {}
        """Look-ups that wait or are in progress, by key."""
        self._waiting: dict[str, dict[LookUp, None]] = {}
        """Waiting look-ups by domain; the domain whose turn is next comes first."""
        self._under_way: Counter[str] = Counter()
        """Look-ups in progress of each domain."""
        self._busy = 0
        """Look-ups in progress of all domains."""

    @property
    def waiting(self) -> int:
        """The number of look-ups that have no thread yet."""
        return len(self._look_ups) - self._busy

    def resolve(self, host: str, port: int, done: Done) -> Callable[[], None]:
        """Call `done` with the addresses of a host; at once if no look-up is needed."""
        found = _known(host, port)
        if found is not None:
            done(found, "")
            return _nothing
        domain = ".".join(host.lower().rstrip(".").split(".")[-2:])
        return self.call((host, port), partial(_look_up, host, port, 0), done, domain)

    def call(self, key: object, job: Job, done: Done, domain: str = "") -> Callable[[], None]:
        """Call `job` in a thread, then `done` with its result in the loop's thread. Calls with the
        same key meanwhile share the result. Returns a function that cancels the call."""
        look_up = self._look_ups.get(key)
        if look_up is None:
            if self.waiting >= MOST_WAITING:
                done(None, "too many names wait to be resolved")
                return _nothing
            look_up = self._look_ups[key] = LookUp(key, domain, job)
            self._waiting.setdefault(domain, {})[look_up] = None
        look_up.callbacks[done] = None
        self._begin()
        return partial(self._forget, look_up, done)

    def _forget(self, look_up: LookUp, done: Done) -> None:
        look_up.callbacks.pop(done, None)
        waiting = self._waiting.get(look_up.domain, {})
        if not look_up.callbacks and look_up in waiting:
            del waiting[look_up]
            if not waiting:
                del self._waiting[look_up.domain]
            del self._look_ups[look_up.key]

    def _begin(self) -> None:
        """Start threads for the look-ups whose turn it is."""
        for domain in list(self._waiting) if self._busy < self._most else ():
            while domain in self._waiting and self._may_begin(domain):
                look_ups = self._waiting.pop(domain)
                look_up = next(iter(look_ups))
                del look_ups[look_up]
                if look_ups:
                    # Now it comes after all other domains.
                    self._waiting[domain] = look_ups
                self._under_way[domain] += 1
                self._busy += 1
                try:
                    threading.Thread(target=self._work, args=(look_up,), daemon=True).start()
                except (RuntimeError, OSError, MemoryError) as error:
                    self._post(partial(self._done, look_up, None, str(error)))

    def _may_begin(self, domain: str) -> bool:
        return self._under_way[domain] < self._most - self._busy

    def _work(self, look_up: LookUp) -> None:
        result, why = None, ""
        try:
            result = look_up.job()
        except Exception as error:
            # Whatever was raised, it is the result.
            why = explain(error)
        self._post(partial(self._done, look_up, result, why))

    def _done(self, look_up: LookUp, result: Any, why: str) -> None:
        self._busy -= 1
        self._under_way[look_up.domain] -= 1
        if not self._under_way[look_up.domain]:
            del self._under_way[look_up.domain]
        del self._look_ups[look_up.key]
        for done in list(look_up.callbacks):
            try:
                done(result, why)
            except Exception as error:
                # The other callbacks are still called.
                blame(done, error)
        self._begin()


def explain(error: Exception) -> str:
    """An exception of any kind, as a line for people."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _known(host: str, port: int) -> list[Address] | None:
    """The addresses of a host that needs no look-up; None if it needs one."""
    if host.lower().rstrip(".") == "localhost":
        # RFC 6761, section 6.3: `localhost` is always the loopback address.
        return [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        # It is a name, or an invalid one (RFC 5890: a label of more than 63 bytes): the look-up
        # reports that.
        return None


def _nothing() -> None:
    """Cancels nothing: the answer was there at once."""


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
