"""I/O. Names are resolved, and other slow work is done, in threads: getaddrinfo always blocks.

A name whose server does not answer holds a thread for ten seconds and more, and nothing can stop
it. So that such names never starve others:

- an address, or `localhost`, never waits;
- connections to the same name share one look-up;
- a look-up that nobody waits for any more leaves the queue;
- a domain may begin a look-up only while it has fewer under way than there are threads left: the
  first bad domain gets half of all threads, the next one half of the rest.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from wsraw.runtime.loop import blame

THREADS: Final = 64
"""Look-ups under way at the same time. A thread is started if no other one is idle."""

IDLE_THREADS: Final = 4
"""Threads that are kept while there is nothing to do."""

MOST_WAITING: Final = 10_000
"""Look-ups that wait for a thread; with more, the next one fails at once."""

Address = tuple[int, Any]
"""Family and socket address."""

Answer = Callable[[list[Address], str], object]
"""Called with the addresses, or with none and the error's text."""

Job = Callable[[], Any]
"""Runs in a thread. What it raises becomes the error's text."""

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
    """Looks names up in daemon threads. All but `_work` runs in the loop's thread."""

    def __init__(
        self, post: Callable[[Callable[[], object]], object], threads: int = THREADS
    ) -> None:
        """`threads` is the most that may run; each look-up takes some descriptors."""
        self._post = post
        self._most = max(1, min(threads, THREADS))
        self._jobs: queue.SimpleQueue[LookUp | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._look_ups: dict[object, LookUp] = {}
        """Waiting or under way, by their key."""
        self._waiting: dict[str, dict[LookUp, None]] = {}
        """Waiting, by domain; the domain whose turn is next comes first."""
        self._under_way: dict[str, int] = {}
        """The number of each domain."""
        self._busy = 0
        """The number of all domains."""

    @property
    def waiting(self) -> int:
        """The number of look-ups that have no thread yet."""
        return len(self._look_ups) - self._busy

    def resolve(self, host: str, port: int, answer: Answer) -> Callable[[], None]:
        """Call `answer` in the loop's thread; at once if no look-up is needed. Returns a function
        that cancels the call."""
        found = _known(host, port)
        if found is not None:
            answer(found, "")
            return _nothing

        done = partial(_pass_on, host, answer)
        domain = ".".join(host.lower().rstrip(".").split(".")[-2:])
        return self._ask((host, port), domain, partial(_look_up, host, port, 0), done)

    def call(self, key: object, job: Job, done: Done) -> Callable[[], None]:
        """Call `job` in a thread, then `done` with its result in the loop's thread. Calls with the
        same key meanwhile share the result. Returns a function that cancels the call."""
        return self._ask(key, "", job, done)

    def _ask(self, key: object, domain: str, job: Job, done: Done) -> Callable[[], None]:
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
        """Give threads to the look-ups whose turn it is."""
        for domain in list(self._waiting) if self._busy < self._most else ():
            while domain in self._waiting and self._may_begin(domain):
                if not self._idle and not self._start_thread():
                    return
                look_ups = self._waiting.pop(domain)
                look_up = next(iter(look_ups))
                del look_ups[look_up]
                if look_ups:
                    # Now it is behind all other domains.
                    self._waiting[domain] = look_ups
                self._under_way[domain] = self._under_way.get(domain, 0) + 1
                self._busy += 1
                self._idle -= 1
                self._jobs.put(look_up)

    def _may_begin(self, domain: str) -> bool:
        return self._under_way.get(domain, 0) < self._most - self._busy

    def _start_thread(self) -> bool:
        """Start one more, if the system allows it. If it has none at all, all waiting look-ups
        fail: nobody would do them."""
        try:
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        except (RuntimeError, OSError, MemoryError) as error:
            if not self._threads:
                waiting, self._waiting = self._waiting, {}
                for look_ups in waiting.values():
                    for look_up in look_ups:
                        self._answer(look_up, None, str(error))
            return False
        self._threads += 1
        self._idle += 1
        return True

    def _work(self) -> None:
        while (look_up := self._jobs.get()) is not None:
            result, why = None, ""
            try:
                result = look_up.job()
            except Exception as error:
                # Whatever it is, it is the result.
                why = explain(error)
            self._post(partial(self._done, look_up, result, why))

    def _done(self, look_up: LookUp, result: Any, why: str) -> None:
        self._idle += 1
        self._busy -= 1
        left = self._under_way[look_up.domain] - 1
        if left:
            self._under_way[look_up.domain] = left
        else:
            del self._under_way[look_up.domain]
        self._answer(look_up, result, why)
        self._begin()
        if self._idle > IDLE_THREADS:
            self._idle -= 1
            self._threads -= 1
            self._jobs.put(None)

    def _answer(self, look_up: LookUp, result: Any, why: str) -> None:
        del self._look_ups[look_up.key]
        for done in list(look_up.callbacks):
            try:
                done(result, why)
            except Exception as error:
                # The other callbacks are still called.
                blame(done, error)


def explain(error: Exception) -> str:
    """An exception of any kind, as a line for people."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _known(host: str, port: int) -> list[Address] | None:
    """The addresses of a host that needs no look-up; None: it needs one."""
    if host.lower().rstrip(".") == "localhost":
        # RFC 6761, section 6.3: it is always the loopback address.
        return [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        # It is a name, or an invalid one (RFC 5890: a label of 64 bytes): the look-up says so.
        return None


def _pass_on(host: str, answer: Answer, addresses: list[Address] | None, why: str) -> None:
    answer(addresses or [], why and f"cannot resolve {host!r}: {why}")


def _nothing() -> None:
    """There is nothing to cancel: the answer was there at once."""


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
