"""I/O. A terminal that shows one view after another, and its keys."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Final

from wsraw.tools.top.view import ALARM, HEADING, NORMAL, Line

if sys.platform == "win32":
    import msvcrt
else:
    import termios
    import tty

ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Switches to the alternate screen, hides the cursor, and disables line wrapping."""
LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"

STYLES: Final = {NORMAL: "", HEADING: "\x1b[1m", ALARM: "\x1b[31m"}

LOOK_EVERY: Final = 0.1
"""Seconds between two checks of keys and of the size."""

QUIT: Final = "qQ\x03"


class Terminal:
    """The terminal of this process, for the length of a `with` block: afterwards it is restored,
    also after a signal."""

    def __init__(self) -> None:
        self.is_resized = False
        """The size has changed since the last view."""
        self._size = (0, 0)
        self._has_keys = sys.stdin is not None and sys.stdin.isatty()
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Terminal:
        self._handle("SIGTERM", self._end)
        self._handle("SIGHUP", self._end)
        self._handle("SIGTSTP", self._suspend)
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, name: str, handler: Callable[[int, FrameType | None], None]) -> None:
        """Handle a signal, if the system has it and does not ignore it."""
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            self._handlers[number] = signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-Z: leave the terminal to the shell until the process is continued."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP if sys.platform != "win32" else number)
        self._begin()
        self.is_resized = True

    def _begin(self) -> None:
        if sys.platform == "win32":
            # Makes the console obey escape sequences.
            os.system("")
        elif self._has_keys:
            self._modes = termios.tcgetattr(0)
            tty.setcbreak(0)
        self._write(ENTER)

    def _restore(self) -> None:
        try:
            self._write(LEAVE)
        except OSError:
            # The terminal is gone, and SIGHUP has reported that.
            pass
        if sys.platform != "win32" and self._modes:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
            except termios.error:
                pass

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:
            return 80, 24
        # A terminal that does not know its size reports 0.
        return columns or 80, rows or 24

    def show(self, view: Callable[[int, int], Iterable[Line]]) -> None:
        """Show a view, which is made for the present columns and rows."""
        self._size = self.size()
        self.is_resized = False
        rows = [f"{STYLES[line.style]}{line.text}\x1b[0m\x1b[K" for line in view(*self._size)]
        # In one piece, over the old view, so that nothing flickers.
        self._write("\x1b[H" + "\r\n".join(rows) + "\x1b[J")

    def wait(self, seconds: float) -> bool:
        """Wait this long, or until the size has changed. False: a key ends the program."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if set(self._keys(min(left, LOOK_EVERY))) & set(QUIT):
                return False
            self.is_resized = self.is_resized or self.size() != self._size
            if self.is_resized:
                break
        return True

    def _keys(self, seconds: float) -> str:
        """The keys that were typed."""
        if not self._has_keys:
            time.sleep(seconds)
            return ""
        if sys.platform == "win32":
            time.sleep(seconds)
            typed = ""
            while msvcrt.kbhit():
                typed += msvcrt.getwch()
            return typed
        if not select.select([0], [], [], seconds)[0]:
            return ""
        data = os.read(0, 1024)
        # The terminal has no keyboard any more.
        self._has_keys = bool(data)
        return data.decode("latin-1")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
