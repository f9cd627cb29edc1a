"""Sans-I/O. The settings `pools`, `routes` and `bridges`: which pools there are, and what is wrong
with them.

`default` is the pool of the setting `workers`; without `pools` it is the only one. It serves the
clients that match no route. If there is no default pool and there are no routes, a single pool
serves all clients. gateway/admission/routes.py finds the pool of a client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final

from wsraw.config import programs
from wsraw.config.addresses import parse_listen
from wsraw.config.origins import Hosts
from wsraw.config.patterns import PARAMETER, Pattern
from wsraw.config.patterns import split as split_path
from wsraw.config.programs import WorkerSpec
from wsraw.config.settings import (
    BRIDGE,
    BridgeSettings,
    PoolSettings,
    RouteSettings,
    Settings,
    replaced,
)
from wsraw.link.open_options import check as check_open
from wsraw.link.open_options import (
    is_local,
    is_websocket_target,
    open_of,
    parse_proxy,
    parse_target,
    path_of_target,
    set_headers,
)
from wsraw.link.records import DEFAULT_POOL, PUSHING_POOL, STATIC_POOL
from wsraw.link.rules import NAME, OF_REQUESTS, framing_problem, header_problem

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_KINDS: Final = ("any", "websocket", "raw", "http")
_OWN: Final = ("dispatch", "delivery", "verdict", "subprotocols")
"""Settings that a pool may override, because they depend on its handlers."""


# --- their short forms ---


def parse_pool(text: str) -> PoolSettings:
    """Read `NAME=WORKERS`, or `NAME`. Raises ValueError that begins with `pools: `."""
    name, equals, workers = text.partition("=")
    if equals and not workers:
        raise ValueError(f"pools: {text!r}: write NAME=WORKERS, as in chat=chat.py:4, or NAME")
    return PoolSettings(name=name, workers=(workers,) if workers else ())


def parse_route(text: str) -> RouteSettings:
    """Read `PATTERN=POOL`. Raises ValueError that begins with `routes: `."""
    pattern, equals, pool = text.rpartition("=")
    if equals and pool and pattern.startswith("/"):
        return RouteSettings(pool=pool, path=pattern)
    if equals and pool and pattern in _KINDS:
        return RouteSettings(pool=pool, kind=pattern)  # type: ignore[arg-type]
    raise ValueError(
        f"routes: {text!r}: write PATTERN=POOL, as in /rooms/{{room}}=chat, raw=feed, "
        "websocket=chat or any=chat; for other conditions use [[routes]] in the settings file"
    )


def parse_bridge(text: str) -> BridgeSettings:
    """Read `TARGET`, or `PATH=TARGET`."""
    path, equals, target = text.partition("=")
    if equals and path.startswith("/"):
        return BridgeSettings(path=path, to=target)
    return BridgeSettings(to=text)


def named(bridges: tuple[BridgeSettings, ...]) -> tuple[BridgeSettings, ...]:
    """The bridges, each with a name: bridges without one get their number."""
    return tuple(
        bridge if bridge.name else replaced(bridge, name=str(number))
        for number, bridge in enumerate(bridges, 1)
    )


def is_bridge(pool: str) -> bool:
    """Whether a pool is a bridge's, which has no workers."""
    return pool.startswith(BRIDGE)


def shown(route: RouteSettings) -> str:
    """A route on one line, for people."""
    named = (("listener ", route.listener), ("host ", route.host), ("", route.path))
    parts = [f"{what}{text}" for what, text in named if text]
    parts += [f"subprotocol {route.subprotocol}"] if route.subprotocol else []
    if route.kind != "any" or not parts:
        parts.append(route.kind)
    text = f"{' '.join(parts)}={route.pool}"
    return text if text.isprintable() else repr(text)


# --- the pools of a run ---


def in_force(settings: Settings) -> dict[str, Settings]:
    """The name of each pool, and the settings of the run with the pool's overrides; `default`
    first."""
    found = {DEFAULT_POOL: settings} if has_default(settings) else {}
    if settings.static:
        found[STATIC_POOL] = replaced(settings, delivery="at-least-once", dispatch="any")
    for pool in settings.pools:
        own = {name: getattr(pool, name) for name in _OWN if getattr(pool, name) is not None}
        found[pool.name] = replaced(settings, **own) if own else settings
    for bridge in settings.bridges:
        # The handshake waits for the target, which has connect_timeout to answer.
        found[bridge.pool] = replaced(
            settings,
            verdict="handlers",
            verdict_timeout=0.0,
            subprotocols=bridge.subprotocols,
        )
    return found


def has_default(settings: Settings) -> bool:
    """Whether there is a `default` pool."""
    return bool(settings.workers) or not (settings.pools or settings.bridges)


def fallback(settings: Settings) -> str | None:
    """The pool of clients that match no route; None: such clients are rejected."""
    if has_default(settings):
        return DEFAULT_POOL
    if not settings.routes and len(settings.pools) == 1:
        return settings.pools[0].name
    return None


def entries(
    settings: Settings, is_file: Callable[[str], bool] | None = None
) -> dict[str, tuple[WorkerSpec, ...]]:
    """The programs to start for each pool; none for a pool whose workers are started by hand.
    `is_file` is the one of `programs.parse`.

    Raises ValueError that begins with the name of a setting.
    """
    look = {"is_file": is_file} if is_file is not None else {}
    found: dict[str, tuple[WorkerSpec, ...]] = {}
    if has_default(settings):
        found[DEFAULT_POOL] = programs.parse_all(settings.workers, **look)
    if settings.static:
        found[STATIC_POOL] = (WorkerSpec(programs.STATIC, 1),)
    for pool in settings.pools:
        try:
            found[pool.name] = programs.parse_all(pool.workers, **look) if pool.workers else ()
        except ValueError as error:
            why = str(error).removeprefix("workers: ")
            raise ValueError(f"pools: {pool.name}: {why}") from error
    if sum(entry.number for each in found.values() for entry in each) > programs.MOST:
        raise ValueError(f"pools: more than {programs.MOST} processes in total")
    return found


# --- checks ---


def check(settings: Settings) -> None:
    """Raises ValueError that begins with `workers`, `pools` or `routes`."""
    names: set[str] = set()
    for pool in settings.pools:
        _check_name(pool.name, names)
        names.add(pool.name)
        check_subprotocols(f"pools: {pool.name}: subprotocols", pool.subprotocols or ())
    entries(settings)
    known = list(in_force(settings))
    for route in settings.routes:
        _check_route(settings, known, route)
    _check_bridges(settings)
    reached = {route.pool for route in settings.routes} | {fallback(settings)}
    for pool in settings.pools:
        if pool.name not in reached:
            hint = f"write one, as in --route /{pool.name}={pool.name}"
            raise ValueError(f"pools: no route leads to {pool.name!r}: {hint}")


def check_subprotocols(where: str, names: Sequence[str]) -> None:
    """Raises ValueError for subprotocols that no client can offer, such as two names in one
    text."""
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{where}: {name!r} is not the name of a subprotocol; write several as a list, as "
                'in ["chat.v2", "chat.v1"]'
            )


def _check_name(name: str, earlier: set[str]) -> None:
    why = ""
    if not _NAME.fullmatch(name):
        why = "is not a pool name: write at most 100 letters, digits, - _ and ."
    elif name == DEFAULT_POOL:
        why = "is the pool of the setting workers: set its workers there"
    elif name == STATIC_POOL:
        why = "is the pool of the setting static: choose another name"
    elif name == PUSHING_POOL:
        why = "is reserved for workers without handlers: choose another name"
    elif name in earlier:
        why = "is given twice: use one [[pools]] table with all its workers, in the settings file"
    if why:
        raise ValueError(f"pools: {name!r} {why}")


def known_pools(pools: Sequence[str]) -> str:
    """The known pools, for a message about an unknown one."""
    if len(pools) == 1:
        return f"the only one is {pools[0]}"
    return f"there are {', '.join(pools) or 'none'}"


def _check_route(settings: Settings, known: Sequence[str], route: RouteSettings) -> None:
    where = f"routes: {shown(route)}: "
    if route.pool not in known:
        near = get_close_matches(route.pool, known, 1)
        hint = f"did you mean {near[0]}?" if near else known_pools(known)
        if route.pool == DEFAULT_POOL:
            hint = "it is the pool of the setting workers, which is not set"
        raise ValueError(f"{where}there is no pool {route.pool!r}; {hint}")
    if route.subprotocol:
        check_subprotocols(f"{where}subprotocol", (route.subprotocol,))
    of_websocket = [key for key in ("path", "host", "subprotocol") if getattr(route, key)]
    if route.kind == "raw" and of_websocket:
        raise ValueError(f"{where}a raw client has no {of_websocket[0]}; leave it out, or kind")
    try:
        Pattern(route.path or "/")
        Hosts((route.host,) if route.host else ())
    except ValueError as error:
        raise ValueError(f"routes: {error}") from error
    if not route.listener:
        return
    matching = [text for text in settings.listen if is_listener(route.listener, text)]
    if not matching:
        there = " and ".join(map(repr, settings.listen))
        raise ValueError(f"{where}there is no listener {route.listener!r}; there are {there}")
    kind = "websocket" if of_websocket else route.kind
    for text in matching:
        protocol = parse_listen(text, settings).protocol
        # A listener for WebSockets alone gets HTTP requests, too.
        if kind == "http" and protocol == "websocket":
            continue
        if "any" not in (kind, protocol) and kind != protocol:
            raise ValueError(f"{where}{route.listener!r} has no {kind} clients")


def _takes_all(bridge: BridgeSettings) -> bool:
    return bridge.kind == "any" and not (bridge.path or bridge.host or bridge.listener)


def _check_bridges(settings: Settings) -> None:
    known = list(in_force(settings))
    names: set[str] = set()
    for number, bridge in enumerate(settings.bridges, 1):
        where = f"bridges: table {number}: "
        if not _NAME.fullmatch(bridge.name) or bridge.name in names:
            why = "is given twice" if bridge.name in names else "is not a name for a bridge"
            raise ValueError(f"{where}name: {bridge.name!r} {why}")
        names.add(bridge.name)
        if number > 1 and _takes_all(settings.bridges[number - 2]):
            raise ValueError(
                f"{where}no client reaches it: the bridge before it takes all; put that one last"
            )
        if bool(bridge.to) == bool(bridge.tokens):
            if bridge.to:
                raise ValueError(f"{where}to: a bridge has either to or tokens, and not both")
            raise ValueError(f"{where}to: write a target, as in tcp://127.0.0.1:5900, or tokens")
        check_subprotocols(f"{where}subprotocols", bridge.subprotocols)
        if bridge.kind == "raw" and bridge.tokens:
            raise ValueError(f"{where}tokens: a raw client has no token; write to, a target")
        why = framing_problem(bridge.framing, bridge.type)
        if why:
            raise ValueError(f"{where}type: {why.removeprefix('type ')}")
        _check_passing(bridge, where)
        if number == 1 and not settings.routes and _is_loop(settings, bridge):
            raise ValueError(f"{where}to: {bridge.to} leads back to this bridge, without end")
        if bridge.proxy:
            try:
                parse_proxy(bridge.proxy)
            except ValueError as error:
                raise ValueError(f"{where}proxy: {error}") from error
        if bridge.to:
            try:
                check_open(open_of(bridge, bridge.to))
            except ValueError as error:
                raise ValueError(f"{where}to: {error}") from error
        try:
            _check_route(settings, known, bridge.route)
        except ValueError as error:
            raise ValueError(f"{where}{str(error).removeprefix('routes: ')}") from error


def _is_loop(settings: Settings, bridge: BridgeSettings) -> bool:
    """Whether clients of a bridge's target come back to that bridge, so that each connection would
    open another one. Only certain loops are found: names may lead back, too."""
    if not bridge.to or bridge.proxy or bridge.host or bridge.listener:
        return False
    try:
        target = parse_target(bridge.to)
    except ValueError:
        # `check_open` reports it.
        return False
    kind = "websocket" if is_websocket_target(bridge.to) else "raw"
    if bridge.kind not in ("any", kind):
        return False
    if bridge.path:
        path = split_path(path_of_target(bridge.to) or "/") if kind == "websocket" else None
        if path is None or Pattern(bridge.path).match(path) is None:
            return False
    for text in settings.listen:
        listen = parse_listen(text, settings)
        is_same = listen.protocol in ("any", kind)
        if target.path:
            is_same = is_same and listen.path == target.path
        else:
            host = "127.0.0.1" if target.host.lower() == "localhost" else target.host
            hosts = ("0.0.0.0", "::") if is_local(target) else ()
            at_host = listen.host.replace("localhost", "127.0.0.1") in (host, *hosts)
            is_same = is_same and at_host and listen.port == target.port
        if is_same:
            return True
    return False


def _check_passing(bridge: BridgeSettings, where: str) -> None:
    """Check that the target of a bridge can use what the bridge passes on."""
    try:
        header_names = set_headers(bridge, {})
        why = header_problem(header_names.items(), OF_REQUESTS)
    except ValueError as error:
        why = str(error)
    if why:
        raise ValueError(f"{where}set_headers: {why}")
    for name in bridge.pass_headers:
        if not NAME.fullmatch(name):
            raise ValueError(f"{where}pass_headers: {name!r} is not the name of a header")
    if len(bridge.pass_headers) > 1 and {"all", "none"} & set(bridge.pass_headers):
        raise ValueError(f"{where}pass_headers: write all, or none, or names")
    if not bridge.to:
        return
    if is_websocket_target(bridge.to):
        known = Pattern(bridge.path).names if bridge.path.startswith("/") else []
        for found in PARAMETER.finditer(path_of_target(bridge.to)):
            if found[1] not in known:
                raise ValueError(f"{where}to: {found[0]} is not a parameter of path")
    elif bridge.set_headers:
        raise ValueError(f"{where}set_headers: only a target with ws:// or wss:// gets headers")


def is_listener(name: str, text: str) -> bool:
    """Whether a route's `listener` is that value of `listen`."""
    return name in (text, text.partition("?")[0])
