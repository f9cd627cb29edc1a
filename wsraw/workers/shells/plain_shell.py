"""I/O. Plain handlers, called one after the other between blocking polls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from wsraw.link.records import OnMessage
from wsraw.runtime.clock import monotonic
from wsraw.workers.loading.handlers import IntervalTimer, start_timers
from wsraw.workers.reporting.handler_times import QUICK
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells.shell import LAST_BATCH, SEND_AFTER, Shell

LONG_HANDLER: Final = 0.25
"""Seconds between two checks whether the same handler still runs."""


class PlainShell(Shell):
    """A turn receives a batch, calls its handlers, calls and timers, and sends their commands."""

    _started = False
    _timers: list[IntervalTimer]
    _lock: threading.RLock
    """Held to use the dealer or the link's batches while a handler runs."""

    def run(self) -> int:
        """Serve until the gateway or a signal ends it. Returns the exit code."""
        runtime, dealer, link = self.runtime, self.dealer, self.runtime.link
        runtime.send_now = self._send
        runtime.times.clock = monotonic
        runtime.times.urgent = lambda: runtime.times.hurry(monotonic())
        runtime.questions.wait = self._wait
        link.lock = self._lock = threading.RLock()
        self._timers = []
        over = threading.Event()
        # If no thread can be started, acks wait for the running handler.
        with suppress(RuntimeError):
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        seconds = 0.0
        while True:
            if dealer.wait(seconds):
                self._receive()
            if not self._started and runtime.is_ready:
                self._start()
            self._handle_queue()
            if self.stopper.calls:
                self._run_calls()
            seconds = self._run_timers()
            self._send()
            self.stop_if_abandoned()
            if self.is_over():
                break
            if runtime.queue:
                seconds = 0.0
            elif not link.session:
                # After a hello, and when the other thread has nothing to send.
                seconds = min(seconds, self.look_if_alone())
            elif not self._started:
                # The session has begun while we were sending.
                seconds = 0.0
        over.set()
        self._leave()
        return self.exit_code()

    def _watch(self, over: threading.Event) -> None:
        """In another thread: send the acks of events that were handled just before a handler that
        takes long. They would wait until it returns, and if it does not, the gateway would take the
        first of those events for the one that hangs."""
        link, before = self.runtime.link, None
        while not over.wait(LONG_HANDLER):
            running = _running(self.runtime)
            if running is not None and running == before:
                with self._lock:
                    link.seal()
                    # If the handler has returned meanwhile, the ack of its event may have just been
                    # added to that batch; then the thread of the handlers is about to send it.
                    if _running(self.runtime) == running:
                        link.send_sealed(self.dealer.send)
                        self.dealer.flush(LONG_HANDLER)
            before = running

    def _receive(self) -> bool:
        """Take the next batch, or a loss. True if a session has ended: its unsent data is void."""
        session = self.runtime.link.session
        batch = self.dealer.receive()
        if batch is not None:
            self.runtime.receive(batch)
        elif self.dealer.is_lost:
            self._lost()
            return True
        return self.runtime.link.session != session

    def _start(self) -> None:
        self._started = True
        self._warn_at = float("inf")
        on_start = self.runtime.handlers.on_start
        if on_start is not None:
            self.failed = not self.runtime.call("on_start", on_start)
            self._started_well()
        self._timers = start_timers(monotonic())

    def _handle_queue(self) -> None:
        runtime, stopper = self.runtime, self.stopper
        queue, handle, times = runtime.queue, runtime.handle, runtime.times
        if not queue or stopper.asked or self.failed:
            return
        clock = monotonic
        began = now = clock()
        send_by = began + SEND_AFTER
        look_at = began + QUICK
        event = queue[0]
        first = event.seq
        while queue and not (stopper.asked or self.failed):
            event = queue.popleft()
            before = now
            handle(event)
            now = clock()
            # If events took QUICK together, each of them was quick.
            if now < look_at:
                continue
            if now - before > QUICK and type(event) is OnMessage:
                times.slow_message(now - before)
            if now >= send_by:
                # In bulk: the numbers of events have no gaps, and are in order here.
                times.handled(event.seq - first + 1, now - began, now)
                if now >= times.due_at:
                    self._tell_times()
                self._send()
                began = now = clock()
                send_by = began + SEND_AFTER
                first = event.seq + 1
            look_at = now + QUICK
        times.handled(event.seq - first + 1, now - began, now)

    def _run_calls(self) -> None:
        calls = self.stopper.calls
        # Only the present calls, because a call may add another one.
        for _ in range(len(calls)):
            function, args = calls.popleft()
            self._call("call_soon", function, *args)

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Call a function that belongs to no event."""
        began = monotonic()
        self.runtime.call(name, self.calls.plain, name, function, *args)
        now = monotonic()
        self.runtime.times.called(name, now - began)
        self.runtime.times.handled(0, 0.0, now)

    def _run_timers(self) -> float:
        """Call due timers, and report figures that are due. Returns the seconds until the next
        time, or infinity."""
        now = monotonic()
        times = self.runtime.times
        if now >= times.due_at:
            self._tell_times()
        seconds = times.due_at - now
        for timer in self._timers:
            if (
                timer.when <= now
                and (timer.is_ours or not self.is_over())
                and self._is_turn(timer, lambda _: None)
            ):
                self._call("every", timer.function)
                now = monotonic()
                timer.advance(now)
            seconds = min(seconds, timer.when - now)
        return seconds

    def _send(self) -> None:
        """Send everything, and wait until it has left: so unsent data for a slow gateway is
        bounded, because nothing is handled meanwhile, and no ack waits behind the next handler."""
        link, dealer = self.runtime.link, self.dealer
        give_up = float("inf")
        with self._lock:
            batch = link.data_to_send()
            while batch is not None or dealer.has_unsent:
                if batch is not None and dealer.send(batch):
                    batch = link.data_to_send()
                    continue
                if self.stop_if_abandoned():
                    return
                now = monotonic()
                if self.stopper.asked:
                    give_up = min(give_up, now + LAST_BATCH)
                if now >= give_up:
                    return
                if dealer.wait(give_up - now, to_send=True) and self._receive():
                    batch = link.data_to_send()

    def _wait(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Wait for an answer of the gateway while a handler runs. Events that come meanwhile are
        queued."""
        until = monotonic() + seconds
        self._send()
        while not is_done() and (left := until - monotonic()) > 0:
            with self._lock:
                if self.dealer.wait(min(left, LONG_HANDLER)):
                    self._receive()
            self._send()
            self.calls.lives()
            if self.stop_if_abandoned():
                self.runtime.questions.lost()

    def _leave(self) -> None:
        on_stop = self.runtime.handlers.on_stop
        if on_stop is not None and self._started and not self.failed:
            self.runtime.call("on_stop", on_stop)
        self._tell_times()
        self.runtime.bye()
        self._send()
        self.dealer.close(after_bye=True)


def _running(runtime: Runtime) -> tuple[int, int] | None:
    """Session and seq of the event whose handler is running, if one is."""
    turn = runtime.turn
    return None if turn is None else (turn.session, turn.seq)
