"""Sans-I/O. Records and batches as text, in the notation of the docs, cut to one line."""

from __future__ import annotations

from typing import Any, Final

from wsraw.link.records import Record, decode_value, encode

LONGEST: Final = 200
LONGEST_VALUE: Final = 40


def record(value: Any) -> str:
    """A record: `[ack, 3, 3]`."""
    if isinstance(value, Record):
        value = decode_value(encode(value))
    if isinstance(value, list) and value and isinstance(value[0], str):
        return cut("[" + ", ".join((value[0], *map(_value, value[1:]))) + "]")
    return cut(_value(value))


def batch(data: bytes) -> str:
    """A batch: `[7, [send, 5, "HI", "text", true], [ack, 3, 3]]`, or the bytes of anything else."""
    try:
        value = decode_value(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not value:
        return f"{len(data)} bytes: {data[:LONGEST_VALUE].hex(' ')}"
    return cut("[" + ", ".join((_value(value[0]), *map(record, value[1:]))) + "]")


def cut(text: str) -> str:
    """Cut a text to LONGEST characters."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _value(value: Any) -> str:
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case str():
            return _string(value[:LONGEST_VALUE], len(value))
        case bytes():
            text = value[:LONGEST_VALUE].decode("utf-8", "backslashreplace")
            return _string(text, len(value))
        case list():
            return "[" + ", ".join(map(_value, value[:LONGEST_VALUE])) + "]"
        case dict():
            return "{" + ", ".join(f"{_value(k)}: {_value(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _string(text: str, length: int) -> str:
    """Quote and escape a string, and append the length of one that was cut."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return f'"{shown}"' if length <= LONGEST_VALUE else f'"{shown}…" ({length})'
