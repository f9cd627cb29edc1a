"""Sans-I/O. What an opened WebSocket asks for, checked; and headers as handlers see them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from wsraw.gateway.http import TOKEN, VALUE
from wsraw.messages import Open

_TARGET: Final = re.compile(r"/[\x21-\x7e]*")
_OURS: Final = {
    "upgrade",
    "connection",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
}


def path_of(open_: Open) -> str:
    """The request's target. Raises ValueError."""
    path = open_.url if open_.url not in ("", "/") else _split_target(open_.target)[1]
    if not _TARGET.fullmatch(path):
        raise ValueError(f"{path!r} is no url; it begins with / and is plain ASCII")
    return path


def headers_of(open_: Open) -> Iterator[tuple[str, str]]:
    """What the request says beside the handshake; a later header replaces an earlier one.

    Raises ValueError for what cannot be said.
    """
    yield _checked("Host", open_.host or _split_target(open_.target)[0])
    if open_.orig:
        yield _checked("Origin", open_.orig)
    extra = open_.options.get("headers") or {}
    if not isinstance(extra, dict):
        raise ValueError("the option headers must map names to values")
    for name, value in extra.items():
        yield _checked(name, value)


def subprotocols_of(open_: Open) -> list[Any] | None:
    """The names to offer. Raises ValueError."""
    names = open_.options.get("subprotocols")
    if not names:
        return None
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and TOKEN.fullmatch(name) for name in names
    ):
        raise ValueError("the option subprotocols must be a list of names")
    return list(names)


def deflate_of(open_: Open, default: bool) -> bool:
    """Whether to offer compression. Raises ValueError."""
    asked = open_.options.get("deflate", default)
    if not isinstance(asked, bool):
        raise ValueError("the option deflate must be true or false")
    return asked


def _checked(name: object, value: object) -> tuple[str, str]:
    # A line break in a value would begin a header, or a request, of somebody else's choice.
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if not isinstance(value, str) or not VALUE.fullmatch(value):
        raise ValueError(f"{value!r} is no value for the header {name}")
    if name.lower() in _OURS:
        raise ValueError(f"the header {name} belongs to the handshake")
    return name, value


def _split_target(target: str) -> tuple[str, str]:
    """Host and path of what is dialled; a unix socket has no host."""
    scheme, separator, rest = target.partition("://")
    if target.startswith("unix:") or scheme == "unix":
        return "localhost", "/"
    host, slash, path = (rest if separator else target).partition("/")
    host, mark, query = host.partition("?")
    return host, f"/{path}" if slash else f"/{mark}{query}"


def to_inf(inf: dict[str, str], headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers as the peer spelled them, duplicates joined (cookies as RFC 9113, section 8.2.3, says
    it); the names in `inf` stay ours."""
    spelled: dict[str, str] = {}
    ours = dict(inf)
    for name, value in headers:
        lower = name.lower()
        known = spelled.setdefault(lower, name)
        joint = "; " if lower == "cookie" else ", "
        inf[known] = f"{inf[known]}{joint}{value}" if known in inf else value
    inf.update(ours)
    return inf
