"""Sans-I/O. Text of clients, workers and handlers, made safe for a log and a terminal.

A terminal obeys control characters, and a line break ends a log line. So all such text passes
through `printable`: in the log of a run (runtime/log/, supervisor/log.py) and in the output of
commands. Secrets in URLs are removed, because more people read logs than connections.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MOST: Final = 100
"""Characters of a client's text that a log line shows."""

_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#\\]*)(.*)", re.DOTALL)
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)

_IN_TEXT: Final = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]{0,20}://)(?:[^\s/?#'"<>\\]*@)?([^\s?#'"<>\\]*)(?:[?#][^\s'"<>]*)?"""
)
"""URLs in a text: scheme, userinfo, host and path, and the rest."""

_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
)
"""Control characters except the tab, line separators, characters that change the text direction,
and surrogates, which cannot be encoded."""
_CONTROLS_IN_LINES: Final = re.compile(_CONTROLS.pattern.replace("\x0a", "\x0b"))


def printable(text: str) -> str:
    """The text on one line, with escapes instead of control characters."""
    return text if text.isprintable() else _CONTROLS.sub(_escape, text)


def printable_lines(text: str) -> str:
    """`printable`, but line breaks stay."""
    return text if text.isprintable() else _CONTROLS_IN_LINES.sub(_escape, text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def os_error(error: OSError) -> str:
    """The text of a system call's error, with the file if it has one."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename is not None and error.strerror else why


def shown(text: str) -> str:
    """A client's text, quoted and shortened."""
    return ascii(text[:MOST])


def shown_url(url: str) -> str:
    """A request's target, an address or an Origin of a client, quoted and shortened, without parts
    that may be secret: userinfo, query, and everything after a host."""
    return shown(without_secrets(url))


def without_secrets_inside(text: str) -> str:
    """A text with dots in place of the userinfo and the query of each URL in it."""
    return _IN_TEXT.sub(_without_secrets, text) if "://" in text else text


def _without_secrets(found: re.Match[str]) -> str:
    scheme, place = found.groups()
    userinfo = "...@" if "@" in found[0][: found.start(2) - found.start()] else ""
    query = found[0][found.end(2) - found.start() :][:1]
    return f"{scheme}{userinfo}{place}{f'{query}...' if query else ''}"


def without_secrets(url: str) -> str:
    """A URL, a request's target or a Host, with dots in place of userinfo and query. An absolute
    URL is reduced to scheme and host."""
    found = _ABSOLUTE.fullmatch(url)
    if found is None:
        path = _QUERY.sub(lambda query: f"{query[0][0]}...", url)
        userinfo, at, host = path.rpartition("@")
        return f"...@{host}" if at and "/" not in userinfo else path
    scheme, place, rest = found.groups()
    _, at, host = place.rpartition("@")
    return f"{scheme}{'...@' if at else ''}{host}{'...' if rest not in ('', '/') else ''}"
