"""Sans-I/O. What the settings `pools` and `routes` say: which pools there are, and what is wrong.

`default` is the pool of the setting `workers`; without `pools` it is the only one. It takes whom no
route takes, where it exists; else a single pool without routes takes all. gateway/routing.py finds
the pool of a client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from difflib import get_close_matches
from itertools import product
from typing import Any, Final

from wsraw.config import programs
from wsraw.config.addresses import parse_listen
from wsraw.config.origins import Hosts
from wsraw.config.patterns import Pattern
from wsraw.config.programs import Entry
from wsraw.config.settings import PoolSettings, RouteSettings, Settings, replaced
from wsraw.link.records import DEFAULT_POOL, PUSHING_POOL

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ONLY_KINDS: Final = ("websocket", "raw")
_KINDS: Final = ("any", *_ONLY_KINDS)
_OWN: Final = ("dispatch", "delivery", "verdict", "subprotocols")
"""What a pool may have otherwise than the run."""


class TableError(ValueError):
    """What is wrong with one table: of which setting, the how manieth (from 0), in which key."""

    def __init__(self, setting: str, index: int, key: str, why: str) -> None:
        super().__init__(f"{setting}: {why}")
        self.place = (setting, index, key)


# --- their short form, a text ---


def parse_pool(text: str) -> PoolSettings:
    """`NAME=WORKERS`, or `NAME`."""
    name, equals, workers = text.partition("=")
    if equals and not workers:
        raise ValueError(f"{text!r}: write NAME=WORKERS, as in chat=chat.py:4, or NAME alone")
    return PoolSettings(name=name, workers=(workers,) if workers else ())


def parse_route(text: str) -> RouteSettings:
    """`PATTERN=POOL`. Raises ValueError with a line that says what to write."""
    pattern, equals, pool = text.rpartition("=")
    if equals and pool and pattern.startswith("/"):
        return RouteSettings(pool=pool, path=pattern)
    if equals and pool and pattern in _KINDS:
        return RouteSettings(pool=pool, kind=pattern)  # type: ignore[arg-type]
    raise ValueError(
        f"{text!r}: write PATTERN=POOL, as in /rooms/{{room}}=chat, raw=feed, websocket=chat or "
        "any=chat; for more there is [[routes]] in a file"
    )


def joined(items: Sequence[Any], read: Sequence[PoolSettings]) -> tuple[PoolSettings, ...]:
    """The same pools; of those that were texts, what is said of one name stands together."""
    found: list[PoolSettings] = []
    texts: dict[str, int] = {}
    for item, pool in zip(items, read, strict=True):
        first = texts.get(pool.name) if isinstance(item, str) else None
        if first is not None:
            found[first] = replaced(found[first], workers=found[first].workers + pool.workers)
            continue
        if isinstance(item, str):
            texts[pool.name] = len(found)
        found.append(pool)
    return tuple(found)


def shown(route: RouteSettings) -> str:
    """A route on one line, for people."""
    named = (("listener ", route.listener), ("host ", route.host), ("", route.path))
    parts = [f"{what}{text}" for what, text in named if text]
    parts += [f"subprotocol {route.subprotocol}"] if route.subprotocol else []
    if route.kind != "any" or not parts:
        parts.append(route.kind)
    text = f"{' '.join(parts)}={route.pool}"
    return text if text.isprintable() else repr(text)


# --- what they come to ---


def in_force(settings: Settings) -> dict[str, Settings]:
    """Each pool's name, and the settings of the run with those of its own; `default` first."""
    found = {DEFAULT_POOL: settings} if has_default(settings) else {}
    for pool in settings.pools:
        own = {name: getattr(pool, name) for name in _OWN if getattr(pool, name) is not None}
        found[pool.name] = replaced(settings, **own) if own else settings
    return found


def has_default(settings: Settings) -> bool:
    """Whether there is a pool `default`."""
    return bool(settings.workers) or not settings.pools


def fallback(settings: Settings) -> str | None:
    """The pool of those whom no route takes; None: nobody serves them."""
    if has_default(settings):
        return DEFAULT_POOL
    if not settings.routes and len(settings.pools) == 1:
        return settings.pools[0].name
    return None


def entries(
    settings: Settings, is_file: Callable[[str], bool] | None = None
) -> dict[str, tuple[Entry, ...]]:
    """What is started here, for each pool; nothing for one that workers join by themselves. Raises
    ValueError, and TableError. `is_file`: as in `programs.parse`."""
    look = {"is_file": is_file} if is_file is not None else {}
    found: dict[str, tuple[Entry, ...]] = {}
    if has_default(settings):
        found[DEFAULT_POOL] = programs.parse_all(settings.workers, **look)
    for index, pool in enumerate(settings.pools):
        try:
            found[pool.name] = programs.parse_all(pool.workers, **look) if pool.workers else ()
        except ValueError as error:
            why = str(error).removeprefix("workers: ")
            raise TableError("pools", index, "workers", f"{pool.name}: {why}") from error
    if sum(entry.number for each in found.values() for entry in each) > programs.MOST:
        raise ValueError(f"pools: more than {programs.MOST} processes in all")
    return found


# --- whether they are right ---


def check(settings: Settings) -> None:
    """Raises ValueError with a line for the user, mostly a TableError."""
    names: set[str] = set()
    for index, pool in enumerate(settings.pools):
        _check_name(names, index, pool.name)
        names.add(pool.name)
    entries(settings)
    known = list(in_force(settings))
    patterns = [_check_route(settings, known, *each) for each in enumerate(settings.routes)]
    before = _Earlier()
    for index, (route, pattern) in enumerate(zip(settings.routes, patterns, strict=True)):
        taker = before.find(route, pattern)
        if taker is not None:
            earlier = shown(taker)
            why = f"no client comes to {shown(route)}: {earlier} stands before it and takes all"
            raise TableError("routes", index, "", f"{why}; change their order, or leave it out")
        before.add(route, pattern)
    _check_reached(settings)


class _Earlier:
    """The routes before one, by what they ask for: there may be thousands, and few of them can take
    all clients of another."""

    def __init__(self) -> None:
        self._routes: dict[tuple[Any, ...], list[tuple[int, RouteSettings, Pattern | None]]] = {}
        self._count = 0

    def add(self, route: RouteSettings, pattern: Pattern | None) -> None:
        """One more."""
        beginning = pattern.beginning if pattern is not None else ()
        key = (route.host.lower(), route.subprotocol, route.listener, beginning)
        self._routes.setdefault(key, []).append((self._count, route, pattern))
        self._count += 1

    def find(self, route: RouteSettings, pattern: Pattern | None) -> RouteSettings | None:
        """The first that takes whomever this one would."""
        beginning = pattern.beginning if pattern is not None else ()
        asked = [{"", text} for text in (route.host.lower(), route.subprotocol, route.listener)]
        begun = [beginning[:length] for length in range(len(beginning) + 1)]
        found = [
            (count, one)
            for key in product(*asked, begun)
            for count, one, path in self._routes.get(key, ())
            if _covers(one, path, route, pattern)
        ]
        return min(found, key=lambda each: each[0])[1] if found else None


def _check_name(earlier: Container[str], index: int, name: str) -> None:
    why = ""
    if not _NAME.fullmatch(name):
        why = f"{name!r} is no name: write letters, digits, - _ and ., at most 100"
    elif name == DEFAULT_POOL:
        why = f"{name!r} is the pool of the setting workers: write its workers there"
    elif name == PUSHING_POOL:
        why = f"{name!r} is the pool of workers without handlers: take another name"
    elif name in earlier:
        why = f"{name!r} is there twice: write all its workers into one"
    if why:
        raise TableError("pools", index, "name", why)


def _check_route(
    settings: Settings, known: Sequence[str], index: int, route: RouteSettings
) -> Pattern | None:
    """Its pattern, if it has one. `known`: the names of all pools."""

    def wrong(key: str, why: str) -> TableError:
        return TableError("routes", index, key, why)

    if route.pool not in known:
        near = get_close_matches(route.pool, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(known)}"
        if route.pool == DEFAULT_POOL:
            hint = "it is that of the setting workers, and nothing is said there"
        raise wrong("pool", f"{shown(route)}: there is no pool {route.pool!r}; {hint}")
    of_websocket = [key for key in ("path", "host", "subprotocol") if getattr(route, key)]
    if route.kind == "raw" and of_websocket:
        key = of_websocket[0]
        raise wrong(key, f"{shown(route)}: a raw client tells no {key}; leave it out, or kind")
    try:
        pattern = Pattern(route.path) if route.path else None
    except ValueError as error:
        raise wrong("path", str(error)) from error
    try:
        Hosts((route.host,) if route.host else ())
    except ValueError as error:
        raise wrong("host", str(error)) from error
    if route.listener:
        there = [text for text in settings.listen if is_listener(route.listener, text)]
        if not there:
            all_of_them = " and ".join(map(repr, settings.listen))
            raise wrong("listener", f"{route.listener!r} is none of listen: {all_of_them}")
        kind = "websocket" if of_websocket else route.kind
        for text in there:
            protocol = parse_listen(text, settings).protocol
            if "any" not in (kind, protocol) and kind != protocol:
                raise wrong("listener", f"{route.listener!r} has no client that is {kind}")
    return pattern


def is_listener(said: str, text: str) -> bool:
    """Whether a route means that value of `listen`."""
    return said in (text, text.partition("?")[0])


def _covers(
    one: RouteSettings, path: Pattern | None, other: RouteSettings, other_path: Pattern | None
) -> bool:
    """Whether a route takes whomever the other one would."""
    other_is_websocket = other.path or other.host or other.subprotocol
    kind = "websocket" if other_is_websocket else other.kind
    return (
        one.kind in ("any", kind)
        and (path is None or (other_path is not None and path.covers(other_path)))
        and (not one.host or one.host.lower() == other.host.lower())
        and (not one.subprotocol or one.subprotocol == other.subprotocol)
        and (not one.listener or one.listener == other.listener)
    )


def _check_reached(settings: Settings) -> None:
    """A pool that nobody comes to is a mistake, most likely in a route."""
    led_to = {route.pool for route in settings.routes}
    for index, pool in enumerate(settings.pools):
        if pool.name not in led_to and pool.name != fallback(settings):
            why = f"no client comes to {pool.name!r}: write a route, as in --route /{pool.name}="
            raise TableError("pools", index, "name", f"{why}{pool.name}")
    takers = {kind: route for route in settings.routes for kind in _whole_kinds(route)}
    if settings.workers and len(takers) == len(_ONLY_KINDS) and DEFAULT_POOL not in led_to:
        every = " and ".join(dict.fromkeys(map(shown, takers.values())))
        raise ValueError(f"workers: no client is left for them by {every}; leave out either")


def _whole_kinds(route: RouteSettings) -> tuple[str, ...]:
    """The kinds of which it takes every client."""
    plain = RouteSettings(pool=route.pool, kind=route.kind)
    kinds = _ONLY_KINDS if route.kind == "any" else (route.kind,)
    return kinds if route == plain else ()
