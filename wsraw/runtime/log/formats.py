"""Sans-I/O. How a line of the log is written: as text, as JSON, or for the journal."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from wsraw.runtime.log.line import LogLine
from wsraw.runtime.printable import printable

OWN_LOGGERS: Final = "wsraw."
"""Prefix of our loggers' names, which text leaves out: the source says enough."""

SUPERVISOR: Final = "wsraw"
"""The supervisor as a source, in text. JSON has its full name."""

PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Levels as in syslog: <N> before a line tells the journal (sd-daemon(3))."""

Format = Callable[[float, str, str, LogLine], str]
"""Formats a line, from its time (seconds since 1970), its source, the source's pool or "", and the
line. Returns text that ends with a line break."""


class _Object(msgspec.Struct, omit_defaults=True):
    """A line as JSON, with its fields in this order."""

    time: str
    level: str
    source: str
    message: str
    pool: str = ""
    logger: str = ""
    connection: int = 0
    peer: str = ""
    exception: str = ""
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


_encoder: Final = msgspec.json.Encoder()

_BARE: Final = re.compile(r"""[^\s"'={}\[\],]+""")
"""Text that is shown without quotes."""


def as_text(now: float, source: str, pool: str, line: LogLine) -> str:
    """`TIME LEVEL SOURCE: LOGGER: MESSAGE FIELD=VALUE (connection ID, PEER)`. Further lines of a
    message or of a traceback have the same beginning."""
    return _lines(f"{time_of(now)} {line.level} {source}: ", line)


def as_journal(now: float, source: str, pool: str, line: LogLine) -> str:
    """`as_text` with a priority instead of the time, which the journal adds itself."""
    return _lines(f"<{PRIORITIES[line.level]}>{line.level} {source}: ", line)


def as_json(now: float, source: str, pool: str, line: LogLine) -> str:
    """A line as an object on one line."""
    found = _Object(
        time_of(now),
        line.level,
        "supervisor" if source == SUPERVISOR else source,
        line.message,
        pool,
        line.logger,
        line.connection,
        line.peer,
        line.exception,
        line.extra,
    )
    return _encoder.encode(found).decode() + "\n"


FORMATS: Final[dict[str, Format]] = {"text": as_text, "json": as_json}
"""The formats by the values of the setting log_format."""


def lines_of(line: LogLine) -> list[str]:
    """The message and the traceback as text."""
    first, *more = line.message.split("\n")
    if line.logger and not line.logger.startswith(OWN_LOGGERS):
        first = f"{line.logger}: {first}"
    first = " ".join((first, *(f"{name}={_shown(line.extra[name])}" for name in line.extra)))
    about = [] if str(line.connection) in line.message else [f"connection {line.connection}"]
    if line.peer and line.peer not in line.message:
        about.append(line.peer)
    # An indented printed line continues the one before.
    is_continued = not line.logger and first[:1].isspace()
    if line.connection and about and not is_continued:
        first = f"{first} ({', '.join(about)})"
    return [first, *more, *line.exception.split("\n")] if line.exception else [first, *more]


def _shown(value: Any) -> str:
    """The value of a further field: as JSON, without quotes where these are not needed."""
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return printable(_encoder.encode(value).decode())


def time_of(now: float) -> str:
    """ISO 8601 in local time, with milliseconds and the offset from UTC."""
    second, rest = divmod(now, 1)
    text, offset = _second(int(second))
    return f"{text}.{int(rest * 1000):03}{offset}"


@lru_cache(maxsize=4)
def _second(second: int) -> tuple[str, str]:
    """Date and time, and the offset from UTC; lines often come within one second."""
    text = datetime.fromtimestamp(second).astimezone().isoformat()
    return text[:19], text[19:]


def _lines(beginning: str, line: LogLine) -> str:
    return "".join(f"{beginning}{text}\n" for text in lines_of(line))
