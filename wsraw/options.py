"""Sans-I/O. What the command line, the environment, the file and the docs need to know of settings.

A size may come as `256KiB` and a time as `5m`; units.py reads them.
"""

from __future__ import annotations

import json
import math
import re
import sys
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from wsraw import settings as settings_module
from wsraw import units
from wsraw.settings import Settings


class Option(msgspec.Struct, frozen=True):
    """A setting as the command line, the environment and the docs need it."""

    name: str
    kind: Literal["text", "texts", "choice", "switch", "count", "number", "size", "time"]
    default: Any
    meaning: str
    minimum: int = 0
    """Of a count or a number."""
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    is_path: bool = False


def options() -> list[Option]:
    """Every setting, in order."""
    return list(_by_name().values())


def names() -> tuple[str, ...]:
    """The names of all settings, in order."""
    return tuple(_by_name())


def option(name: str) -> Option:
    """The setting of that name. Raises KeyError if there is none."""
    return _by_name()[name]


@cache
def _by_name() -> dict[str, Option]:
    hints = get_type_hints(Settings, include_extras=True)
    fields = msgspec.structs.fields(Settings)
    return {field.name: _option(field, hints[field.name]) for field in fields}


def _option(field: msgspec.structs.FieldInfo, hint: Any) -> Option:
    # Annotated[Annotated[float, …], …] is flat: the type first, then every Meta.
    kind, *metas = get_args(hint)
    extra: dict[str, Any] = {}
    for meta in metas:
        extra.update(meta.extra or {})
    what: Any
    if get_origin(kind) is Literal:
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
    )


# --- values ---


def read(name: str, value: Any) -> Any:
    """A value of a setting, checked by itself. Raises ValueError with a line for the user.

    A size or a time may be a text with a unit, a list of texts may be one text.
    """
    known = _by_name().get(name)
    if known is None:
        raise ValueError(f"{name}: there is no such setting{did_you_mean(name)}")
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
        settings = settings_module.convert({name: value})
    except ValueError as error:
        hint = {
            "size": units.SIZE_HINT,
            "time": units.TIME_HINT,
            "switch": "write true or false",
            "choice": f"write {' or '.join(known.choices)}",
        }.get(known.kind)
        raise ValueError(f"{error}; {hint}" if hint else str(error)) from error
    value = getattr(settings, name)
    if isinstance(value, float) and not math.isfinite(value):
        what = "length of time; 0 switches a time off" if known.kind == "time" else "number"
        raise ValueError(f"{name}: {value} is no {what}")
    return value


def nearest(name: str, cutoff: float = 0.6) -> str | None:
    """The setting that somebody may have meant, if there is one so much alike (0 to 1)."""
    near = get_close_matches(re.sub(r"[^a-z0-9]", "_", name.lower()), names(), 1, cutoff)
    return near[0] if near else None


def did_you_mean(name: str) -> str:
    """What to put behind "there is no such setting"."""
    near = nearest(name)
    return f"; did you mean {near}?" if near else ""


# --- what is made of them ---


def toml(option: Option, value: Any) -> str:
    """A value as it can stand in a TOML file."""
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


def _quote(text: str) -> str:
    # JSON escapes as TOML does, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def table() -> str:
    """The settings table of docs/operations.md."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [f"| `{o.name}` | `{toml(o, o.default)}` | {o.meaning} |" for o in options()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
