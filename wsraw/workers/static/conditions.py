"""Sans-I/O. Conditional requests and ranges (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Final, NamedTuple

_TAGS: Final = re.compile(r'(?:W/)?"[^"]*"')
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


class FileVersion(NamedTuple):
    """One version of a file."""

    size: int
    changed_ns: int
    """Its modification time in nanoseconds since 1970."""

    @property
    def etag(self) -> str:
        return f'"{self.changed_ns:x}-{self.size:x}"'

    @property
    def changed(self) -> int:
        """The modification time in seconds, as a header can hold it."""
        return self.changed_ns // 10**9

    @property
    def last_modified(self) -> str:
        return formatdate(self.changed, usegmt=True)


def status_of(headers: Mapping[str, str], version: FileVersion) -> int:
    """200; 304 for a client that already has the file; 412 if its condition is not met."""
    wanted = headers.get("If-Match")
    if wanted is not None:
        # A weak tag never matches here.
        if wanted.strip() != "*" and version.etag not in _TAGS.findall(wanted):
            return 412
    else:
        until = _seconds(headers.get("If-Unmodified-Since"))
        if until is not None and version.changed > until:
            return 412
    known = headers.get("If-None-Match")
    if known is not None:
        tags = [tag.removeprefix("W/") for tag in _TAGS.findall(known)]
        return 304 if known.strip() == "*" or version.etag in tags else 200
    since = _seconds(headers.get("If-Modified-Since"))
    return 304 if since is not None and version.changed <= since else 200


def range_of(headers: Mapping[str, str], version: FileVersion) -> range | None:
    """The requested range of bytes; None for the whole file; an empty range if none of the
    requested bytes exists (416). Several ranges are answered with the whole file, as section 14.2
    allows."""
    asked = _RANGE.fullmatch(headers.get("Range", ""))
    if asked is None or asked[0].rstrip().endswith("=-") or not _may_be_in_parts(headers, version):
        return None
    first, last = asked.groups()
    size = version.size
    if not first and not last:
        return None
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _may_be_in_parts(headers: Mapping[str, str], version: FileVersion) -> bool:
    """Whether the client's other bytes, if it has some, are of this version."""
    condition = headers.get("If-Range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition.strip() == version.etag
    return _seconds(condition) == version.changed


def _seconds(text: str | None) -> int | None:
    """A date as seconds since 1970; None for one that cannot be read, which counts as absent."""
    if text is None:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
