"""I/O. One non-blocking loop: selectors, timers, before_sleep. It knows nothing of wsraw.

One turn, one order: wait; handle what is readable or writable, with `midway` in between where that
takes long; run the timers that are due; before_sleep. Timers come after reading on purpose: what
has already arrived must be seen before a deadline is judged.

A turn is short, whoever wants what: handlers and timers have a share of it each, and what is left
then comes first in the next one.

`now` is the loop's clock. It is taken once a turn, and it stands still while the process itself did
(SIGSTOP, a laptop's lid, a starved machine): a process that was away for 40 seconds must not
conclude that everybody else was.

What a callback raises ends the one whose callback it is (`owner_of`), and nobody else. A callback
without an owner is the loop's own: what that raises ends the loop.
"""

from __future__ import annotations

import heapq
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from wsraw.runtime.selector import READ, WRITE, Selector

log = logging.getLogger("wsraw.loop")

AWAY_AFTER: Final = 0.5
"""A wait or a turn that took so many seconds more than it should is time the process was away."""

# Not Final, as compiled code would not see that tests have changed it.
LONGEST_SLEEP = 1.0
"""Seconds; also how often connections that the platform cannot watch for errors are looked at."""

MIDWAY_AFTER: Final = 0.0002
"""Seconds of reading after which `midway` is called. Others, on other cores, have begun to work by
the time that all is read: without it everybody waits for everybody in turn, which costs a quarter
of the messages a second. More often would cost more than it gains."""

READ_TIME: Final = 0.0025
"""Seconds of a turn for handlers. Those that were ready and had no turn come in the next ones, in
their order and before anybody is asked again: a hundred that are dear must not make one turn of a
hundred milliseconds, in which nobody is answered."""

TIMER_TIME: Final = 0.001
"""Seconds of a turn for timers. Many who came at once are due at once, too."""

GIVE_WAY_EVERY: Final = 0.001
"""Seconds; more often would give most of the core to whoever else is busy on this machine."""

TURN_TIME_ALLOWED: Final = 2.0
"""A turn that works longer than this (seconds) was stopped, not busy."""


class Timer:
    """A callback at a time of the loop's clock; it can be cancelled, and runs at most once."""

    __slots__ = ("callback", "order", "when")

    def __init__(self, when: float, order: int, callback: Callable[[], object]) -> None:
        self.when = when
        self.order = order
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Never run. The loop forgets it when its time comes."""
        self.callback = None


def owner_of(callback: object) -> Any:
    """Whose callback it is: the first of its parts (the object of a method; what a partial calls,
    and its arguments) that has a method `handle_fault`, or None.

    That one ends, whatever state it is in, and tells of the error; it is not called again.
    """
    if isinstance(callback, partial):
        for part in (callback.func, *callback.args):
            owner = owner_of(part)
            if owner is not None:
                return owner
        return None
    for part in (callback, getattr(callback, "__self__", None)):
        if hasattr(part, "handle_fault"):
            return part
    return None


def blame(callback: object, error: Exception) -> None:
    """A callback has raised: its owner ends for that. Raises the error where there is none."""
    owner = owner_of(callback)
    if owner is None:
        raise error
    try:
        owner.handle_fault(error)
    except Exception:
        log.exception("an error while another one was handled")


class Handler(Protocol):
    """What is called when a watched descriptor is ready."""

    def __call__(self, readable: bool, writable: bool) -> object:
        """The descriptor is ready; nothing may be closed here."""


def _sleep_for_nothing() -> None:
    """On Windows it gives the rest of our time slice away."""
    time.sleep(0)


_yield: Callable[[], object] = getattr(os, "sched_yield", _sleep_for_nothing)


class Loop:
    """A select loop. All methods belong to its own thread, except `call_soon_threadsafe`."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        selector: Callable[[], selectors.BaseSelector] = Selector,
    ) -> None:
        self._clock = clock
        self._away = 0.0
        self.now = self._seen = clock()
        self.before_sleep: Callable[[float], bool] | None = None
        """Called at the end of each turn with `now`; True forbids to sleep in the next wait."""
        self.midway: Callable[[float], object] = _nothing_at
        """Called with `now` between two handlers, about every MIDWAY_AFTER seconds of a turn: what
        was read so far can go on its way. Nothing may be closed here."""
        self._selector = selector()
        self._left: list[tuple[selectors.SelectorKey, int]] = []
        """Ready in an earlier turn, and not handled yet."""
        self._times: list[float] = []
        """A heap of times; the timers of each are in `_timers`. Thousands of idle connections have
        few times among them, and a heap of their timers would cost more than their pings."""
        self._timers: dict[float, list[Timer]] = {}
        self._order = 0
        self._calls: deque[Callable[[], object]] = deque()
        self._gives_way = False
        self._gave_way_at = 0.0
        self._running = False
        self._deaf: dict[Any, Handler] = {}
        self._look_timer: Timer | None = None
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        self.watch(self._wakened, self._handle_wake, read=True)

    # --- descriptors ---

    def watch(
        self, fileobj: Any, handler: Handler, *, read: bool = False, write: bool = False
    ) -> None:
        """Call handler(readable, writable) when ready. Call again to change the interest.

        With neither, the descriptor is watched for errors alone: the handler is called with
        readable=True when the peer is gone. Raises OSError or ValueError for a bad descriptor.
        """
        if self._deaf.pop(fileobj, None) is not None:
            # With epoll the selector believes that it reads; it would not tell epoll to do so.
            self.unwatch(fileobj)
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not events:
            self._watch_for_errors(fileobj, handler)
            return
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        # Asked by its number: the error of `modify` shows the socket, which is three system calls.
        if self._selector.get_map().get(descriptor) is None:
            self._selector.register(fileobj, events, handler)
        else:
            self._selector.modify(fileobj, events, handler)

    def unwatch(self, fileobj: Any) -> None:
        """Forget a descriptor; must come before it is closed. Unknown ones are fine."""
        self._deaf.pop(fileobj, None)
        try:
            self._selector.unregister(fileobj)
        except KeyError:
            pass

    def _watch_for_errors(self, fileobj: Any, handler: Handler) -> None:
        """The one place that knows how to hear only a reset: selectors refuses events = 0."""
        epoll = getattr(self._selector, "_selector", None)
        if isinstance(self._selector, getattr(selectors, "EpollSelector", ())) and epoll:
            # epoll always reports EPOLLERR and EPOLLHUP, asked for or not (epoll_ctl(2)); the
            # selector keeps the key, so that the event finds its handler.
            self.watch(fileobj, handler, read=True)
            epoll.modify(fileobj.fileno() if hasattr(fileobj, "fileno") else fileobj, 0)
            self._deaf[fileobj] = handler
            return
        try:
            self._selector.unregister(fileobj)
        except KeyError:
            pass
        self._deaf[fileobj] = handler
        if self._look_timer is None:
            self._look_timer = self.call_at(self.now + LONGEST_SLEEP, self._look_at_deaf)

    def _look_at_deaf(self) -> None:
        """kqueue, poll and select: once a second, ask each for its pending error."""
        self._look_timer = None
        for fileobj, handler in list(self._deaf.items()):
            try:
                if fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    handler(True, False)
            except Exception as error:
                blame(handler, error)
        if self._deaf:
            self._look_timer = self.call_at(self.now + LONGEST_SLEEP, self._look_at_deaf)

    # --- time and calls ---

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Run callback in the first turn in which `now` has reached `when`."""
        self._order += 1
        timer = Timer(when, self._order, callback)
        timers = self._timers.get(when)
        if timers is None:
            self._timers[when] = [timer]
            heapq.heappush(self._times, when)
        else:
            timers.append(timer)
        return timer

    def wake_at(self, when: float) -> None:
        """Take a turn then, at the latest; what there is to do, before_sleep finds."""
        self.call_at(when, _nothing)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run callback in `delay` seconds."""
        return self.call_at(self.now + delay, callback)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        """Run callback in the next turn, and wake the loop; for threads and signal handlers."""
        self._calls.append(callback)
        try:
            self._waker.send(b"\0")
        except (BlockingIOError, OSError):
            # Full: a wake-up is already on its way. Closed: the loop is over.
            pass

    def _handle_wake(self, readable: bool, writable: bool) -> None:
        try:
            while self._wakened.recv(4096):
                pass
        except BlockingIOError:
            pass

    def give_way(self) -> None:
        """Let other processes of this machine run before the next turn, should one wait for our
        core, unless that was just done: for turns that do a share of somebody's large work. Else
        who is woken by what we send can wait for milliseconds until the core is taken from us."""
        self._gives_way = True

    # --- turns ---

    @property
    def is_behind(self) -> bool:
        """Who was ready did not all have a turn: until they have, nobody else is asked."""
        return bool(self._left)

    def run(self) -> None:
        """Take turns until `stop`. Raises what a callback without an owner raises."""
        self._running = True
        may_sleep = True
        while self._running:
            may_sleep = self.turn(may_sleep)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def turn(self, may_sleep: bool = True) -> bool:
        """One turn; returns whether the next one may sleep. For `run`, and for tests."""
        # Between two turns passes no time: what did was absence.
        before = self._skip_absence(self._seen)
        timeout = self._timeout(before) if may_sleep and not self._left else 0.0
        if self._gives_way:
            self._gives_way = False
            if before - self._gave_way_at > GIVE_WAY_EVERY:
                self._gave_way_at = before
                _yield()
        ready = iter(self._still_ready() if self._left else self._selector.select(timeout))
        self.now = now = self._skip_absence(before + timeout)
        clock = self._clock
        since = clock()
        until = since + READ_TIME
        handler: Any = None
        try:
            for key, mask in ready:
                # A handler must not close what another key of this turn stands for: before_sleep
                # does.
                handler = key.data
                if mask == READ:
                    handler(True, False)
                else:
                    handler((mask & READ) != 0, (mask & WRITE) != 0)
                if clock() - since > MIDWAY_AFTER:
                    handler = None
                    self.midway(now)
                    since = clock()
                    if since > until:
                        self._left = list(ready)
                        break
        except Exception as error:
            # The others have their turn in the next one.
            self._left = list(ready)
            blame(handler, error)
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:
                blame(call, error)
        self._run_timers(now)
        busy = self.before_sleep(now) if self.before_sleep is not None else False
        self._seen = self._skip_absence(now + TURN_TIME_ALLOWED)
        return not (busy or self._left)

    def _still_ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        """What an earlier turn has left, but for those that have been closed or want something else
        since: their keys are others now, and the selector will tell of them again."""
        left, self._left = self._left, []
        keys = self._selector.get_map()
        return [
            each
            for each in left
            if keys.get(each[0].fd) is each[0] and each[0].fileobj not in self._deaf
        ]

    def _skip_absence(self, expected: float) -> float:
        """The loop's clock now, less what it is later than `expected` beyond doubt."""
        now = self._clock() - self._away
        if now > expected + AWAY_AFTER:
            self._away += now - expected
            now = expected
        return now

    def _timeout(self, now: float) -> float:
        if self._calls:
            return 0.0
        times = self._times
        while times:
            timers = self._timers[times[0]]
            while timers and timers[-1].callback is None:
                timers.pop()
            if timers:
                return min(LONGEST_SLEEP, max(0.0, times[0] - now))
            del self._timers[heapq.heappop(times)]
        return LONGEST_SLEEP

    def _run_timers(self, now: float) -> None:
        times = self._times
        if not times or times[0] > now:
            return
        # Those that are set meanwhile are for the next turn.
        last = self._order
        until = self._clock() + TIMER_TIME
        while times and times[0] <= now:
            when = heapq.heappop(times)
            timers = self._timers.pop(when)
            for index, timer in enumerate(timers):
                if timer.order > last or self._clock() > until:
                    self._put_back(when, timers[index:])
                    return
                callback, timer.callback = timer.callback, None
                if callback is not None:
                    try:
                        callback()
                    except Exception as error:
                        # Should the loop end for it: the others are not lost to who runs it again.
                        self._put_back(when, timers[index + 1 :])
                        blame(callback, error)
                        return

    def _put_back(self, when: float, timers: list[Timer]) -> None:
        """They were due, and are so still: before those of that time that were set meanwhile."""
        if not timers:
            return
        later = self._timers.get(when)
        if later is None:
            heapq.heappush(self._times, when)
        self._timers[when] = timers + (later or [])

    def close(self) -> None:
        """Free the selector and the waker. The loop is over."""
        self._selector.close()
        self._waker.close()
        self._wakened.close()


def _nothing() -> None:
    """A timer that only ends the wait."""


def _nothing_at(now: float) -> None:
    """Nobody waits for a part of what a turn reads."""
