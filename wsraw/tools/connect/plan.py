"""Sans-I/O. What `wsraw connect` must do: its options, and where its URL leads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from wsraw.link.rules import NAME, OF_REQUESTS, header_problem, split_host_port

PORTS: Final = {"ws": 80, "wss": 443}

_SCHEMES: Final = {
    "ws": (True, False),
    "wss": (True, True),
    "tcp": (False, False),
    "raw": (False, False),
    "tls": (False, True),
}
"""Scheme → whether it is a WebSocket, whether it has TLS."""
_UNIX: Final = re.compile(r"(?:(ws|wss|tls)\+)?unix:(?://(?=/))?(.*)", re.DOTALL)

_HOST: Final = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_ORIGIN: Final = re.compile(r"[!-~]+")

_EXAMPLES: Final = (
    "write ws://HOST:PORT/PATH, wss://HOST/PATH, tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or "
    "ws+unix:SOCKET:/PATH"
)


class PlanError(Exception):
    """An option or the URL is wrong. The text says what to write instead."""


class Target(NamedTuple):
    """Where a URL leads."""

    is_websocket: bool
    has_tls: bool
    host: str
    """The name to resolve, and the one that a certificate must have."""
    port: int
    unix: str
    """The path of a unix socket instead of host and port."""
    url: str
    """For a WebSocket: the URL of the handshake, with its secrets."""
    shown: str
    """The URL without its secrets: without userinfo and query."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options, checked."""

    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    ping: float = 0.0
    """Seconds between two pings; 0: none."""
    timeout: float = 10.0
    """Seconds for the connection; 0: no limit."""
    commands: tuple[str, ...] | None = None
    """The commands of --exec; None: read stdin."""
    count: int = 0
    """End after this many messages; 0: no limit."""
    wait: float = 1.0
    """Seconds of silence after the input has ended; 0: until the peer closes."""
    as_json: bool = False
    binary: bool = False
    crlf: bool = False
    insecure: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def line_end(self) -> str:
        """The characters that end a line for a raw peer."""
        if self.binary:
            return ""
        return "\r\n" if self.crlf else "\n"


def parse_url(text: str, host: str = "") -> Target:
    """Read a URL; `host` replaces the name in the Host header and in TLS.

    Raises PlanError.
    """
    found = _UNIX.fullmatch(text)
    if found is not None:
        return _unix_target(found[1] or "", found[2], host)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise PlanError(f"the URL is wrong: {error}") from None
    if "://" not in text or parts.scheme not in _SCHEMES:
        raise PlanError(_wrong_scheme(text, parts))
    is_websocket, has_tls = _SCHEMES[parts.scheme]
    if not parts.hostname:
        raise PlanError(f"the URL has no host: {_EXAMPLES}")
    shown_place = parts.netloc.rpartition("@")[2]
    if not is_websocket:
        if port is None:
            raise PlanError(f"the URL has no port: write {parts.scheme}://{shown_place}:PORT")
        if parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
            raise PlanError(
                f"a {parts.scheme}:// URL has a host and a port only; for a WebSocket write "
                f"{'wss' if has_tls else 'ws'}://…"
            )
        shown = f"{parts.scheme}://{shown_place}"
        return Target(False, has_tls, parts.hostname, port, "", host, shown)
    _check_parts(parts)
    if host and not _HOST.fullmatch(host):
        raise PlanError(f"--host {host!r}: write a name, or NAME:PORT")
    path = parts.path or "/"
    shown = f"{parts.scheme}://{shown_place}{path}{'?...' if parts.query else ''}"
    place = _with_host(parts.netloc, host)
    url = f"{parts.scheme}://{place}{path}{'?' + parts.query if parts.query else ''}"
    where = parts.hostname, port or PORTS[parts.scheme]
    return Target(True, has_tls, *where, "", url, shown)


def _wrong_scheme(text: str, parts: SplitResult) -> str:
    if parts.scheme in ("http", "https") and "://" in text:
        scheme = "wss" if parts.scheme == "https" else "ws"
        return f"{parts.scheme}:// is not a scheme of sockets: write {scheme}://… instead"
    if "://" not in text and split_host_port(text.partition("/")[0]) is not None:
        place = text.partition("@")[2] or text
        shown = place.partition("?")[0]
        return f"the URL has no scheme: write ws://{shown} for a WebSocket, tcp://… for raw TCP"
    return f"the URL is not one of a socket: {_EXAMPLES}"


def _check_parts(parts: SplitResult) -> None:
    if parts.fragment:
        raise PlanError("a WebSocket URL has no part after #: leave it out, or write %23")
    if parts.username is not None and parts.password is None:
        raise PlanError("the URL has a user without a password: write USER:PASSWORD@HOST")


def _with_host(netloc: str, host: str) -> str:
    """The place of a URL with another host, and its userinfo."""
    if not host:
        return netloc
    userinfo, at, _ = netloc.rpartition("@")
    return f"{userinfo}{at}{host}"


def _unix_target(scheme: str, rest: str, host: str) -> Target:
    is_websocket, has_tls = _SCHEMES[scheme] if scheme else (False, False)
    socket, path = rest, ""
    if is_websocket:
        socket, _, path = rest.partition(":")
        path = path or "/"
        if not path.startswith("/"):
            raise PlanError(f"the path must begin with /: write {scheme}+unix:SOCKET:/PATH")
    if not socket or "\0" in socket:
        raise PlanError(f"the URL names no socket: {_EXAMPLES}")
    prefix = f"{scheme}+unix" if scheme else "unix"
    name = host or "localhost"
    shown_path = path.partition("?")[0]
    shown = f"{prefix}:{socket}"
    if is_websocket:
        shown += f":{shown_path}{'?...' if '?' in path else ''}"
    url = f"{scheme}://{name}{path}" if is_websocket else host
    return Target(is_websocket, has_tls, name.partition(":")[0], 0, socket, url, shown)


def parse_headers(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Read headers that are written as NAME: VALUE. Raises PlanError, which quotes no value."""
    headers = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not NAME.fullmatch(name.strip()):
            raise PlanError("--header: write NAME: VALUE, as in --header 'Cookie: id=7'")
        headers.append((name.strip(), value.strip()))
    problem = header_problem(headers, OF_REQUESTS | {"host", "origin"})
    if problem:
        hint = "; use --subprotocol, --origin or --host" if "set by" in problem else ""
        raise PlanError(f"--header: {problem.replace('the gateway', 'the client')}{hint}")
    return tuple(headers)


def check(plan: Plan) -> None:
    """Check that the options fit the URL and each other. Raises PlanError."""
    target = plan.target
    if not target.is_websocket:
        given = {
            "--header": plan.headers,
            "--subprotocol": plan.subprotocols,
            "--origin": plan.origin is not None,
            "--ping": plan.ping,
        }
        wrong = next((name for name, value in given.items() if value), "")
        if wrong:
            raise PlanError(f"{wrong} is for WebSockets only: write ws:// or wss://")
    elif plan.crlf:
        raise PlanError("--crlf is not for WebSockets: a message has no line end")
    if not target.has_tls:
        tls = {"--ca": plan.ca, "--cert": plan.cert, "--insecure": plan.insecure}
        wrong = next((name for name, value in tls.items() if value), "")
        if wrong:
            raise PlanError(f"{wrong} is for TLS only: write wss:// or tls://")
    for name in plan.subprotocols:
        if not NAME.fullmatch(name):
            raise PlanError(f"--subprotocol {name!r}: write ASCII letters, digits, . and -")
    if plan.origin is not None and not _ORIGIN.fullmatch(plan.origin):
        raise PlanError(f"--origin {plan.origin!r}: write SCHEME://HOST, as in https://example.org")
