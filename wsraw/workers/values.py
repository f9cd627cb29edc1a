"""Sans-I/O. Checks of handlers' arguments.

Each function returns the value as a plain type that can be encoded, or raises TypeError or
ValueError and says what is expected. Subclasses (Markup, SafeString, IntEnum, …) become their plain
type. `what` names the argument. Values may come from a client, so messages quote only a few
characters.
"""

from __future__ import annotations

import math
import operator
import re
import reprlib
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final

from wsraw.link.records import GROUP_LIMIT
from wsraw.link.rules import NAME, OF_ANSWERS, VALUE, header_problem

ANSWER_LIMIT: Final = 32 * 1024
"""Bytes of an answer's headers, and of its body."""

LARGEST_ID: Final = 2**53 - 1

LONGEST_TIME: Final = 1e9
"""Seconds, about 30 years: the longest time that system timers support."""

QUOTED: Final = 60
"""Characters of a value that an error message quotes."""

_POSITION: Final = re.compile("[0-9A-Za-z._-]{0,64}:[0-9]{1,18}")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = QUOTED + 1
_quote = _short.repr


def brief(value: object) -> str:
    """A value for an error message, shortened; its repr may raise."""
    try:
        shown = _quote(value[: QUOTED + 1] if isinstance(value, str | bytes) else value)
    except Exception:
        shown = f"a value of type {kind_of(value)}"
    return shown if len(shown) <= QUOTED else f"{shown[:QUOTED]}…"


def kind_of(value: object) -> str:
    """The type of a value, for an error message."""
    return "None" if value is None else type(value).__name__


def text(value: object, what: str) -> str:
    """A str that UTF-8 can hold."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {kind_of(value)}")
    if value.__class__ is not str:
        value = str.__str__(value)
    if not value.isascii():
        encoded(value, what)
    return value


def encoded(value: str, what: str) -> bytes:
    """The UTF-8 of a str."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise ValueError(
            f"{what} has half a surrogate pair (U+{half:04X}) at index {error.start}, which UTF-8 "
            "cannot hold; .encode(errors='replace').decode() makes a text that can be sent"
        ) from None


def group(value: object) -> str:
    if value.__class__ is str and value.isascii() and len(value) <= GROUP_LIMIT:
        return value
    name = text(value, "a group's name")
    if len(name) > GROUP_LIMIT:
        raise ValueError(
            f"a group's name has at most {GROUP_LIMIT} characters; this one has {len(name)}"
        )
    return name


def user(value: object) -> str:
    name = text(value, "the name of a user")
    if not 0 < len(name) <= GROUP_LIMIT:
        raise ValueError(
            f"the name of a user has 1 to {GROUP_LIMIT} characters; this one has {len(name)}"
        )
    return name


def position(value: object) -> str:
    name = text(value, "since")
    if name and not _POSITION.fullmatch(name):
        raise ValueError(
            f"since is the position of an earlier answer, such as 8f3a21c01:42, not {brief(name)}"
        )
    return name


def size(value: str) -> int:
    """Bytes of a checked text in UTF-8."""
    return len(value) if value.isascii() else len(value.encode())


def binary(value: object, what: str) -> bytes:
    """Bytes, or a str in UTF-8."""
    if value.__class__ is bytes:
        return value
    if isinstance(value, str):
        return encoded(str.__str__(value), what)
    if isinstance(value, bytes | bytearray | memoryview):
        # Not bytes(value), which may call a subclass's __bytes__.
        return memoryview(value).tobytes()
    raise TypeError(f"{what} must be str or bytes, not {kind_of(value)}")


def whole(value: object, what: str) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{what} must be an int, not {kind_of(value)}")


def connection_id(value: object) -> int:
    con = whole(value, "the id of a connection")
    if not 0 <= con <= LARGEST_ID:
        raise ValueError(f"{brief(con)} is not the id of a connection; con.id is one")
    return con


def reference(value: str) -> str:
    """The reference of a connection, at any gateway."""
    node, slash, number = value.rpartition("/")
    if (
        not slash
        or "/" in node
        or not (number.isascii() and number.isdigit() and len(number) < 20)
        or int(number) > LARGEST_ID
    ):
        raise ValueError(f"{brief(value)} is not the reference of a connection; con.ref is one")
    return str.__str__(value)


def flag(value: object, what: str) -> bool:
    """True or False, or 1 or 0."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{what} must be True or False, not {brief(value)}")


def seconds(value: object, what: str, *, or_zero: bool = False) -> float:
    """A number of seconds above 0; with `or_zero` at least 0."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number of seconds, not {kind_of(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (0 < number <= LONGEST_TIME or (or_zero and number == 0)):
        least = "at least 0" if or_zero else "above 0"
        raise ValueError(
            f"{what} must be {least} and at most {LONGEST_TIME:g} seconds, not {brief(value)}"
        )
    return number


def function(value: object, what: str) -> Callable[..., Any]:
    if callable(value):
        return value
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()
        raise TypeError(f"{what} must be the function itself, not its result")
    raise TypeError(f"{what} must be a function, not {kind_of(value)}")


def line(value: object, what: str) -> str:
    """A text that is valid in an HTTP head."""
    plain = text(value, what)
    if not VALUE.fullmatch(plain):
        raise ValueError(f"{what} must be one line of Latin-1 characters, not {brief(plain)}")
    return plain


def token(value: object, what: str) -> str:
    plain = text(value, what)
    if not NAME.fullmatch(plain):
        raise ValueError(
            f"{what} must be made of ASCII letters, digits and - . _, not {brief(plain)}"
        )
    return plain


def answer_headers(value: object) -> dict[str, str]:
    """Header fields of an answer; None for none."""
    fields = headers(value, OF_ANSWERS)
    total = size_of_headers(fields)
    if total > ANSWER_LIMIT:
        raise ValueError(f"headers of {total} bytes; at most {ANSWER_LIMIT} are sent")
    return fields


def size_of_headers(fields: dict[str, str]) -> int:
    """Bytes of checked header fields."""
    return sum(len(name) + size(content) for name, content in fields.items())


def headers(value: object, reserved: Container[str] = ()) -> dict[str, str]:
    """Header fields; None for none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"headers must be a dict of str to str, not {kind_of(value)}")
    fields = {}
    for name, content in value.items():
        plain = text(name, "the name of a header")
        fields[plain] = text(content, f"the value of the header {brief(plain)}")
    why = header_problem(fields.items(), reserved)
    if why:
        raise ValueError(why)
    return fields


def many(value: object, what: str) -> Iterable[Any]:
    """An iterable that is not a text."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{what}, not {kind_of(value)}")
    return value
