"""I/O. Async handlers on an asyncio loop: many connections, one event of each at a time."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import math
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from wsraw.link.records import STATS_EVERY, Event, OnMessage
from wsraw.runtime.clock import monotonic
from wsraw.runtime.selector import Selector
from wsraw.workers.connection import Connection
from wsraw.workers.loading.handlers import IntervalTimer, start_timers
from wsraw.workers.reporting.handler_times import NAMES
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells import fork
from wsraw.workers.shells.dealer import Dealer
from wsraw.workers.shells.shell import LAST_BATCH, SEND_AFTER, Shell, Stopper

BATCHES_PER_TURN: Final = 16
"""Batches received before other callbacks of the loop run."""

MOST_TIMES: Final = 10_000
"""Times of calls that are kept before they are counted."""

STARTS_AT_ONCE: Final = sys.version_info >= (3, 12)
"""Whether tasks take their first step when they are made (eager tasks), and not in the loop's next
turn."""

RETRY_LAST: Final = 0.05
"""Seconds between two attempts to send the last batch."""


class _Times:
    """The times of calls, with one look at the clock for each."""

    __slots__ = ("done_at", "done_run", "run", "took")

    def __init__(self) -> None:
        self.took: list[float] = []
        """Seconds that calls of on_message have taken; counted in bulk, because that is faster."""
        self.run = 0
        """The number of the last run of `_start_events`."""
        self.done_run = 0
        self.done_at = 0.0
        """The run of the last event, and when that event was done: then the next event of that run
        begins. The run is 0 if this is not known, because an event is waiting."""


class AsyncioShell(Shell):
    """Callbacks of one loop: readable → events → tasks → send.

    With those of `Shell`, the class has more than 20 attributes, because each turn needs most of
    them: parts would cost look-ups.
    """

    def __init__(
        self, runtime: Runtime, dealer: Dealer, stopper: Stopper, concurrency: int
    ) -> None:
        super().__init__(runtime, dealer, stopper)
        self._concurrency = concurrency
        self._running = 0
        self._tasks: dict[
            asyncio.Task[object], tuple[list[bool], Callable[..., Any], tuple[Any, ...]]
        ] = {}
        """Strong references, because the loop has only weak ones; whether each task has taken its
        first step (then the list is not empty), and what the task was started with."""
        self._background: set[asyncio.Task[object]] = set()
        """Tasks of call_soon, which are cancelled at the end."""
        self._started = False
        self._starting = False
        self._advancing = False
        self._send_due = False
        self._tells_times = False
        self._times = _Times()
        self._is_cancelling = False
        """Whether we are cancelling tasks ourselves."""
        self._owns_loop = False
        """Whether this process has no surrounding program, which could cancel tasks of the loop,
        and to which a KeyboardInterrupt would belong."""
        self._is_closed = False
        """Whether we have left the loop; then scheduled callbacks do nothing."""
        self._unsent: bytes | None = None
        self._timers: dict[IntervalTimer, asyncio.TimerHandle] = {}
        self.turned: Callable[[], object] = lambda: None
        """Called when something was received or sent."""
        self._context: contextvars.Context
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event

    def run(self) -> int:
        """Serve until the gateway or a signal ends it. Returns the exit code."""
        fork.in_child(self._end_fork)
        self._owns_loop = True
        run(self.serve(), self.runtime.escaped)
        self.dealer.close(after_bye=True)
        return self.exit_code()

    def _end_fork(self) -> None:
        """End a forked child whose handler awaits, because it shares this loop's descriptors."""
        self._is_closed = True
        self._loop.call_soon(fork.end, None)

    async def serve(self) -> None:
        """Serve in the running loop. The caller closes the dealer."""
        loop = self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._over = asyncio.Event()
        self.runtime.output_ready = self._schedule_send
        self.runtime.send_now = self._send
        self.runtime.times.clock = monotonic
        self.runtime.times.urgent = self._hurry
        self.runtime.passes = self._passes
        self.runtime.cancel = self._cancel
        bell = self.dealer.bell
        loop.add_reader(bell.reader, self._handle_bell)
        self.dealer.attach(loop, self._handle_readable)
        self._look()
        try:
            await self._until_over()
        finally:
            # The loop may continue, and the descriptors are about to be closed.
            self._is_closed = self._is_cancelling = True
            for handle in self._timers.values():
                handle.cancel()
            self.dealer.detach()
            loop.remove_reader(bell.reader)

    def _look(self) -> None:
        seconds = math.inf if self._is_closed else self.look_if_alone()
        if seconds < math.inf:
            self._loop.call_later(seconds, self._look)

    async def _until_over(self) -> None:
        loop = self._loop
        self._handle_readable()
        while not self._over.is_set():
            try:
                await self._over.wait()
            except asyncio.CancelledError as error:
                if not self._owns_loop:
                    raise
                # A handler has cancelled all tasks of the loop.
                self.runtime.escaped("the worker's own task", error)
        await self._cancel_background()
        on_stop = self.runtime.handlers.on_stop
        if on_stop is not None and self._started and not self.failed:
            await self.runtime.call_async("on_stop", on_stop)
        self.runtime.times.messages(self._times.took)
        self._tell_times()
        self.runtime.bye()
        give_up = loop.time() + LAST_BATCH
        self._send()
        while self._unsent is not None and loop.time() < give_up:
            if self.stop_if_abandoned():
                break
            await asyncio.sleep(RETRY_LAST)
            self._send()

    @property
    def has_unsent(self) -> bool:
        """Whether there is data that the gateway has not taken yet."""
        return self._send_due or self._unsent is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being handled, queued or unsent."""
        return not (self._tasks or self.has_unsent or self.runtime.queue or self.stopper.calls)

    # --- in ---

    def _handle_bell(self) -> None:
        self.dealer.bell.quiet()
        self.stop_if_abandoned()
        calls = self.stopper.calls
        for _ in range(len(calls)):
            function, args = calls.popleft()
            self._spawn(self._call_soon, function, *args, is_background=True)
        self._end_if_over()

    def _handle_readable(self) -> None:
        if self._is_closed:
            return
        for _ in range(BATCHES_PER_TURN):
            batch = self.dealer.receive()
            if batch is None:
                if self.dealer.is_lost:
                    self._lost()
                break
            self.runtime.receive(batch)
            if not self._tells_times:
                self._tell_later()
            elif len(self._times.took) > MOST_TIMES:
                self.runtime.times.messages(self._times.took)
        else:
            self._loop.call_soon(self._handle_readable)
        # Send what was handled here now: another turn of the loop would cost one more system call.
        self._send_due = True
        self._advance()
        self._send()

    def _advance(self) -> None:
        """Start on_start or queued events, as far as possible."""
        if not self._started and not self._starting and self.runtime.is_ready:
            self._starting = True
            self._spawn(self._start)
        if self._started and not self._advancing:
            # An eager task may end and call this before its start returns.
            self._advancing = True
            self._start_events()
            self._advancing = False
        self._end_if_over()

    async def _start(self, begun: list[bool]) -> None:
        begun.append(True)
        on_start = self.runtime.handlers.on_start
        if on_start is not None:
            self.failed = not await self.runtime.call_async("on_start", on_start)
            self._started_well()
        self._started = True
        for timer in start_timers(self._loop.time()):
            self._arm(timer)
        self._loop.call_soon(self._advance)

    def _start_events(self) -> None:
        runtime = self.runtime
        queue, meet, awaited = runtime.queue, runtime.meet, runtime.awaited
        clock, stopper = monotonic, self.stopper
        times = self._times
        now = times.done_at = clock()
        send_by = now + SEND_AFTER
        times.run += 1
        run = times.run
        times.done_run = run if STARTS_AT_ONCE else 0
        tasks_made = False
        while (
            queue
            and self._running < self._concurrency
            and self._unsent is None
            and not (stopper.asked or self.failed)
        ):
            event = queue.popleft()
            runtime.taken = event.seq
            con = meet(event.con)
            if con._waiting is not None:
                con._waiting.append(event)
                continue
            kind = type(event)
            if kind in awaited:
                con._waiting = deque()
                self._running += 1
                number = run if kind is OnMessage else 0
                self._spawn(self._serve, con, event, runtime.link.session, number)
                if not STARTS_AT_ONCE:
                    tasks_made = True
                    continue
                if times.done_run == run:
                    now = times.done_at
                else:
                    # It waits, and the next event is started now.
                    now = times.done_at = clock()
                    times.done_run = run
            else:
                began = clock() if tasks_made else now
                runtime.handle(event)
                now = times.done_at = clock()
                tasks_made = False
                if kind is OnMessage:
                    times.took.append(now - began)
                # The event need not come from a batch just received, so schedule it here.
                if not self._send_due:
                    self._schedule_send()
            # An async handler that never waits takes its time here, too.
            if now >= send_by:
                self._send()
                self._loop.call_soon(self._advance)
                return

    async def _serve(
        self, begun: list[bool], con: Connection, event: Event, session: int, run: int
    ) -> None:
        """Handle one event, then start a task for the connection's next one. `run`: the run of a
        message from `_start_events`, else 0."""
        begun.append(True)
        if session == self.runtime.link.session:
            times = self._times
            if run:
                # The clock is read once for each message: the tasks of a run take their first steps
                # one right after the other.
                began = times.done_at if run == times.done_run else monotonic()
                times.done_run = 0
                await self.runtime.handle_async(event)
                now = times.done_at = monotonic()
                times.done_run = run
                times.took.append(now - began)
            else:
                times.done_run = 0
                began = monotonic()
                await self.runtime.handle_async(event)
                if self.runtime.has_handler(con, event):
                    self.runtime.times.called(NAMES[type(event)], monotonic() - began)
        # Otherwise its session has ended before this task began, and the event is no longer ours.
        if not self._send_due:
            self._schedule_send()
        waiting = con._waiting
        if waiting and self._unsent is not None:
            # In `_start_events`, events wait until the gateway has taken the batch.
            self.runtime.queue.extendleft(reversed(waiting))
        elif waiting and not self._is_stopping():
            session = self.runtime.link.session
            self._spawn(self._serve, con, waiting.popleft(), session, 0, is_nested=True)
            return
        con._waiting = None
        self._running -= 1
        if self.runtime.queue and not self._advancing:
            self._loop.call_soon(self._advance)

    def _lost(self) -> None:
        super()._lost()
        self._unsent = None

    # --- tasks ---

    def _spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        is_nested: bool = False,
        is_background: bool = False,
    ) -> None:
        begun: list[bool] = []
        coroutine = function(begun, *args)
        # Handlers do not share context variables.
        context = self._context.copy()
        if sys.version_info >= (3, 12) and not is_nested:
            # Most handlers return without waiting, and then need no turn of the loop. Not when
            # nested, as a long queue would become a deep stack.
            task = asyncio.Task(coroutine, loop=self._loop, context=context, eager_start=True)
        else:
            task = self._loop.create_task(coroutine, context=context)
        if task.done():
            return
        if is_background:
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        else:
            self._tasks[task] = begun, function, args
            task.add_done_callback(self._release)

    def _release(self, task: asyncio.Task[object]) -> None:
        begun, function, args = self._tasks.pop(task)
        if task.cancelled() and not (begun or self._is_cancelling or self._is_closed):
            # Handlers may cancel any task. This one was cancelled before its first step, where
            # nothing catches it: its event or timer is started again. (A task that was cancelled in
            # its last step, by its own handler, has done everything.)
            self._spawn(function, *args)
            return
        if not self._tasks:
            self._end_if_over()

    def _passes(self, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            return self._is_cancelling
        return not self._owns_loop and isinstance(error, KeyboardInterrupt)

    def _now(self) -> float:
        return self._loop.time()

    def _cancel(self, event: int) -> None:
        """Cancel the handler of the event with that seq, if it is running."""
        for task, (_, function, args) in self._tasks.items():
            if function == self._serve and args[1].seq == event:
                task.cancel("it took longer than handler_timeout")

    async def _call_soon(self, begun: list[bool], function: Callable[..., Any], *args: Any) -> None:
        begun.append(True)
        await self._call("call_soon", function, *args)

    async def _call(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Call a function that belongs to no event."""
        began = monotonic()
        await self.runtime.call_async(name, self.calls.either, name, function, *args)
        self.runtime.times.called(name, monotonic() - began)
        if not self._tells_times:
            self._tell_later()

    def _arm(self, timer: IntervalTimer) -> None:
        if not self._is_closed:
            self._timers[timer] = self._loop.call_at(timer.when, self._tick, timer)

    def _tick(self, timer: IntervalTimer) -> None:
        if timer.when > self._loop.time():
            # asyncio is early by up to a step of its clock, which is 16 ms on Windows. The gateway
            # would answer again and again that the timer is not due.
            self._arm(timer)
            return
        if not timer.is_ours and (self._is_stopping() or self.runtime.is_draining):
            return
        if self._is_turn(timer, self._arm):
            self._spawn(self._run_timer, timer)

    async def _run_timer(self, begun: list[bool], timer: IntervalTimer) -> None:
        begun.append(True)
        await self._call("every", timer.function)
        timer.advance(self._loop.time())
        self._arm(timer)

    def _tell_later(self) -> None:
        self._tells_times = True
        self._loop.call_later(STATS_EVERY, self._tell)

    def _tell(self) -> None:
        """Report how long handlers have taken, once a second while there is something to report."""
        if self._is_closed:
            return
        self.runtime.times.messages(self._times.took)
        self._tell_times()
        self._schedule_send()
        self._tells_times = False
        if self._running or self.runtime.queue:
            self._tell_later()

    def _hurry(self) -> None:
        """A handler has raised: report that soon."""
        times, now = self.runtime.times, self._now()
        if times.due_at == math.inf:
            when = times.hurry(now)
            if when <= now:
                # In the batch of its ack.
                self._tell_soon()
            else:
                self._loop.call_later(when - now, self._tell_soon)

    def _tell_soon(self) -> None:
        if not self._is_closed:
            self.runtime.times.messages(self._times.took)
            self._tell_times()
            self._schedule_send()

    # --- the end ---

    def _is_stopping(self) -> bool:
        return self.stopper.asked or self.failed

    def _end_if_over(self) -> None:
        if not self._tasks and self.is_over():
            self._over.set()

    async def _cancel_background(self) -> None:
        """Cancel background tasks, as asyncio.run does, before on_stop closes what they use."""
        # Let new tasks begin; they may end at once.
        await asyncio.sleep(0)
        self._is_cancelling = True
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.wait(self._background)
        self._is_cancelling = False

    # --- out ---

    def _schedule_send(self) -> None:
        """Send at the end of this turn of the loop, so that its handlers share a batch."""
        if not self._send_due:
            self._send_due = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        if self._is_closed:
            return
        self._send_due = False
        was_full = self._unsent is not None
        while (batch := self._unsent or self.runtime.link.data_to_send()) is not None:
            self._unsent = batch
            if not self.dealer.send(batch):
                break
            self._unsent = None
        if was_full and self._unsent is None:
            self._loop.call_soon(self._advance)
        self.turned()


def run(main: Coroutine[Any, Any, None], escaped: Callable[[str, BaseException], object]) -> None:
    """Run `main` to its end in a loop of its own. SystemExit or KeyboardInterrupt of any task, and
    loop.stop(), end asyncio's loop; they are reported, and the loop continues. Raises OSError if it
    cannot: its descriptors were closed, as by os.closerange in a handler."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        running = loop.create_task(main)
        while not running.done():
            try:
                loop.run_until_complete(running)
            except BaseException as error:
                is_broken = isinstance(error, OSError) and error.errno == errno.EBADF
                if running.done() or loop.is_closed() or is_broken:
                    raise
                escaped("a task or callback of the handlers", error)


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop that has add_reader."""
    if sys.platform == "win32":
        # The Proactor loop has none. The library's selector takes 512 sockets there.
        return asyncio.SelectorEventLoop(Selector())
    return asyncio.new_event_loop()
