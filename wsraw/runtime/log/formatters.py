"""Sans-I/O. Records of `logging` as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from wsraw.runtime.log.formats import Format
from wsraw.runtime.log.line import LARGEST_ID, NOTHING, Level, LogLine, Subject, bounded, encode
from wsraw.runtime.printable import printable, without_secrets_inside

OWN: Final = "wsraw"
"""Our loggers. A message of theirs may have a client's text, and is one line; only `HAS_LINES` says
that line breaks in it are ours. In messages of handlers line breaks are their own affair."""

HAS_LINES: Final = {"has_lines": True}
"""The `extra` of a message of ours that has several lines."""

TRACEBACK: Final = "traceback"
"""In the `extra` of a message of ours: a traceback as text, of which there is no exception here."""

USUAL: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes of each record; all others come from `extra`."""

_tracebacks: Final = logging.Formatter()


def level_of(number: int) -> Level:
    """The level of the log for one of `logging`, which may be any number."""
    if number < logging.INFO:
        return "debug"
    if number < logging.WARNING:
        return "info"
    if number < logging.ERROR:
        return "warning"
    return "error" if number < logging.CRITICAL else "critical"


def to_line(record: logging.LogRecord, current: Subject = NOTHING) -> LogLine:
    """The line for a record of `logging`. Its `extra` may say what connection it is about; else it
    is the `current` one. What else handlers say there are further fields."""
    message = record.getMessage().replace("\r\n", "\n")
    is_ours = record.name == OWN or record.name.startswith(f"{OWN}.")
    known = record.__dict__
    if is_ours:
        # One place for all of ours, whatever the text was made of.
        message = without_secrets_inside(message)
        if "has_lines" not in known:
            message = printable(message)
        if "connection" in known:
            current = Subject(known["connection"], known.get("peer", ""))
        extra = {}
    else:
        extra = {name: known[name] for name in known if name not in USUAL}
        current = _take_subject(extra, current)
    stacks = []
    if is_ours and known.get(TRACEBACK):
        stacks.append(without_secrets_inside(known[TRACEBACK]))
    if record.exc_info:
        stack = _tracebacks.formatException(record.exc_info)
        stacks.append(without_secrets_inside(stack) if is_ours else stack)
    if record.stack_info:
        stacks.append(record.stack_info)
    return bounded(
        LogLine(
            level_of(record.levelno),
            message,
            "" if record.name == "root" else record.name,
            current.connection,
            current.peer,
            "\n".join(stacks),
            extra,
        )
    )


def _take_subject(extra: dict[str, object], current: Subject) -> Subject:
    """The connection that handlers say in `extra`, taken out of it, or the current one."""
    number = extra.get("connection")
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return current
    del extra["connection"]
    known = current.peer if number == current.connection else ""
    peer = extra.get("peer")
    if isinstance(peer, str):
        known = peer
        del extra["peer"]
    return Subject(number, known)


class ToSupervisor(logging.Formatter):
    """Formats a record as the supervisor reads it (line.py)."""

    def __init__(self, current: Callable[[], Subject] = Subject) -> None:
        super().__init__()
        self.current = current
        """Tells the connection that the calling code is running for."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return encode(to_line(record, self.current()))


class ToReader(logging.Formatter):
    """Formats a record as the log of a process without a supervisor."""

    def __init__(
        self, write: Format, source: str, current: Callable[[], Subject] = Subject
    ) -> None:
        super().__init__()
        self.current = current
        self._write = write
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        """A line, or one for each line of the traceback."""
        line = to_line(record, self.current())
        return self._write(record.created, self._source, "", line).rstrip("\n")
