"""I/O. Timers and functions of `call_soon` that do not return. The gateway does not know about
them, and would blame the next event, so the worker watches them itself.

Code that does not return blocks all handlers of its worker: a thread notices that, and ends the
process. An async timer that waits blocks only itself: it is cancelled, and the process ends only if
that does not help. Functions of `call_soon` may wait for any time.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, Final

from wsraw.runtime.log.formatters import HAS_LINES, TRACEBACK
from wsraw.runtime.printable import printable_lines
from wsraw.workers.reporting.stacks import where
from wsraw.workers.reporting.worker_log import log

CANCEL_GRACE: Final = 5.0
"""Seconds in which a cancelled timer must end, the same as for a handler."""

LOOKS: Final = 4
"""How often, within the limit, a thread checks what runs; at least once a second."""


def label(what: str, function: Callable[..., Any]) -> str:
    """The name of a function, for the log."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"the timer {name}" if what == "every" else f"{name} (call_soon)"


class Calls:
    """Watches the calls of one worker that belong to no event."""

    def __init__(self, seconds: float, end: Callable[[], object]) -> None:
        """`seconds`: how long a call may take; 0: any time. `end` ends the process."""
        self._seconds = seconds
        self._end = end
        self._running: tuple[str, Callable[..., Any]] | None = None
        self._began = 0
        """A number that differs for each call, and changes whenever the call is known to be
        alive."""
        self._ident = threading.get_ident()
        self._thread: threading.Thread | None = None

    # --- code that runs ---

    def plain(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, and watch it meanwhile."""
        self._watch()
        self._began += 1
        self._running = what, function
        try:
            return function(*args)
        finally:
            self._running = None

    def _watch(self) -> None:
        if self._thread is None and self._seconds:
            self._thread = threading.Thread(target=self._look, name="wsraw-calls", daemon=True)
            # Not watched if no more threads can be started.
            with suppress(RuntimeError):
                self._thread.start()

    def lives(self) -> None:
        """The running call waits for the gateway: restart its time."""
        self._began += 1

    def _look(self) -> None:
        """Check the running call, in a thread. Checks are counted, not seconds: the process may be
        stopped for a while."""
        pause = min(self._seconds / LOOKS, 1.0)
        known, seen = 0, 0.0
        event = threading.Event()
        while True:
            event.wait(pause)
            running, began = self._running, self._began
            if running is None or began != known:
                known, seen = began, 0.0
                continue
            seen += pause
            if seen >= self._seconds:
                stack = _without_ours(traceback.extract_stack(sys._current_frames()[self._ident]))
                self._give_up(label(*running), "".join(stack.format()))

    def _give_up(self, name: str, stack: str) -> None:
        extra = HAS_LINES | {TRACEBACK: printable_lines(stack.rstrip("\n"))}
        log.error("%s has run for %g s: this worker ends", name, self._seconds, extra=extra)
        self._end()

    # --- code that waits ---

    def either(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that may be async, and watch it. If it is async, return what to await
        instead."""
        returned = self.plain(what, function, *args)
        if not self._seconds or not hasattr(returned, "__await__"):
            return returned
        if what != "every":
            return _Steps(self, what, function, returned)
        return self._limited(
            label(what, function), returned, _Steps(self, what, function, returned)
        )

    def step(self, running: tuple[str, Callable[..., Any]] | None) -> None:
        """A coroutine continues, or waits again (None)."""
        self._began += 1
        self._running = running

    async def _limited(
        self, name: str, returned: Awaitable[object], steps: Awaitable[object]
    ) -> object:
        # Imported here, because plain handlers do not use asyncio.
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        is_late = False
        handle: asyncio.TimerHandle

        def cancel() -> None:
            nonlocal is_late, handle
            is_late = True
            stack = printable_lines(where(returned))
            text = "%s takes longer than handler_timeout (%g s); it awaits:\n%s"
            log.error(text, name, self._seconds, stack, extra=HAS_LINES)
            task.cancel("it took longer than handler_timeout")
            handle = loop.call_later(CANCEL_GRACE, lambda: self._give_up(name, where(returned)))

        handle = loop.call_later(self._seconds, cancel)
        try:
            return await steps
        except asyncio.CancelledError:
            if not is_late:
                raise
            late = TimeoutError("the timer was cancelled: it took longer than handler_timeout")
            raise late from None
        finally:
            handle.cancel()


def _without_ours(stack: traceback.StackSummary) -> traceback.StackSummary:
    """The frames of the called function."""
    ours = [n for n, frame in enumerate(stack) if frame.filename == __file__]
    return traceback.StackSummary.from_list(stack[ours[-1] + 1 :] if ours else stack)


class _Steps:
    """Wraps an awaitable and watches its steps: one that does not return blocks the loop."""

    def __init__(
        self, calls: Calls, what: str, function: Callable[..., Any], inner: Awaitable[object]
    ) -> None:
        self._calls = calls
        self._running = what, function
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, object]:
        steps = self._inner.__await__()
        answer, error = None, None
        while True:
            self._calls.step(self._running)
            try:
                asked = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            finally:
                self._calls.step(None)
            answer, error = None, None
            try:
                answer = yield asked
            except BaseException as raised:
                error = raised
