"""Sans-I/O. Records of `logging` as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from wsraw.runtime.log.formats import Format
from wsraw.runtime.log.line import LARGEST_ID, NOTHING, Level, LogLine, Subject, bounded, encode
from wsraw.runtime.printable import printable, without_secrets_inside

OWN: Final = "wsraw"
"""The prefix of our loggers. Their messages may contain a client's text, so each is one line; only
`HAS_LINES` says that line breaks are ours. Handlers decide themselves about line breaks in their
messages."""

HAS_LINES: Final = {"has_lines": True}
"""The `extra` of our messages with several lines."""

TRACEBACK: Final = "traceback"
"""In the `extra` of our messages, a traceback as text, if there is no exception here."""

USUAL: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes of every record; all others come from `extra`."""

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
    """The line for a record of `logging`. Its `extra` may name a connection; otherwise the line is
    about the `current` one. Other items of a handler's `extra` are further fields."""
    message = record.getMessage().replace("\r\n", "\n")
    is_ours = record.name == OWN or record.name.startswith(f"{OWN}.")
    known = record.__dict__
    if is_ours:
        # The one place for all our messages, whatever their text was made from.
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
    """The connection that handlers name in `extra`, which is removed from it, or the current
    one."""
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
        """Returns the connection for which the calling code runs."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line."""
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
        """A record as a line, and one for each line of the traceback."""
        line = to_line(record, self.current())
        return self._write(record.created, self._source, "", line).rstrip("\n")
