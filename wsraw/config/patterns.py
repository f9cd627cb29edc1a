"""Sans-I/O. Patterns such as `/rooms/{room}` and `/files/{path...}`, and the paths they match.

A path is the part of a request's target before the `?`. It is split at its slashes first and
decoded afterwards, so that an encoded character never changes the path:

- `{name}` matches one segment, which is not empty. `{name...}`, always last, matches the rest of
  the path, which may be empty. All other segments must be equal, in case too. `/rooms` and
  `/rooms/` are different paths: a WebSocket cannot be redirected from one to the other.
- `%41` equals `A` (RFC 3986, section 6.2.2.2), in patterns, too. `%2F` separates no segments:
  `{name}` matches it as a slash in the value. `{name...}` does not match it, as handlers could not
  tell it from a separator.
- Between two slashes in a row is an empty segment. Only `{name...}` matches it.
- A path that other programs may read differently matches no pattern, so that nobody gets past a
  proxy that protects some paths: paths with a segment `.` or `..`, encoded or not; with a `%` that
  two hex digits do not follow; with bytes that are not UTF-8; with control characters. Targets that
  are not paths (`http://…`, `*`) match no pattern either.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

MOST_SEGMENTS: Final = 256
"""A path with more segments matches no pattern: matching stays cheap."""

_WRONG_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?:\.\.\.)?\}")
"""Stands for a value in the path of a bridge's target."""


def split(target: str) -> list[str] | None:
    """The decoded segments of a request's target; None if no pattern may match it."""
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
    """One pattern. Raises ValueError with a line that says what to write instead."""

    def __init__(self, text: str) -> None:
        self._steps: list[tuple[str, bool]] = []
        """For each segment, its text or its parameter's name, and whether it is a parameter."""
        self._rest: str | None = None
        """The name of the parameter in `{name...}`."""
        if not text.startswith("/"):
            raise ValueError(f"{text!r}: a path begins with /, as in /rooms/{{room}}")
        if "?" in text:
            raise ValueError(f"{text!r}: leave out the query: a pattern matches the path before ?")
        parts = text[1:].split("/")
        for place, part in enumerate(parts):
            self._add(text, part, is_last=place == len(parts) - 1)
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{text!r}: {{{name}}} is used twice; give each part its own name")

    def _add(self, text: str, part: str, *, is_last: bool) -> None:
        if part.startswith("{") and part.endswith("}"):
            name = part[1:-1].removesuffix("...")
            if not _NAME.fullmatch(name):
                raise ValueError(f"{text!r}: {part!r} is not a name; write {{room}} or {{path...}}")
            if not part.endswith("...}"):
                self._steps.append((name, True))
            elif is_last:
                self._rest = name
            else:
                raise ValueError(f"{text!r}: {part!r} matches the rest of the path: write it last")
            return
        if "{" in part or "}" in part:
            raise ValueError(f"{text!r}: a {{name}} must be a whole segment between slashes")
        if part == "*":
            raise ValueError(f"{text!r}: write {{path...}} instead of *")
        literal = _decode(part)
        if literal is None or literal in (".", ".."):
            raise ValueError(f"{text!r}: paths with a segment {part!r} are never matched")
        if not literal and not is_last:
            raise ValueError(f"{text!r}: write something between the two slashes")
        self._steps.append((literal, False))

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        names = [name for name, is_name in self._steps if is_name]
        return [*names, self._rest] if self._rest is not None else names

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The values of the parameters, or None if the path does not match. `segments` come from
        `split`."""
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


class GroupPattern:
    """The names of groups that a setting is for: `room.*`, where * is any text, or one name. Raises
    ValueError with a line that says what to write instead."""

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("write the name of a group, room.* or *")
        if text.count("*") > 1:
            raise ValueError(f"{text!r}: write at most one *, as in room.*")
        self._begin, star, self._end = text.partition("*")
        self._is_name = not star
        self._least = len(text) - len(star)

    def matches(self, group: str) -> bool:
        """Whether the setting is for this group."""
        if self._is_name:
            return group == self._begin
        return (
            len(group) >= self._least
            and group.startswith(self._begin)
            and group.endswith(self._end)
        )
