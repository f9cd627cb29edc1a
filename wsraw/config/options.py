"""Sans-I/O. What the command line, the environment, the file and the docs need to know of settings.

A size may come as `256KiB` and a time as `5m`; units.py reads them. A setting of the kind `tables`
has several values, each with keys of its own or in the short form of a text; pools.py reads that.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from wsraw.config import pools as pools_module
from wsraw.config import settings as settings_module
from wsraw.config import units
from wsraw.config.pools import TableError
from wsraw.config.settings import PoolSettings, RouteSettings, Settings

TABLES: Final[dict[str, type[msgspec.Struct]]] = {"pools": PoolSettings, "routes": RouteSettings}
"""Settings that are tables, and the keys that each of these may have."""

_TEXTS: Final = {"pools": pools_module.parse_pool, "routes": pools_module.parse_route}


class Option(msgspec.Struct, frozen=True):
    """A setting as the command line, the environment and the docs need it."""

    name: str
    kind: Literal["text", "texts", "choice", "switch", "count", "number", "size", "time", "tables"]
    default: Any
    meaning: str
    minimum: int = 0
    """Of a count or a number."""
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    is_path: bool = False
    flag: str = ""
    """What the command line calls it."""


def options() -> list[Option]:
    """Every setting, in order."""
    return list(_of(Settings).values())


def names() -> tuple[str, ...]:
    """The names of all settings, in order."""
    return tuple(_of(Settings))


def option(name: str) -> Option:
    """The setting of that name. Raises KeyError if there is none."""
    return _of(Settings)[name]


def keys_of(name: str) -> list[Option]:
    """The keys of a setting that is a list of tables, in order."""
    return list(_of(TABLES[name]).values())


@cache
def _of(struct: type[msgspec.Struct]) -> dict[str, Option]:
    """The fields of settings, or of one of their tables."""
    hints = get_type_hints(struct, include_extras=True)
    fields = msgspec.structs.fields(struct)
    return {field.name: _option(field, hints[field.name]) for field in fields}


def _option(field: msgspec.structs.FieldInfo, hint: Any) -> Option:
    # Annotated[Annotated[float, …], …] is flat: the type first, then every Meta.
    kind, *metas = get_args(hint)
    extra: dict[str, Any] = {}
    for meta in metas:
        extra.update(meta.extra or {})
    # What may be left out as None is otherwise as it says.
    kind = next((each for each in get_args(kind) if NoneType in get_args(kind) and each), kind)
    what: Any
    if field.name in TABLES:
        what = "tables"
    elif get_origin(kind) is Literal:
        what = "choice"
    elif get_origin(kind) is tuple:
        what = "texts"
    else:
        plain = {bool: "switch", str: "text", int: "count", float: "number"}
        what = extra.get("unit", plain[kind])
    return Option(
        field.name,
        what,
        field.default,
        " ".join(meta.description for meta in metas if meta.description),
        max((meta.ge for meta in metas if meta.ge is not None), default=0),
        min((meta.le for meta in metas if meta.le is not None), default=None),
        get_args(kind) if what == "choice" else (),
        extra.get("path", False),
        extra.get("flag", field.name.replace("_", "-")),
    )


# --- values ---


def read(name: str, value: Any) -> Any:
    """A value of a setting, checked by itself. Raises ValueError with a line for the user.

    A size or a time may be a text with a unit, a list of texts may be one text.
    """
    known = _of(Settings).get(name)
    if known is None:
        raise ValueError(f"{name}: there is no such setting{did_you_mean(name)}")
    if known.kind == "tables":
        return _read_tables(name, value)
    return _read(known, value, Settings)


def _read(known: Option, value: Any, struct: type[msgspec.Struct]) -> Any:
    name = known.name
    if isinstance(value, str):
        try:
            if known.kind == "size":
                value = units.parse_size(value)
            elif known.kind == "time":
                value = units.parse_time(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if known.kind == "texts":
            value = (value,)
    try:
        value = settings_module.convert_field(name, value, struct)
    except ValueError as error:
        raise ValueError(f"{error}; {_advice(known, value)}") from error
    if isinstance(value, float) and not math.isfinite(value):
        what = "length of time; 0 switches a time off" if known.kind == "time" else "number"
        raise ValueError(f"{name}: {value} is no {what}")
    return value


def _advice(known: Option, value: Any) -> str:
    """What to write instead."""
    least = f"{known.minimum} or more"
    if known.maximum is not None:
        least = f"from {known.minimum} to {known.maximum}"
    bare = ", without quotes" if isinstance(value, str) else ""
    return {
        "text": "write a text in quotes",
        "texts": "write a text in quotes, or a list of such",
        "choice": f"write {' or '.join(known.choices)}",
        "switch": "write true or false",
        "count": f"write a whole number, {least}{bare}",
        "number": f"write a number, {least}{bare}",
        "size": units.SIZE_HINT,
        "time": units.TIME_HINT,
    }[known.kind]


def _read_tables(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: write [[{name}]] over each of them")
    read = [_read_table(name, index, item) for index, item in enumerate(value)]
    return pools_module.joined(value, read) if name == "pools" else tuple(read)


def _read_table(name: str, index: int, item: Any) -> Any:
    """One of several; a text is its short form. Raises TableError."""
    struct = TABLES[name]
    if isinstance(item, struct):
        return item
    if isinstance(item, str):
        try:
            return _TEXTS[name](item)
        except ValueError as error:
            raise TableError(name, index, "", str(error)) from error
    if not isinstance(item, dict):
        raise TableError(name, index, "", f"{item!r}: write a table, or a text")
    known, values = _of(struct), {}
    for key, value in item.items():
        if key not in known:
            near = f"; did you mean {found}?" if (found := nearest(key, among=known)) else ""
            shown = key if key.isprintable() else repr(key)
            raise TableError(name, index, key, f"{shown}: there is no such key in [[{name}]]{near}")
        try:
            values[key] = _read(known[key], value, struct)
        except ValueError as error:
            raise TableError(name, index, key, str(error)) from error
    try:
        return struct(**values)
    except TypeError as error:
        missing = [field.name for field in msgspec.structs.fields(struct) if field.required]
        why = f"{' and '.join(missing)} must be said in each [[{name}]]"
        raise TableError(name, index, "", why) from error


def nearest(name: str, cutoff: float = 0.6, among: Iterable[str] = ()) -> str | None:
    """The setting that somebody may have meant, if there is one so much alike (0 to 1)."""
    known = tuple(among) or names()
    near = get_close_matches(re.sub(r"[^a-z0-9]", "_", name.lower()), known, 1, cutoff)
    return near[0] if near else None


def did_you_mean(name: str) -> str:
    """What to put behind "there is no such setting"."""
    near = nearest(name)
    return f"; did you mean {near}?" if near else ""


# --- what is made of them ---


def toml(option: Option, value: Any) -> str:
    """A value as it can stand in a TOML file."""
    if option.kind == "tables":
        return f"[{', '.join(map(_inline, value))}]"
    if option.kind == "texts":
        return f"[{', '.join(map(_quote, value))}]"
    if option.kind == "switch":
        return str(value).lower()
    if option.kind == "size":
        shown = units.show_size(value)
        return shown if shown.isdigit() else _quote(shown)
    if option.kind == "time":
        return _quote(units.show_time(value))
    return str(value) if option.kind in ("count", "number") else _quote(value)


def _inline(table: msgspec.Struct) -> str:
    """A table on one line, without what is at its default."""
    known = _of(type(table))
    said = [
        f"{name} = {toml(option, getattr(table, name))}"
        for name, option in known.items()
        if getattr(table, name) != option.default
    ]
    return f"{{{', '.join(said)}}}"


def _quote(text: str) -> str:
    # JSON escapes as TOML does, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
