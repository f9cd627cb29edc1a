"""Sans-I/O. What others have written, as the log and a terminal may show it.

A terminal obeys control characters; whoever reads a log takes a line break for the end of a line.
So no text leaves for either but through `printable`. And a log is read by more people than a
connection: what is secret in a URL stays out of it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MOST: Final = 100
"""Characters of what a client has sent that a line in the log shows."""

_KEPT: Final = "\t"
_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#\\]*)(.*)", re.DOTALL)
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)


def printable(text: str, kept: str = _KEPT) -> str:
    """The text with escapes in place of all that is not a printable character, but for those that
    are `kept`."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in kept or _is_space(each) else _escape(each)
        for each in text
    )


def _is_space(char: str) -> bool:
    # Not printable in Python's eyes, and harmless: the no-break space and its like.
    return unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


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
