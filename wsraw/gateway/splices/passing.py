"""Sans-I/O. What a WebSocket target is told about its client, and a client about its target.

The path and query of the client's request, its headers and its address go to the target; the
target's answer to the handshake goes to the client: the headers of a 101, or the whole response.

A client can write any header. So those about addresses (X-Forwarded-For, Forwarded and their like)
are never passed on: the gateway writes its own, with the client that it has found to be behind the
proxies that it trusts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

from wsraw.config.addresses import Address, parse_address
from wsraw.config.patterns import PARAMETER
from wsraw.config.settings import BridgeSettings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.http import MAX_ANSWER
from wsraw.gateway.websocket.handshake import MOST_BODY, HandshakeResponse
from wsraw.link.open_options import path_of_target, set_headers
from wsraw.link.records import Open, Reject
from wsraw.link.rules import OF_ANSWERS, split_host_port

_HOPS: Final = frozenset(
    ("keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
)
"""Headers of one connection (RFC 9110, section 7.6.1), beside those that the gateway sets
itself."""

_NOT_PASSED: Final = OF_ANSWERS | _HOPS | {"expect", "host", "forwarded", "x-real-ip"}
_FORWARDED: Final = "x-forwarded-"

_OURS: Final = ("method", "url", "Protocol")
"""Items of `inf` that are not headers."""

_NOT_REFUSALS: Final = (304, 407)
"""Statuses from 300 to 599 that are not passed on, because they mean nothing to the client."""

_TOKEN: Final = re.compile(r"(?:^|&)token=[^&]*")


# --- to the target ---


def request_of(bridge: BridgeSettings, con: Connection, asked: Open) -> Open:
    """The `open` for a client's target, with the parts of the client's request that are passed
    on."""
    if asked.protocol != "websocket":
        return asked
    headers = _address_headers(bridge, con)
    if con.websocket is None:
        asked.options["headers"] = set_headers(bridge, headers)
        return asked
    host = con.inf.get(_spelled(con, "host"), "")
    passes_host = bridge.pass_host
    if passes_host is None:
        passes_host = not asked.target.startswith("wss://")
    if passes_host:
        asked.host = host
    passed = dict(_passed(bridge, con, "@" in asked.target.partition("://")[2].partition("/")[0]))
    asked.options["headers"] = set_headers(bridge, passed | headers)
    asked.url = _url(bridge, con, path_of_target(asked.target))
    return asked


def _spelled(con: Connection, name: str) -> str:
    return next((key for key in con.inf if key.lower() == name and key not in _OURS), "")


def _passed(bridge: BridgeSettings, con: Connection, has_login: bool) -> Iterator[tuple[str, str]]:
    """The client's headers that the target gets. `has_login`: the target's URL has a login, which
    replaces the client's."""
    wanted = {name.lower() for name in bridge.pass_headers}
    if wanted == {"none"}:
        return
    named = {
        each.strip().lower() for each in con.inf.get(_spelled(con, "connection"), "").split(",")
    }
    for name, value in con.inf.items():
        lower = name.lower()
        if (
            name in _OURS
            or lower in _NOT_PASSED
            or lower in named
            or lower.startswith(_FORWARDED)
            or (lower == "authorization" and has_login)
            or not ("all" in wanted or lower in wanted)
        ):
            continue
        yield name, value


def _url(bridge: BridgeSettings, con: Connection, own: str) -> str:
    """The path and query for a target; `own` are those of the target."""
    path, _, query = con.inf.get("url", "").partition("?")
    if bridge.tokens and "token" not in con.about.get("params", {}):
        # The token has selected the target, and is a secret between the client and us.
        query = _TOKEN.sub("", query).removeprefix("&")
    if own:
        path, mark, own_query = _filled(bridge, con, own).partition("?")
        query = own_query if mark else query
    return f"{path}?{query}" if query else path


def _filled(bridge: BridgeSettings, con: Connection, own: str) -> str:
    """A target's path with the values of the parameters, encoded, so that no value can end a
    segment or the path."""
    params: dict[str, str] = con.about.get("params", {})

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in params:
            return found[0]
        is_rest = f"{{{name}...}}" in bridge.path and "?" not in own[: found.start()]
        return quote(params[name], safe="/" if is_rest else "")

    return PARAMETER.sub(value, own)


def _address_headers(bridge: BridgeSettings, con: Connection) -> dict[str, str]:
    """Headers about the client, in the form that the target reads."""
    address, port = client_of(con.about)
    scheme, host = "", ""
    if con.websocket is not None:
        scheme = "https" if con.about.get("scheme") == "wss" or "tls" in con.about else "http"
        host = con.inf.get(_spelled(con, "host"), "")
    if bridge.send_forwarded == "forwarded":
        node = "unknown"
        if address is not None:
            bare = f"[{address}]" if address.version == 6 else str(address)
            node = f"{bare}:{port}" if port else bare
        pairs = [f"for={_quoted(node)}"]
        pairs += [f"host={_quoted(host)}"] if host else []
        pairs += [f"proto={scheme}"] if scheme else []
        return {"Forwarded": ";".join(pairs)}
    if bridge.send_forwarded == "x-forwarded-for":
        found = {
            "X-Forwarded-For": str(address) if address is not None else "",
            "X-Forwarded-Host": host,
            "X-Forwarded-Proto": scheme,
        }
        return {name: value for name, value in found.items() if value}
    return {}


def _quoted(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def client_of(about: dict[str, Any]) -> tuple[Address | None, int]:
    """The address and port of a client. The address is None if the client has none, or a proxy
    hides it; the port is 0 if it is not known."""
    peer = about.get("peer", "")
    bare = parse_address(peer)
    if bare is not None:
        return bare, 0
    host, port = split_host_port(peer) or ("", None)
    return parse_address(host), port or 0


# --- to the client ---


def answered(con: Connection) -> list[tuple[str, str]]:
    """The headers of the target's 101 that its client gets."""
    several: dict[str, list[str]] = con.about.get("repeated", {})
    passed = []
    for name, value in con.inf.items():
        lower = name.lower()
        if name in _OURS or not _is_passed_back(lower):
            continue
        for each in several.get(lower, (value,)):
            passed.append((name, each))
    return passed


def refused(con_id: int, response: HandshakeResponse | None) -> Reject | None:
    """The response for a client whose target has refused the handshake; None if the target's
    response cannot be passed on."""
    if response is None or not 300 <= response.status <= 599 or response.status in _NOT_REFUSALS:
        return None
    headers: dict[str, str] = {}
    for name, value in response.fields:
        if not _is_passed_back(name.lower()):
            continue
        known = next((each for each in headers if each.lower() == name.lower()), None)
        if known is None:
            headers[name] = value
        elif known.lower() != "set-cookie":
            headers[known] = f"{headers[known]}, {value}"
    body = response.body
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(body) >= MOST_BODY or len(body) + size > MAX_ANSWER:
        # The body was cut, or would have to be.
        body = b""
        headers = _without(headers, ("content-type", "content-encoding"))
    if size > MAX_ANSWER:
        return None
    return Reject(con_id, response.status, "", headers, body)


def _is_passed_back(lower: str) -> bool:
    return lower not in OF_ANSWERS and lower not in _HOPS


def _without(headers: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in names}
