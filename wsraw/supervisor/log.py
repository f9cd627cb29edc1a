"""I/O. The log: lines on stderr.

The reader of our stderr may stop (Ctrl-S, a pager, a stuck collector), and then writes block. So a
thread writes, and the loop does not wait for it, nor, through their pipes, do gateway and workers.
Lines beyond a bound are dropped and counted.

Text from outside cannot add lines or control the terminal.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, TextIO

from wsraw.config.units import show_size
from wsraw.runtime.log.formats import FORMATS, SUPERVISOR, Format, as_journal, as_text
from wsraw.runtime.log.formatters import to_line
from wsraw.runtime.log.line import MESSAGE_BYTES, Level, LogLine, decode, pieces, printed
from wsraw.runtime.printable import printable
from wsraw.supervisor.recent_log import RecentLine, RecentLines

LEVELS: Final = ("debug", "info", "warning", "error")
"""Values of log_level: lines of our own are shown from that level on."""

BYTES_KEPT: Final = 8 * 1024 * 1024
"""Bytes of lines that wait to be written; later lines are dropped and counted."""

OWN_BYTES: Final = 256 * 1024
"""Further bytes for our own lines, so that output of children does not displace them."""

TRY_AGAIN: Final = 1.0
"""Seconds after which a failed stderr is tried again, unless a new line comes first."""

WRITTEN_AT_ONCE: Final = 128 * 1024
"""Bytes in one write."""

BURST: Final = 10.0
"""Seconds of log_rate that a process may write at once."""

AROUND: Final = 64
"""Bytes counted for each line in addition to its own, for time, level and source."""

TELL_EVERY: Final = 10.0
"""Seconds between two lines about what a process has written beyond log_rate."""


class LogHandler(logging.Handler):
    """Logs lines of the modules that all processes share (runtime/), which use `logging`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with its traceback."""
        self._log.say_line(to_line(record))


class _Rate:
    """The recent output of one process (the generic cell rate algorithm, GCRA)."""

    __slots__ = ("_free_at", "left_out", "since")

    def __init__(self) -> None:
        self._free_at = 0.0
        """When a whole burst is allowed again."""
        self.left_out = 0
        """Lines since the last one that told of them."""
        self.since = 0.0
        """When the first of these came."""

    def allows(self, seconds: float, now: float) -> bool:
        """Whether to log a line that takes this many seconds of the rate."""
        if self._free_at - now > BURST:
            if not self.left_out:
                self.since = now
            self.left_out += 1
            return False
        self._free_at = max(now, self._free_at) + seconds
        return True

    def is_idle(self, now: float) -> bool:
        """Whether there is nothing to remember."""
        return not self.left_out and self._free_at <= now


class Log:
    """Writes lines in a format of runtime/log/formats.py, our own lines from `level` on.
    Thread-safe.

    `rate`: bytes a second that each child may write on average; 0 for no limit.
    """

    def __init__(self, stream: TextIO, level: str, write: Format = as_text, rate: int = 0) -> None:
        self._stream = stream
        self._least = LEVELS.index(level)
        self._format = write
        self._rate = rate
        self._rates: dict[str, _Rate] = {}
        self._lines: deque[str] = deque()
        self._size = 0
        """Bytes of the lines in memory, up to four for each character."""
        self._lost = 0
        self._closing = False
        self._is_writing = False
        self._recent = RecentLines()
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        self._writer.start()

    def change(self, level: str, write: Format, rate: int) -> None:
        """Apply these settings from the next line on."""
        self._least = LEVELS.index(level)
        self._format = write
        self._rate = rate

    def say(self, level: Level, text: str) -> None:
        """Log a line of the supervisor."""
        self.say_line(LogLine(level, printable(text)))

    def say_line(self, line: LogLine) -> None:
        """Log a line of the supervisor, with a subject and a traceback."""
        if line.level not in LEVELS or LEVELS.index(line.level) >= self._least:
            self._write(SUPERVISOR, "", line, BYTES_KEPT + OWN_BYTES)

    def relay(self, name: str, output: str, pool: str = "") -> None:
        """Log a line of output of a child.

        It is always shown: the children apply log_level to what they log, and what is printed is
        not filtered.
        """
        if not self._rate or self._allows(name, _bytes(output) + AROUND):
            for line in lines_of_output(output):
                self._write(name, pool, line)

    def recent(self, after: int) -> list[RecentLine]:
        """The last lines: those with a higher number than the given one."""
        with self._changed:
            return self._recent.after(after)

    def go_on(self, lines: Iterable[RecentLine]) -> None:
        """Continue with the last lines of the program before us."""
        with self._changed:
            self._recent.go_on(lines)

    def flush(self, seconds: float = 1.0) -> None:
        """Wait up to `seconds` until all lines so far are written."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self._changed:
                if not self._lines and not self._is_writing:
                    return
            time.sleep(0.002)

    def close(self, seconds: float = 1.0) -> None:
        """Wait up to `seconds` until all lines are written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(seconds)

    def _allows(self, name: str, size: int) -> bool:
        with self._changed:
            rate = self._rates.get(name)
            if rate is None:
                rate = self._rates[name] = _Rate()
            is_first = not rate.left_out
            allows = rate.allows(size / self._rate, time.monotonic())
            if is_first and not allows:
                self._changed.notify()
        return allows

    def _write(self, name: str, pool: str, line: LogLine, most: int = BYTES_KEPT) -> None:
        text = self._format(time.time(), name, pool, line)
        size = sys.getsizeof(text)
        with self._changed:
            self._recent.add(line.level, text)
            if self._size + size > most:
                self._lost += 1
                return
            self._lines.append(text)
            self._size += size
            self._changed.notify()

    def _take(self) -> tuple[str, int]:
        """The next text to write, with notes on dropped lines at the end; and how many lines it
        covers."""
        parts: list[str] = []
        size = 0
        while self._lines and size < WRITTEN_AT_ONCE:
            line = self._lines.popleft()
            size += sys.getsizeof(line)
            parts.append(line)
        self._size -= size
        count = len(parts)
        if self._lost and not self._lines:
            parts.append(self._note(f"{_counted(self._lost)} lost"))
            count += self._lost
            self._lost = 0
        now = time.monotonic()
        for name, rate in list(self._rates.items()):
            if rate.is_idle(now):
                del self._rates[name]
            elif rate.left_out and (self._closing or now >= rate.since + TELL_EVERY):
                parts.append(self._note_beyond(name, rate, now))
        return "".join(parts), count

    def _note_beyond(self, name: str, rate: _Rate, now: float) -> str:
        what, rate.left_out = _counted(rate.left_out), 0
        return self._note(
            f"left out {what} of {name} in {now - rate.since:.0f} s: more than log_rate "
            f"({show_size(self._rate)} a second) allows"
        )

    def _note(self, text: str) -> str:
        return self._format(time.time(), SUPERVISOR, "", LogLine("warning", text))

    def _until_note(self) -> float | None:
        """Seconds until a line about log_rate is due; None if none is."""
        since = [rate.since for rate in self._rates.values() if rate.left_out]
        return max(0.0, min(since) + TELL_EVERY - time.monotonic()) if since else None

    def _work(self) -> None:
        if hasattr(signal, "SIGTTOU"):
            # A terminal with `stty tostop` sends these signals to a background job that writes.
            # While they are blocked here, the write succeeds; elsewhere they change the number of
            # workers.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU, signal.SIGTTIN))
        while True:
            with self._changed:
                while not self._lines and not self._lost and not self._closing:
                    seconds = self._until_note()
                    if seconds == 0.0:
                        break
                    self._changed.wait(seconds)
                text, count = self._take()
                self._is_writing = bool(text)
                over = self._closing and not text
            if over:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                # A closed terminal or a full disk must not end the run.
                with self._changed:
                    if self._closing:
                        return
                    self._lost += count
                    self._changed.wait(TRY_AGAIN)
            with self._changed:
                self._is_writing = False


def format_for(stream: TextIO, setting: str) -> Format:
    """The format for a stream. The journal has the time of each line and a priority, so text has
    the priority instead of the time."""
    if setting == "text" and _is_journal(stream):
        return as_journal
    if setting == "json" and isinstance(stream, io.TextIOWrapper):
        # UTF-8 in any locale, because JSON is UTF-8.
        stream.reconfigure(encoding="utf-8")
    return FORMATS[setting]


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is connected to the journal of systemd: systemd.exec(5), JOURNAL_STREAM."""
    told = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def lines_of_output(output: str) -> list[LogLine]:
    """The log lines for a line of a child's output. Text may begin with its level and a colon; a
    long one becomes several lines."""
    text, line = decode(output)
    if line is not None and not text:
        return [line]
    level, text = printed(text)
    lines = [LogLine(level, piece) for piece in pieces(printable(text), MESSAGE_BYTES)]
    return lines if line is None else [*lines, line]


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _counted(lines: int) -> str:
    return f"{lines} {'line' if lines == 1 else 'lines'}"
