"""Sans-I/O. What others have written, as the log and a terminal may show it.

A terminal obeys control characters; whoever reads a log takes a line break for the end of a line.
So no text leaves for either but through `printable`: in the log of a run (supervisor/log.py), in
the log records of its processes (`LogLine`) and in what commands show (cli.py). And a log is read
by more people than a connection: what is secret in a URL stays out of it.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

MOST: Final = 100
"""Characters of what a client has sent that a line in the log shows."""

_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#\\]*)(.*)", re.DOTALL)
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)


_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
)
"""What terminals and readers of lines obey: control characters but for the tab, separators of
lines, what turns the direction of text around; and half characters, which cannot be written."""
_CONTROLS_IN_LINES: Final = re.compile(_CONTROLS.pattern.replace("\x0a", "\x0b"))


def printable(text: str) -> str:
    """The text in one line, with escapes in place of control characters."""
    return text if text.isprintable() else _CONTROLS.sub(_escape, text)


def printable_lines(text: str) -> str:
    """The same for a text whose line breaks are ours."""
    return text if text.isprintable() else _CONTROLS_IN_LINES.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


class LogLine(logging.Formatter):
    """Our own log records: a message is one line, whoever wrote a part of it; a traceback behind it
    has several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message, and what goes with it."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback."""
        return printable_lines(super().formatException(ei))


def os_error(error: OSError) -> str:
    """What the system has refused, and of what."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename is not None and error.strerror else why


def shown(text: str) -> str:
    """What a client has sent, quoted and short."""
    return ascii(text[:MOST])


def shown_url(url: str) -> str:
    """A request's target, an address or an Origin that a client has sent, quoted and short, without
    what may be secret: the userinfo, the query, and behind a host everything."""
    return shown(without_secrets(url))


def without_secrets(url: str) -> str:
    """A URL, a request's target or a Host, with dots in place of its userinfo and query; of an
    absolute URL only scheme and host are left."""
    found = _ABSOLUTE.fullmatch(url)
    if found is None:
        path = _QUERY.sub(lambda query: f"{query[0][0]}...", url)
        userinfo, at, host = path.rpartition("@")
        return f"...@{host}" if at and "/" not in userinfo else path
    scheme, place, rest = found.groups()
    _, at, host = place.rpartition("@")
    return f"{scheme}{'...@' if at else ''}{host}{'...' if rest not in ('', '/') else ''}"
