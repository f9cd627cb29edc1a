"""Sans-I/O. Settings for the command line, the environment, the file and the docs: what each of
them takes, and how its value is read and written.

A value may be a text wherever it comes from: `256KiB`, `5m`, `no`. A setting of the kind `tables`
has several values, each a table or, as a text, its short form, which pools.py reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from wsraw.config import pools as pools_module
from wsraw.config import units
from wsraw.config.settings import (
    BridgeSettings,
    HistorySettings,
    PoolSettings,
    RouteSettings,
    Settings,
)
from wsraw.link.rules import hide_logins

SECTIONS: Final = {
    "workers": "Handlers and workers",
    "listen": "Listeners",
    "tls": "TLS",
    "verdict": "Who may connect",
    "max_connections": "Limits for clients",
    "ping_interval": "Connections",
    "deflate": "Compression",
    "run_dir": "Processes",
    "admin": "Metrics and health checks",
    "worker_listen": "Workers on other machines",
    "cluster": "Several gateways",
}
"""The headings in `--help` and in the docs, each by its first setting."""

TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "pools": PoolSettings,
    "routes": RouteSettings,
    "bridges": BridgeSettings,
    "history": HistorySettings,
}
"""Settings that are tables, and the struct with the keys of each."""

_FLAGS: Final = {"pools": "pool", "routes": "route", "bridges": "bridge"}
"""Names on the command line that differ from those of the settings."""


def parse_history(text: str) -> HistorySettings:
    """Read `GROUPS=MESSAGES`, or `GROUPS=MESSAGES,TIME`. Raises ValueError that begins with
    `history: `."""
    groups, _, kept = text.rpartition("=")
    messages, comma, time = kept.partition(",")
    if not (groups and messages.isascii() and messages.isdigit() and len(messages) < 10):
        raise ValueError(f"history: {text!r}: write GROUPS=MESSAGES,TIME, as in room.*=100,5m")
    values: dict[str, Any] = {"groups": groups, "messages": messages}
    if comma:
        values["time"] = time
    known = _of(HistorySettings)
    try:
        return HistorySettings(**{name: _read(known[name], values[name]) for name in values})
    except ValueError as error:
        raise ValueError(f"history: {text!r}: {error}") from error


_SHORT_FORMS: Final = {
    "pools": pools_module.parse_pool,
    "routes": pools_module.parse_route,
    "bridges": pools_module.parse_bridge,
    "history": parse_history,
}

_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

LARGEST: Final = 1e15
"""The largest number of any setting. Clocks overflow long before 1e308 seconds, and system calls at
2**63 bytes."""


class Option(msgspec.Struct, frozen=True):
    """A setting, or a key of a table."""

    name: str
    kind: Literal["text", "texts", "choice", "switch", "count", "number", "size", "time", "tables"]
    type: Any
    default: Any
    of: type[msgspec.Struct]
    minimum: int = 0
    """The smallest value of a count, a number or a size."""
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    is_path: bool = False
    flag: str = ""
    """The name on the command line."""
    section: str = ""

    @property
    def meaning(self) -> str:
        """The docstring of the setting."""
        return _meanings(self.of).get(self.name, "")


def options() -> list[Option]:
    """Every setting, in order."""
    return list(_of(Settings).values())


def option(name: str) -> Option:
    """The setting of that name. Raises KeyError if there is none."""
    return _of(Settings)[name]


def keys_of(name: str) -> list[Option]:
    """The keys of a setting that is a list of tables, in order."""
    return list(_of(TABLES[name]).values())


@cache
def _of(struct: type[msgspec.Struct]) -> dict[str, Option]:
    hints = get_type_hints(struct, include_extras=True)
    found, section = {}, ""
    for field in msgspec.structs.fields(struct):
        name = field.name
        section = SECTIONS.get(name, section)
        found[name] = _option(struct, field, hints[name], section)
    return found


@cache
def _meanings(struct: type) -> dict[str, str]:
    """The docstrings of a struct's fields, which only its source has; empty without the source.
    Reading the source takes longer than all else here, so only the help does it."""
    import ast
    import inspect

    try:
        source = inspect.getsource(struct)
    except OSError:
        return {}
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _option(
    struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo, hint: Any, section: str
) -> Option:
    kind, *metas = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    extra: dict[str, Any] = {}
    for meta in metas:
        extra.update(meta.extra or {})
    # The kind of `X | None` is that of X.
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
        hint,
        field.default,
        struct,
        max((meta.ge for meta in metas if meta.ge is not None), default=0),
        min((meta.le for meta in metas if meta.le is not None), default=None),
        get_args(kind) if what == "choice" else (),
        extra.get("path", False),
        _FLAGS.get(field.name, field.name.replace("_", "-")),
        section,
    )


# --- reading values ---


def read(name: str, value: Any) -> Any:
    """The value of a setting, checked without the others. Raises ValueError that begins with the
    name."""
    known = _of(Settings).get(name)
    if known is None:
        raise ValueError(f"{name}: there is no such setting{did_you_mean(name)}")
    return _read_tables(name, value) if known.kind == "tables" else _read(known, value)


def _read(known: Option, value: Any) -> Any:
    try:
        found = _from_text(known, value) if isinstance(value, str) else value
        found = msgspec.convert(found, known.type)
        if isinstance(found, float | int) and not found <= LARGEST:
            raise ValueError("too large")
    except ValueError as error:
        shown = "" if isinstance(value, dict) else f" {value!r}:"
        raise ValueError(f"{known.name}:{shown} {_advice(known)}") from error
    for text in found if isinstance(found, tuple) else (found,):
        # TOML can contain a NUL character; no path or name may.
        if isinstance(text, str) and "\0" in text:
            raise ValueError(f"{known.name}: {text!r}: it contains a null character")
    return found


def _from_text(known: Option, text: str) -> Any:
    if known.kind == "size":
        return units.parse_size(text)
    if known.kind == "time":
        return units.parse_time(text)
    if known.kind == "count":
        return int(text) if len(text) < 20 else text
    if known.kind == "number":
        return float(text)
    if known.kind == "switch":
        return _SWITCHES.get(text.lower(), text)
    return (text,) if known.kind == "texts" else text


def _advice(known: Option) -> str:
    """The part of an error that says what to write instead."""
    bounds = f"{known.minimum} or more"
    size = f"; {units.show_size(known.minimum)} or more" if known.minimum > 1 else ""
    time = ""
    if known.maximum is not None:
        bounds = f"from {known.minimum} to {known.maximum}"
        size = f"{size}; at most {units.show_size(known.maximum)}"
        time = f"; at most {units.show_time(known.maximum)}"
    return {
        "text": "write a text in quotes",
        "texts": "write a text in quotes, or a list of them",
        "choice": f"write {' or '.join(known.choices)}",
        "switch": "write true or false",
        "count": f"write a whole number, {bounds}",
        "number": f"write a number, {bounds}",
        "size": f"{units.SIZE_HINT}{size}",
        "time": f"{units.TIME_HINT}{time}; 0 switches it off",
    }[known.kind]


def _read_tables(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: write [[{name}]] above each of its tables")
    found = tuple(_read_table(name, number, item) for number, item in enumerate(value, 1))
    return pools_module.named(found) if name == "bridges" else found


def _read_table(name: str, number: int, item: Any) -> Any:
    struct = TABLES[name]
    if isinstance(item, struct):
        return item
    if isinstance(item, str):
        return _SHORT_FORMS[name](item)
    where = f"{name}: table {number}: "
    if not isinstance(item, dict):
        raise ValueError(f"{where}{item!r}: write a table, or a text")
    known, values = _of(struct), {}
    for key, value in item.items():
        if key not in known:
            near = f"; did you mean {found}?" if (found := nearest(key, among=known)) else ""
            shown = key if key.isprintable() else repr(key)
            raise ValueError(f"{where}{shown}: there is no such key in [[{name}]]{near}")
        try:
            values[key] = _read(known[key], value)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    try:
        return struct(**values)
    except TypeError as error:
        missing = [key for key, option in known.items() if option.default is msgspec.NODEFAULT]
        raise ValueError(f"{where}{' and '.join(missing)} must be given") from error


def nearest(name: str, cutoff: float = 0.6, among: Iterable[str] = ()) -> str | None:
    """The setting that was probably meant, if one is similar enough (`cutoff`, from 0 to 1)."""
    near = re.sub(r"[^a-z0-9]", "_", name.lower())
    found = get_close_matches(near, tuple(among) or tuple(_of(Settings)), 1, cutoff)
    return found[0] if found else None


def did_you_mean(name: str) -> str:
    """The end of a message about an unknown setting."""
    near = nearest(name)
    return f"; did you mean {near}?" if near else ""


# --- writing values ---


def as_text(option: Option, value: Any) -> str:
    """A value of one word as the command line and the environment take it."""
    if option.kind == "texts":
        return " ".join(value)
    if option.kind == "switch":
        return "on" if value else "off"
    if option.kind == "size":
        return units.show_size(value)
    if option.kind == "time":
        return units.show_time(value)
    return f"{value:g}" if option.kind == "number" else str(value)


def toml(option: Option, value: Any) -> str:
    """A value as it is written in a TOML file."""
    if option.kind == "tables":
        return f"[{', '.join(map(_inline, value))}]"
    if option.kind == "time" or (option.kind == "size" and as_text(option, value) != str(value)):
        value = as_text(option, value)
    # JSON escapes characters like TOML, with one exception.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def without_secrets(value: Any, key: str = "") -> Any:
    """A value for people who may see the settings but not the passwords in them: it lacks those in
    URLs, in the queries of targets, and in headers for targets."""
    if isinstance(value, tuple):
        return tuple(without_secrets(each, key) for each in value)
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        return type(value)(**{each: without_secrets(getattr(value, each), each) for each in names})
    if not isinstance(value, str):
        return value
    if key == "set_headers":
        name, colon, text = value.partition(":")
        return f"{name}: ..." if colon and text.strip() else value
    return _TARGET.sub(_hidden, value) if key == "to" else hide_logins(value)


_TARGET: Final = re.compile(r"(?<=://)([^/?#]*@)?([^?#]*)(\?.*)?", re.DOTALL)
"""A valid target: user and password, where it leads, and the query."""


def _hidden(target: re.Match[str]) -> str:
    login, place, query = target.groups()
    return f"{'...@' if login else ''}{place}{'?...' if query else ''}"


def _inline(table: msgspec.Struct) -> str:
    """A table on one line, without keys that have their default."""
    known = _of(type(table))
    given = [
        f"{name} = {toml(option, getattr(table, name))}"
        for name, option in known.items()
        if getattr(table, name) != option.default
    ]
    return f"{{{', '.join(given)}}}"
