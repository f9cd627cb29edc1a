"""I/O. Where the data to send comes from: --exec, a pipe, or a person at a terminal."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from wsraw.tools.connect.plan import Plan, PlanError
from wsraw.tools.connect.typed import Close, Item, Mistake, Say, parse, say

PROMPT: Final = "> "
CHUNK: Final = 1 << 16
MOST_OF_A_LINE: Final = 16 << 20
"""Bytes of a piped line. A longer one is a file that has no lines."""
AHEAD: Final = 16
"""Items that may wait to be sent; beyond that, the input is not read."""
CHANGE: Final = 0.5
"""Seconds that readline may take to change the modes of a terminal."""


class Source(Protocol):
    """The data to send."""

    async def next(self) -> Item | None:
        """The next item; None: the input has ended."""

    def close(self) -> None:
        """Restore the terminal."""


class Given:
    """The data of --exec."""

    def __init__(self, items: list[Item]) -> None:
        self._items = iter(items)

    async def next(self) -> Item | None:
        return next(self._items, None)

    def close(self) -> None:
        pass


def given(plan: Plan, texts: tuple[str, ...]) -> Given:
    """Read the data of --exec. Raises PlanError."""
    items = [_parse(text, plan) for text in texts]
    for item in items:
        if isinstance(item, Mistake):
            raise PlanError(f"--exec: {item.text}")
    return Given(items)


def _parse(line: str, plan: Plan) -> Item:
    return parse(
        line,
        is_websocket=plan.target.is_websocket,
        as_bytes=plan.binary,
        line_end=plan.line_end,
    )


class Threaded:
    """Items that a thread reads, because reading stdin blocks.

    The thread may be in such a read when the connection ends, and is left there.
    """

    def __init__(self, read: Callable[[], Iterator[Item]], on_close: Callable[[], None]) -> None:
        self._items: asyncio.Queue[Item | None] = asyncio.Queue(AHEAD)
        self._loop = asyncio.get_running_loop()
        self._read = read
        self.close = on_close
        threading.Thread(target=self._run, daemon=True).start()

    async def next(self) -> Item | None:
        return await self._items.get()

    def _run(self) -> None:
        for item in self._read():
            if not self._put(item):
                return
        self._put(None)

    def _put(self, item: Item | None) -> bool:
        """Pass an item on as soon as there is room; return whether it was taken."""
        putting = self._items.put(item)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, concurrent.futures.CancelledError):
            # The loop has ended.
            putting.close()
            return False
        return True


# --- a pipe or a file ---


def piped(plan: Plan) -> Source:
    """The data on stdin: for a WebSocket each line is a message, for others bytes are bytes."""
    if not plan.target.is_websocket or plan.binary:
        return Threaded(lambda: (Say(data) for data in _chunks()), _nothing)
    if sys.stdin is not None and sys.stdin.isatty():
        # A terminal whose output goes elsewhere: commands are typed.
        return Threaded(lambda: (_parse(line, plan) for line in _lines()), _nothing)
    return Threaded(lambda: map(_message, _lines()), _nothing)


def _message(line: str) -> Item:
    if len(line) > MOST_OF_A_LINE:
        return Mistake("a line of the input is longer than 16 MiB: send bytes with --binary")
    return say(line, is_websocket=True, as_bytes=False, line_end="")


def _nothing() -> None:
    pass


def _chunks() -> Iterator[bytes]:
    # Not through sys.stdin: its lock would be held at the end of the process.
    while True:
        try:
            data = os.read(0, CHUNK)
        except OSError:
            return
        if not data:
            return
        yield data


def _lines() -> Iterator[str]:
    """Lines without their ends; bytes that are not UTF-8 as surrogates."""
    rest = b""
    for data in _chunks():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if len(rest) > MOST_OF_A_LINE:
            break
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


# --- a terminal ---


def terminal(plan: Plan) -> Source:
    """Lines that a person types, with history and editing where this Python has readline."""
    prompt = _Prompt()
    return Threaded(lambda: _typed(plan, prompt), prompt.close)


def _typed(plan: Plan, prompt: _Prompt) -> Iterator[Item]:
    while (line := prompt.read()) is not None:
        # For a WebSocket, an empty line is probably a slip and not a message.
        if line or not plan.target.is_websocket:
            item = _parse(line, plan)
            yield item
            if isinstance(item, Close):
                # No prompt after the last line.
                return


class _Prompt:
    """Reads lines in a thread; readline changes the modes of the terminal while it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._is_reading = False
        self._has_changed = threading.Event()
        """readline has changed the modes."""
        self._restore = _terminal_modes()
        self._has_readline = self._prepare_readline()

    def _prepare_readline(self) -> bool:
        try:
            import readline
        except ImportError:
            return False
        # The line that is typed takes one row, so that others can be shown above it.
        readline.parse_and_bind("set horizontal-scroll-mode on")
        # Otherwise names of Python would be offered.
        readline.set_completer(lambda text, state: None)
        readline.set_pre_input_hook(self._has_changed.set)
        return True

    def read(self) -> str | None:
        """The next line; None: there will be no more."""
        with self._lock:
            if self._is_over:
                return None
            self._has_changed.clear()
            self._is_reading = True
        try:
            return input(PROMPT)
        except (EOFError, OSError, ValueError):
            return None
        finally:
            self._is_reading = False

    def close(self) -> None:
        """Restore the modes of the terminal; the thread may still read, and is left there."""
        with self._lock:
            self._is_over = True
        if self._is_reading and self._has_readline:
            # The thread may be about to change them.
            self._has_changed.wait(CHANGE)
        self._restore()


def _terminal_modes() -> Callable[[], None]:
    """A function that restores the modes of the terminal."""
    try:
        import termios
    except ImportError:
        return _nothing
    try:
        modes: Any = termios.tcgetattr(0)
    except termios.error:
        return _nothing
    return lambda: termios.tcsetattr(0, termios.TCSADRAIN, modes)
