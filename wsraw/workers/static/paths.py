"""Sans-I/O. The file that a request asks for, as parts of a path below the folder.

A path that could lead out of the folder, or to a hidden file, names no file: one with `..`, also
encoded, with slashes and backslashes inside a part, with drives, with control characters, or with
names that begin with a dot. The folder itself decides about links (files.py).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

SHOWN: Final = ".well-known"
"""The only name with a dot that is served (RFC 8615), for example for the certificates of ACME."""

_WRONG_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f/\\]")
_OF_WINDOWS: Final = re.compile(
    r"[<>:\"|?*]|[. ]\Z|(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\.|\Z)",
    re.IGNORECASE,
)
"""Names that Windows takes for a device, or for another file."""


def parts_of(target: str, is_windows: bool) -> list[str] | None:
    """The decoded parts of a target's path; the last one is empty for a folder. None if the path
    can name no file."""
    path = target.partition("?")[0]
    if not path.startswith("/") or _WRONG_ESCAPE.search(path):
        return None
    parts = []
    *folders, last = path[1:].split("/")
    for text in folders:
        part = _part(text, is_windows)
        if not part:
            return None
        parts.append(part)
    if last:
        part = _part(last, is_windows)
        if not part:
            return None
        return [*parts, part]
    return [*parts, ""]


def _part(text: str, is_windows: bool) -> str | None:
    try:
        part = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    if is_hidden(part) or _FORBIDDEN.search(part) or (is_windows and _OF_WINDOWS.search(part)):
        return None
    return part


def is_hidden(part: str) -> bool:
    """Whether files and folders with this name are not served."""
    return part.startswith(".") and part != SHOWN
