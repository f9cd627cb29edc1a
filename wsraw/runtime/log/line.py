"""Sans-I/O. A line of the log on its way from a child to the supervisor.

All output of a child consists of lines. A line of text was printed by a handler, or by a program in
another language. A line with the mark (the character RS, as in RFC 7464) and a JSON object after it
comes from `logging`: it keeps its level and its traceback. JSON escapes control characters, so the
object contains neither the mark nor a line break.

A child that forges such a line forges only its own: the supervisor knows which pipe it reads. Any
other line is text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from wsraw.runtime.printable import printable, printable_lines

MARK: Final = "\x1e"

Level = Literal["debug", "info", "warning", "error", "critical"]

MESSAGE_BYTES: Final = 16 * 1024
"""Bytes of a message in UTF-8, after escapes. JSON may double it, and a line on a pipe has at most
64 KiB (supervisor/processes/process.py)."""

EXCEPTION_BYTES: Final = 12 * 1024
"""Bytes of a traceback in UTF-8, after escapes."""

EXTRA_BYTES: Final = 4 * 1024
"""Bytes of the further fields of a line, as JSON."""

EXTRA_DEPTH: Final = 4
"""Levels of lists and objects within a further field; deeper ones become text."""

LEFT_OUT: Final = "…"
"""Stands for the parts of further fields that are left out."""

NAME_BYTES: Final = 200
"""Bytes of the name of a logger, and of a peer."""

LARGEST_ID: Final = 2**53
"""The largest id; see link/records.py."""


class LogLine(msgspec.Struct, omit_defaults=True, frozen=True):
    """A level, a message, and what is known about it."""

    level: Level
    message: str
    logger: str = ""
    """The name of the logger; empty for the root logger and for printed text."""
    connection: Annotated[int, Meta(ge=0, le=LARGEST_ID)] = 0
    """The id of the connection that the line is about; 0 for none."""
    peer: str = ""
    """The other end of that connection."""
    exception: str = ""
    """A traceback, in lines."""
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further fields, with values as JSON has them."""


class Subject(NamedTuple):
    """What a line is about: a connection and its peer, a peer alone, or nothing."""

    connection: int = 0
    peer: str = ""

    @property
    def label(self) -> str:
        """The subject in words; empty if there is none."""
        if not self.connection:
            return self.peer
        peer = f" ({self.peer})" if self.peer else ""
        return f"connection {self.connection}{peer}"

    def extra(self) -> dict[str, object]:
        """Values for the `extra` of `logging`."""
        return {"connection": self.connection, "peer": self.peer}


NOTHING: Final = Subject()

_decoder: Final = msgspec.json.Decoder(LogLine)


def bounded(line: LogLine) -> LogLine:
    """The line without control characters, and with a bounded size: a message is cut at its end, a
    traceback in its middle, because its end says what has happened."""
    return LogLine(
        line.level,
        cut(printable_lines(line.message), MESSAGE_BYTES),
        cut(printable(line.logger), NAME_BYTES),
        line.connection,
        cut(printable(line.peer), NAME_BYTES),
        cut_middle(printable_lines(line.exception), EXCEPTION_BYTES),
        _Fields().take(line.extra) if line.extra else {},
    )


def encode(line: LogLine) -> str:
    """A bounded line as a line of output."""
    return MARK + msgspec.json.encode(line).decode()


def decode(output: str) -> tuple[str, LogLine | None]:
    """The text before the mark in a line of output, and the line of the log after it. Without a
    mark, all is text; with one, there may be text that was printed without a line break."""
    before, mark, data = output.rpartition(MARK)
    if not mark:
        return output, None
    try:
        return before, bounded(_decoder.decode(data))
    except (msgspec.MsgspecError, UnicodeError):
        return output, None


def printed(text: str) -> tuple[Level, str]:
    """The level of a printed line, and the rest of it: it may begin with a level and a colon."""
    name, colon, rest = text.partition(": ")
    for level in get_args(Level):
        if colon and name == level:
            return level, rest
    return "info", text


# --- bounds ---


class _Fields:
    """Makes bounded values that JSON has, without control characters, from values of handlers."""

    def __init__(self) -> None:
        self._room = EXTRA_BYTES

    def take(self, values: Mapping[Any, Any], depth: int = EXTRA_DEPTH) -> dict[str, Any]:
        """Take as many values as there is room for."""
        found: dict[str, Any] = {}
        for key, value in values.items():
            if self._room <= 0:
                found[LEFT_OUT] = LEFT_OUT
                break
            name = self._text(key)
            found[name] = self._value(value, depth - 1)
        return found

    def _value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63):
            self._room -= len(str(value)) + 1
            return value
        if kind is float and math.isfinite(value):
            self._room -= len(repr(value)) + 1
            return value
        if depth > 0 and isinstance(value, Mapping):
            return self.take(value, depth)
        if depth > 0 and isinstance(value, list | tuple | set | frozenset):
            return self._items(value, depth)
        return self._text(value)

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for value in values:
            if self._room <= 0:
                found.append(LEFT_OUT)
                break
            found.append(self._value(value, depth - 1))
        return found

    def _text(self, value: Any) -> str:
        try:
            text = str(value)
        except Exception:
            text = f"<{type(value).__name__}>"
        # JSON may double it.
        text = cut(printable_lines(text), max(self._room // 2, 64))
        self._room -= len(msgspec.json.encode(text)) + 2
        return text


def cut(text: str, most: int) -> str:
    """A text cut to this many bytes of UTF-8; the end says how many there were."""
    if _fits(text, most):
        return text
    data = text.encode()
    note = f"… ({len(data)} bytes in all)"
    return data[: most - len(note.encode())].decode("utf-8", "ignore") + note


def cut_middle(text: str, most: int) -> str:
    """Lines cut to this many bytes: the first third and the last lines are kept."""
    if _fits(text, most):
        return text
    data = text.encode()
    note = f"\n… ({len(data)} bytes in all)\n"
    room = most - len(note.encode())
    first = data[: room // 3].decode("utf-8", "ignore")
    return first + note + data[room // 3 - room :].decode("utf-8", "ignore")


def pieces(text: str, most: int) -> Iterator[str]:
    """A text in pieces of at most this many bytes of UTF-8."""
    if _fits(text, most):
        yield text
        return
    data = text.encode()
    at = 0
    while at < len(data):
        piece = data[at : at + most].decode("utf-8", "ignore")
        at += len(piece.encode())
        yield piece


def _fits(text: str, most: int) -> bool:
    """A character has at most four bytes."""
    return len(text) * 4 <= most or len(text.encode()) <= most
