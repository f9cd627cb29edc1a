"""I/O. The non-blocking loop of gateway and supervisor: descriptors, timers, calls from threads.

The order of a turn: wait; call the handlers of ready descriptors, and `midway` if that takes long;
run the timers that are due; call before_sleep. Timers run after handlers, so that data that has
arrived counts before a deadline does.

Turns are short: handlers and timers have a time limit each, and the rest runs first in the next
turn.

`now` is the loop's clock, read once a turn. It does not advance while the process is suspended
(SIGSTOP, a closed laptop, an overloaded machine): otherwise all peers would seem silent afterwards.

An exception in a callback ends the owner of the callback (`owner_of`) and nothing else. A callback
without an owner belongs to the loop: its exception ends the loop.
"""

from __future__ import annotations

import heapq
import logging
import os
import selectors
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, cast

from wsraw.runtime.bell import Bell
from wsraw.runtime.clock import monotonic
from wsraw.runtime.selector import READ, WRITE, Selector, failed

log = logging.getLogger("wsraw.loop")

AWAY_AFTER: Final = 0.5
"""Seconds. If a wait or a turn takes this much longer than expected, the process was suspended."""

# Not Final: tests change it, which compiled code would not notice.
LONGEST_SLEEP = 1.0
"""Seconds; also the pause between two checks of paused sockets whose errors are not reported."""

MIDWAY_AFTER: Final = 0.0002
"""Seconds of a turn after which `midway` is called, so that workers on other cores start before all
is read. Without it throughput is a quarter lower; more often costs more than it gains."""

READ_TIME: Final = 0.0025
"""Seconds of a turn for handlers. Handlers that did not fit run first in the next turn, in order: a
hundred expensive ones must not delay all answers by a hundred milliseconds."""

TIMER_TIME: Final = 0.001
"""Seconds of a turn for timers. Timers of clients that connected together are due together."""

GIVE_WAY_EVERY: Final = 0.001
"""Seconds. Yielding more often would leave most of the core to other busy processes."""

TURN_TIME_ALLOWED: Final = 2.0
"""Seconds. In a turn that takes longer, the process was suspended."""


SHORT_TURN: Final = 0.001

TURN_BOUNDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)
"""Upper bounds, in seconds, by which the length of turns is counted; the first is SHORT_TURN."""

REPORT_ERRORS: Final = (
    getattr(selectors, "EpollSelector", ()),
    getattr(selectors, "PollSelector", ()),
)
"""Selectors that report an error of a descriptor whatever it is watched for."""


class Timer:
    """A callback at a time of the loop's clock; it can be cancelled, and runs at most once."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not run the callback. The loop drops the timer when it is due."""
        self.callback = None


class Turns:
    """The number of turns, and how long they took, without the time of waiting."""

    __slots__ = ("count", "long", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.long = [0] * len(TURN_BOUNDS)
        """Turns longer than each of TURN_BOUNDS, and not longer than the next one."""

    def count_long(self, seconds: float) -> None:
        """Count a turn that was longer than the first of TURN_BOUNDS."""
        self.long[bisect_left(TURN_BOUNDS, seconds) - 1] += 1


class CallbackOwner(Protocol):
    """An object that an exception in one of its callbacks ends."""

    def handle_fault(self, error: BaseException) -> None:
        """End the owner, in any state, and report the error. Not called again."""


def owner_of(callback: object) -> CallbackOwner | None:
    """The first part of a callback that has a method `handle_fault`, or None. Parts are the object
    of a method, and what a partial calls and passes."""
    if isinstance(callback, partial):
        for part in (callback.func, *callback.args):
            owner = owner_of(part)
            if owner is not None:
                return owner
        return None
    for part in (callback, getattr(callback, "__self__", None)):
        if hasattr(part, "handle_fault"):
            return cast(CallbackOwner, part)
    return None


def blame(callback: object, error: Exception) -> None:
    """End the owner of a callback that has raised. Raises the error if there is none."""
    owner = owner_of(callback)
    if owner is None:
        raise error
    try:
        owner.handle_fault(error)
    except Exception:
        log.exception("an error while another one was handled")


Handler = Callable[[bool, bool], object]
"""Called when a watched descriptor is readable, writable; nothing may be closed then."""

_yield: Callable[[], object] = getattr(os, "sched_yield", partial(time.sleep, 0))


class Loop:
    """A select loop. All methods belong to its own thread, except `call_soon_threadsafe`."""

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        selector: Callable[[], selectors.BaseSelector] = Selector,
    ) -> None:
        self.clock = clock
        self._away = 0.0
        self.now = self._seen = clock()
        self.before_sleep: Callable[[float], bool] | None = None
        """Called with `now` at the end of each turn; True: the next turn does not sleep."""
        self.midway: Callable[[float], object] = _nothing
        """Called with `now` between handlers, about every MIDWAY_AFTER seconds of a turn, to send
        on what was read so far. Nothing may be closed here."""
        self._selector = selector()
        self._reports_errors = isinstance(self._selector, REPORT_ERRORS)
        self._left: list[tuple[selectors.SelectorKey, int]] = []
        """Ready in an earlier turn and not handled yet."""
        self._times: list[float] = []
        """A heap of times; `_timers` has the timers of each. Thousands of idle connections share a
        few times, and a heap of their timers would cost more than their pings."""
        self._timers: dict[float, list[Timer]] = {}
        self._due: deque[Timer] = deque()
        self._calls: deque[Callable[[], object]] = deque()
        self._gives_way = False
        self._gave_way_at = 0.0
        self._running = False
        self.turns = Turns()
        self._bell = Bell()
        self._unreported: dict[Any, Handler] = {}
        """Paused descriptors whose errors the selector does not report."""
        self.watch(self._bell.reader, self._handle_wake, read=True)

    # --- descriptors ---

    def watch(
        self, fileobj: Any, handler: Handler, *, read: bool = False, write: bool = False
    ) -> None:
        """Call handler(readable, writable) when ready. Call again to change the interest.

        If neither is wanted, the handler is called with (False, False) once the peer has reset the
        connection: at once where the system reports that anyway (epoll and poll), else within a
        second. Raises OSError or ValueError for a bad descriptor.
        """
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        selector = self._selector
        if not events and not self._reports_errors:
            self.unwatch(fileobj)
            if not self._unreported:
                self.call_later(LONGEST_SLEEP, self._look_for_errors)
            self._unreported[fileobj] = handler
            return
        self._unreported.pop(fileobj, None)
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        # The KeyError of `modify` would format the socket, which takes three system calls.
        if selector.get_map().get(descriptor) is None:
            selector.register(fileobj, events or selectors.EVENT_READ, handler)
            if events:
                return
            # `register` refuses to watch for nothing, `modify` does not.
        selector.modify(fileobj, events, handler)

    def unwatch(self, fileobj: Any) -> None:
        """Stop watching a descriptor, before it is closed. Unknown ones are ignored."""
        self._unreported.pop(fileobj, None)
        try:
            self._selector.unregister(fileobj)
        except KeyError:
            pass

    def _look_for_errors(self) -> None:
        """For select and kqueue: ask the paused sockets for errors, once a second."""
        for sock in failed(self._unreported):
            handler = self._unreported.get(sock, _nothing)
            try:
                handler(False, False)
            except Exception as error:
                blame(handler, error)
        if self._unreported:
            self.call_later(LONGEST_SLEEP, self._look_for_errors)

    # --- time and calls ---

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Run callback in the first turn in which `now` has reached `when`."""
        timer = Timer(callback)
        timers = self._timers.get(when)
        if timers is None:
            self._timers[when] = [timer]
            heapq.heappush(self._times, when)
        else:
            timers.append(timer)
        return timer

    def wake_at(self, when: float) -> None:
        """Take a turn at that time or earlier, for work that before_sleep finds."""
        self.call_at(when, _nothing)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return self.call_at(self.now + delay, callback)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        """Run callback in the next turn, and wake the loop; for threads and signal handlers."""
        self._calls.append(callback)
        self._bell.ring()

    def _handle_wake(self, readable: bool, writable: bool) -> None:
        self._bell.quiet()

    @property
    def has_calls(self) -> bool:
        """Whether calls of threads or signals wait for the next turn."""
        return bool(self._calls)

    def give_way(self) -> None:
        """Yield the core before the next turn, unless that was just done. For turns that do a part
        of a large piece of work: otherwise a process that our output wakes may wait milliseconds
        for the core."""
        self._gives_way = True

    # --- turns ---

    @property
    def is_behind(self) -> bool:
        """Whether handlers are left from an earlier turn, which run before anything is polled."""
        return bool(self._left)

    def run(self) -> None:
        """Take turns until `stop`. Raises the exceptions of callbacks without an owner."""
        self._running = True
        may_sleep = True
        while self._running:
            may_sleep = self.turn(may_sleep)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def turn(self, may_sleep: bool = True) -> bool:
        """One turn; returns whether the next one may sleep. For `run`, and for tests."""
        # No time passes between two turns, unless the process is suspended.
        before = self._skip_absence(self._seen)
        timeout = self._timeout(before) if may_sleep and not self._left else 0.0
        if self._gives_way:
            self._gives_way = False
            if before - self._gave_way_at > GIVE_WAY_EVERY:
                self._gave_way_at = before
                _yield()
        ready = iter(self._still_ready() if self._left else self._selector.select(timeout))
        self.now = now = self._skip_absence(before + timeout)
        clock = self.clock
        since = clock()
        until = since + READ_TIME
        handler: Handler | None = None
        try:
            for key, mask in ready:
                # Handlers close nothing: another key of this turn may be for the same thing.
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
            # The remaining ones run in the next turn.
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
        turns, took = self.turns, self._seen - now
        turns.count += 1
        turns.seconds += took
        if took > SHORT_TURN:
            turns.count_long(took)
        return not (busy or self._left)

    def _still_ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Events that an earlier turn has left, without descriptors that were closed or are watched
        differently since: these have new keys, and the selector will report them again."""
        left, self._left = self._left, []
        keys = self._selector.get_map()
        return [each for each in left if keys.get(each[0].fd) is each[0]]

    def _skip_absence(self, expected: float) -> float:
        """The loop's clock. If it is more than AWAY_AFTER later than `expected`, the process was
        suspended: then the excess does not count."""
        now = self.clock() - self._away
        if now > expected + AWAY_AFTER:
            self._away += now - expected
            now = expected
        return now

    def _timeout(self, now: float) -> float:
        if self._calls or self._due:
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
        times, due = self._times, self._due
        while times and times[0] <= now:
            due.extend(self._timers.pop(heapq.heappop(times)))
        if not due:
            return
        until = self.clock() + TIMER_TIME
        while due and self.clock() <= until:
            timer = due.popleft()
            callback, timer.callback = timer.callback, None
            if callback is not None:
                try:
                    callback()
                except Exception as error:
                    blame(callback, error)

    def skip(self) -> None:
        """Do not count the time since this turn began: the process did something else."""
        self._away = self.clock() - self.now
        self._seen = self.now

    def close(self) -> None:
        self._selector.close()
        self._bell.close()


def _nothing(*_: float) -> None:
    """A timer that only ends the wait; also the default of `midway`."""
