"""A pattern, a line break, and a request's target."""

from __future__ import annotations

import re
from collections.abc import Hashable
from urllib.parse import quote, unquote_to_bytes

from wsraw.config.patterns import MOST_SEGMENTS, Pattern, split

PATTERNS = [
    b"/",
    b"/rooms/{room}",
    b"/{user}/{path...}",
    b"/a/{b}/c",
    b"/files/{path...}",
    b"/%41/",
]
SEEDS = [
    pattern + b"\n" + target
    for pattern in PATTERNS
    for target in (
        b"/",
        b"/rooms/a%2Fb?x=/y",
        b"/A/",
        b"/a/%C3%A4/c",
        b"/files//../x/%2e%2e",
        b"/files/a/b/c",
        b"http://h/rooms/a",
    )
]
WORDS = [
    b"/",
    b"%2F",
    b"%2e",
    b"..",
    b"{a}",
    b"{b...}",
    b"%",
    b"%00",
    b"%FF",
    b"%C3%A4",
    b"?",
    b"\n",
]


def segments_again(target: str) -> list[str] | None:
    """A second implementation of the same."""
    path = re.match(r"[^?]*", target)
    assert path is not None
    if not path[0].startswith("/") or path[0].count("/") > MOST_SEGMENTS:
        return None
    if re.search(r"%(?![0-9a-fA-F][0-9a-fA-F])", path[0]):
        return None
    try:
        found = [unquote_to_bytes(part).decode() for part in path[0].split("/")[1:]]
    except UnicodeError:
        return None
    joined = "".join(found)
    wrong = any(ord(char) < 32 or ord(char) == 127 for char in joined)
    return None if wrong or "." in found or ".." in found else found


def run(data: bytes) -> Hashable:
    text, _, raw = data.partition(b"\n")
    # The sniffer accepts only printable ASCII in targets; patterns may be anything.
    target = raw.decode("latin-1")
    segments = split(target)
    assert segments == segments_again(target)
    try:
        pattern = Pattern(text.decode("utf-8", "replace"))
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return "no pattern", str(error).partition(": ")[2][:12], segments is None
    if segments is None:
        return "no path"
    params = pattern.match(segments)
    if params is None:
        return "another path", len(segments)
    # The matched values give the same path when they are put into the pattern.
    again = re.sub(
        r"\{(\w+)(\.\.\.)?\}",
        lambda name: quote(params[name[1]], safe="/" if name[2] else ""),
        quote(text.decode(), safe="/{}%"),
    )
    assert pattern.match(split(again) or []) == params, again
    return "matched", len(params), len(segments), any("/" in value for value in params.values())
