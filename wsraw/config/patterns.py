"""Sans-I/O. Patterns of paths, as `/rooms/{room}` and `/files/{path...}`, and the paths they match.

A path is what a request's target has before its `?`. It is taken apart at its slashes first, and
decoded then, so that what a client encodes can never become another path:

- `{name}` takes one segment, which is not empty; `{name...}`, the last one, takes all that is left,
  even nothing. Everything else is compared as it stands, by case, and so is a slash at the end:
  `/rooms` and `/rooms/` are two paths. There is no redirect by which a WebSocket could be told of
  the right one.
- `%41` is the `A` that it says (RFC 3986, section 6.2.2.2), in patterns, too. `%2F` is no border:
  in `{name}` it is a slash of the value. In `{name...}` nobody could tell it from a border, so
  there it matches nothing.
- Two slashes in a row have an empty segment between them. Nothing matches that but `{name...}`.
- A path that two programs could read in two ways matches no pattern at all: one with `.` or `..` as
  a segment, encoded or not (clients resolve these before they ask; a proxy that does not, and that
  guards some paths, must not be led past by them); one with `%` and no two digits, or whose bytes
  are no UTF-8, or have control characters. Nor does a target that is no path (`http://…`, `*`).
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final
from urllib.parse import unquote_to_bytes

MOST_SEGMENTS: Final = 256
"""Of a path; one with more matches no pattern. What a client sends costs us little, then."""

_WRONG_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def split(target: str) -> list[str] | None:
    """The segments of a request's target, decoded; None if no pattern may match it."""
    path = target.partition("?")[0]
    if path[:1] != "/" or path.count("/") > MOST_SEGMENTS:
        return None
    segments = []
    for part in path[1:].split("/"):
        segment = _decode(part)
        if segment is None or segment in (".", ".."):
            return None
        segments.append(segment)
    return segments


def _decode(text: str) -> str | None:
    if "%" in text:
        if _WRONG_ESCAPE.search(text):
            return None
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeError:
            return None
    return None if _CONTROL.search(text) else text


class Pattern:
    """A pattern of paths. Raises ValueError with a line that says what to write instead."""

    def __init__(self, text: str) -> None:
        self._steps: list[tuple[str, bool]] = []
        """Of each segment its text or name, and whether it is a name."""
        self._rest: str | None = None
        """The name of what is left."""
        if not text.startswith("/"):
            raise ValueError(f"{text!r}: a path begins with /, as in /rooms/{{room}}")
        if "?" in text:
            raise ValueError(f"{text!r}: the query is no part of the path: write what is before ?")
        parts = text[1:].split("/")
        for place, part in enumerate(parts):
            self._add(text, part, is_last=place == len(parts) - 1)
        names = [name for name, is_name in self._steps if is_name]
        names += [self._rest] if self._rest is not None else []
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{text!r}: {{{name}}} is there twice; give each its own name")

    def _add(self, text: str, part: str, *, is_last: bool) -> None:
        if part.startswith("{") and part.endswith("}"):
            name = part[1:-1].removesuffix("...")
            if not _NAME.fullmatch(name):
                raise ValueError(f"{text!r}: {part!r} is no name; write {{room}} or {{path...}}")
            if not part.endswith("...}"):
                self._steps.append((name, True))
            elif is_last:
                self._rest = name
            else:
                raise ValueError(f"{text!r}: {part!r} takes all that is left: it must be the last")
            return
        if "{" in part or "}" in part:
            raise ValueError(f"{text!r}: a {{name}} stands between slashes, or at the end, alone")
        if part == "*":
            raise ValueError(f"{text!r}: write {{path...}} for *: what it takes has a name")
        literal = _decode(part)
        if literal is None or literal in (".", ".."):
            raise ValueError(f"{text!r}: no path that is matched has a segment {part!r}")
        if not literal and not is_last:
            raise ValueError(f"{text!r}: there is nothing between two slashes")
        self._steps.append((literal, False))

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The values of its names, or None: it is another path. `segments` are those of `split`."""
        steps = self._steps
        surplus = len(segments) - len(steps)
        if surplus < 0 or (surplus > 0) != (self._rest is not None):
            return None
        params = {}
        for (step, is_name), segment in zip(steps, segments, strict=False):
            if not is_name:
                if step != segment:
                    return None
            elif segment:
                params[step] = segment
            else:
                return None
        if self._rest is not None:
            rest = segments[len(steps) :]
            if any("/" in segment for segment in rest):
                return None
            params[self._rest] = "/".join(rest)
        return params

    @property
    def beginning(self) -> tuple[str, ...]:
        """The segments before the first name. A pattern covers only those that begin as it does."""
        texts = takewhile(lambda step: not step[1], self._steps)
        return tuple(text for text, _ in texts)

    def covers(self, other: Pattern) -> bool:
        """Whether it takes whatever the other one would."""
        ours, theirs = self._steps, other._steps
        if self._rest is None:
            if other._rest is not None or len(ours) != len(theirs):
                return False
        elif len(theirs) + (other._rest is not None) <= len(ours):
            return False
        return all(map(_takes, ours, theirs))


def _takes(mine: tuple[str, bool], other: tuple[str, bool]) -> bool:
    """Whether one segment of a pattern takes all that another one does."""
    (step, is_name), (other_step, other_is_name) = mine, other
    if is_name:
        return other_is_name or bool(other_step)
    return not other_is_name and step == other_step
