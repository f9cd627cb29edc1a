"""Sans-I/O. Checks of the arguments of `open`: target, options and the request of a WebSocket; also
for bridges.

The worker checks them when a handler calls `open`, so that a mistake is an exception there. The
gateway checks them again: a worker in another language may send anything.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote

from wsraw.link.records import Open
from wsraw.link.rules import NAME, OF_REQUESTS, QUOTED, header_problem, split_host_port

LONGEST_TIMEOUT: Final = 1e9
"""Seconds of a timeout; a clock that adds more loses its milliseconds, or overflows."""

MOST_REQUEST: Final = 64 * 1024
"""Characters of a target, of each other text of a request, and of all its headers together."""

MOST_PEM: Final = 1024 * 1024
"""Characters of each PEM text; all authorities of a Linux system are a quarter of that."""

LONGEST_NAME: Final = 1024
"""Characters in the name of a connection."""

LONGEST_HOST: Final = 255
"""Characters in the name of a host (RFC 1035, section 2.3.4)."""


class Target(NamedTuple):
    """Where to connect: `path` for a unix socket, else host and port."""

    host: str
    port: int
    path: str
    tls: bool = False


class Proxy(NamedTuple):
    """A proxy to connect through."""

    kind: str
    """`http` (CONNECT) or `socks5`."""
    host: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def shown(self) -> str:
        """Without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


class Opening(NamedTuple):
    """A valid `open`, which can be dialled."""

    shown: str
    """The target without user and password: what handlers, logs and status show."""
    target: Target
    kind: str
    """`raw` or `websocket`."""
    login: str
    """User and password of the target, as the header Authorization; empty if there are none."""
    url: str
    headers: list[tuple[str, str]]
    """Headers of a WebSocket's request beside those of the handshake; later ones replace earlier
    ones. Host is the first one."""
    server_name: str
    """The name that a server with TLS must prove to have."""
    subprotocols: Sequence[str] = ()
    during: int = 0
    """The connection whose event asks for this one; 0: none."""
    couple: int | None = None
    """The connection that shares flow control with this one; 0: none. None: the one of `during`."""
    name: str = ""
    reconnect: bool = False
    proxy: Proxy | str | None = None
    """The proxy to connect through. "": none; None: as in the gateway's settings."""
    connect_timeout: float | None = None
    """Seconds until it must be open; None: as in the gateway's settings."""
    deflate: bool | None = None
    verify: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    preface: bytes | None = None
    """For a bridge: bytes that its target gets before everything else, such as a PROXY header."""


def check(open_: Open) -> Opening:
    """Read an `open`. Raises ValueError, with advice, for one that is impossible."""
    for field in ("target", "protocol", "url", "host", "orig"):
        why = _text(MOST_REQUEST)(getattr(open_, field))
        if why:
            raise ValueError(f"{field} must be {why}")
    options = _options_of(open_)
    if open_.protocol not in ("raw", "websocket"):
        raise ValueError(f"protocol {_brief(open_.protocol)} is neither 'raw' nor 'websocket'")
    is_websocket = open_.protocol == "websocket" or is_websocket_target(open_.target)
    target = parse_target(open_.target)
    shown, login = _split_login(open_.target)
    if login and not is_websocket:
        raise ValueError(
            f"cannot open {_brief(shown)}: only a WebSocket can log in with user:password@"
        )
    url, headers, added = "", [], options.pop("headers", {})
    if is_websocket:
        url = _path_of(open_, shown)
        headers = _headers_of(open_, target, login, added)
    server_name = options.pop("server_name", "") or target.host.partition("%")[0]
    if target.tls:
        _check_server_name(server_name)
    if options.get("proxy"):
        options["proxy"] = parse_proxy(options["proxy"])
        if target.path:
            raise ValueError("a unix socket is not reached through a proxy")
    if options.get("key") and not options.get("cert"):
        raise ValueError("the option key needs the option cert")
    if "couple" in open_.options:
        options.setdefault("couple", 0)
    kind = "websocket" if is_websocket else "raw"
    return Opening(shown, target, kind, login, url, headers, server_name, **options)


def _brief(text: str) -> str:
    return repr(text) if len(text) <= QUOTED else f"{text[:QUOTED]!r}…"


# --- the target ---

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}


def is_websocket_target(target: str) -> bool:
    """Whether a target alone shows that it is a WebSocket."""
    return target.startswith(("ws://", "wss://"))


def parse_target(target: str) -> Target:
    """Read a target. Raises ValueError, with advice, for one that cannot be dialled."""
    shown = _hide_login(target)
    scheme, separator, rest = target.partition("://")
    if not separator:
        if target.startswith("unix:"):
            scheme, rest = "unix", target.removeprefix("unix:")
        else:
            scheme, rest = "tcp", target
    if scheme not in ("tcp", "tls", "ws", "wss", "unix"):
        raise ValueError(
            f"cannot open {_brief(shown)}: write host:port, tcp://, tls://, ws://, wss:// or unix:"
        )
    if scheme == "unix":
        if not rest or "\0" in rest:
            raise ValueError(f"cannot open {_brief(shown)}: write it as unix:PATH")
        return Target("", 0, rest)
    authority = _authority(rest).rpartition("@")[2]
    host, port = split_host_port(authority) or ("", None)
    if port is None:
        port = _DEFAULT_PORTS.get(scheme)
    if not _HOST.fullmatch(host) or not port:
        raise ValueError(f"cannot open {_brief(shown)}: write it as host:port")
    return Target(host, port, "", scheme in ("tls", "wss"))


def is_local(target: Target) -> bool:
    """Whether a target is on this machine, and so is reached without the configured proxy."""
    if target.path or target.host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(target.host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_PROXY_PORTS: Final = {"http": 80, "socks5": 1080}
_LONGEST_LOGIN: Final = 255
"""Bytes of a user name, and of a password (RFC 1929)."""


def parse_proxy(text: str) -> Proxy:
    """Read `http://[USER:PASSWORD@]HOST:PORT` or `socks5://…`. Raises ValueError that does not show
    what may be a password."""
    scheme, separator, rest = text.partition("://")
    kind = "socks5" if scheme == "socks5h" else scheme
    if kind not in _PROXY_PORTS or not separator:
        why = "TLS to a proxy is not supported; " if scheme == "https" else ""
        raise ValueError(
            f"{why}write a proxy as http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ in "
            "front of HOST if it needs a login"
        )
    login, _, place = rest.rstrip("/").rpartition("@")
    host, port = split_host_port(place) or ("", None)
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError(f"write a proxy as {kind}://HOST:PORT")
    user, _, password = (unquote(part) for part in login.partition(":"))
    if max(len(user.encode()), len(password.encode())) > _LONGEST_LOGIN:
        raise ValueError(
            f"the user or the password of a proxy has more than {_LONGEST_LOGIN} bytes"
        )
    return Proxy(kind, host, port or _PROXY_PORTS[kind], user, password)


_HOST: Final = re.compile(r"""[^\x00-\x20\x7f-\xa0/?#@\\\[\]"<>^`{|}\ud800-\udfff]{1,255}""")


def _authority(rest: str) -> str:
    """The part after the scheme, without the request."""
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _split_scheme(target: str) -> tuple[str, str]:
    scheme, separator, rest = target.partition("://")
    return (scheme + separator, rest) if separator else ("", target)


def _split_login(target: str) -> tuple[str, str]:
    """A target without user and password, and these as the header Authorization."""
    if target.startswith("unix:"):
        return target, ""
    scheme, rest = _split_scheme(target)
    authority = _authority(rest)
    login, at, host = authority.rpartition("@")
    if not at:
        return target, ""
    user, _, password = login.partition(":")
    plain = f"{unquote(user)}:{unquote(password)}".encode("utf-8", "replace")
    basic = f"Basic {base64.b64encode(plain).decode()}"
    return scheme + host + rest[len(authority) :], basic


def _hide_login(target: str) -> str:
    """A target that may be invalid, for an error, without anything that may be a password or a
    token."""
    scheme, rest = _split_scheme(target)
    if target.startswith("unix:"):
        return target
    before, query, _ = rest.partition("?")
    if not query:
        _, at, host = rest.rpartition("@")
        return f"{scheme}{'…@' if at else ''}{host}"
    # It is not certain which of the two comes first: a password may contain a ?.
    return f"{scheme}…" if "@" in rest else f"{scheme}{before}?…"


def without_path(target: str) -> str:
    """A target with the path and query of the argument `url`."""
    scheme, rest = _split_scheme(target)
    return target if target.startswith("unix:") else scheme + _authority(rest)


# --- the request of a WebSocket ---

_PATH: Final = re.compile(r"/[\x21-\x7e]*")


def _path_of(open_: Open, shown: str) -> str:
    path = open_.url
    if path in ("", "/"):
        path = "/"
        if not shown.startswith("unix:"):
            rest = _split_scheme(shown)[1]
            path = rest[len(_authority(rest)) :].partition("#")[0] or "/"
        if path.startswith("?"):
            path = f"/{path}"
    if not _PATH.fullmatch(path):
        path = path.partition("?")[0]
        raise ValueError(f"{_brief(path)} is not a url: it begins with / and is plain ASCII")
    return path


def _headers_of(
    open_: Open, target: Target, login: str, extra: Mapping[str, str]
) -> list[tuple[str, str]]:
    headers = [("Host", open_.host or _host_of(target))]
    if open_.orig:
        headers.append(("Origin", open_.orig))
    if login:
        headers.append(("Authorization", login))
    headers += extra.items()
    why = header_problem(headers, OF_REQUESTS)
    if why:
        raise ValueError(why)
    if sum(len(name) + len(value) for name, value in headers) > MOST_REQUEST:
        raise ValueError(f"the headers have more than {MOST_REQUEST} characters")
    return headers


def _host_of(target: Target) -> str:
    """The host for the header: without the default port (RFC 9110, section 4.2), and without the
    zone of an address, which has no meaning on other machines (RFC 6874)."""
    if target.path:
        return "localhost"
    host = target.host.partition("%")[0]
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"{_brief(host)} is not the name of a host: {error}") from None
    return host if target.port == (443 if target.tls else 80) else f"{host}:{target.port}"


# --- options ---


def _options_of(open_: Open) -> dict[str, Any]:
    """The known options, each with the right type; those that are None are left out."""
    options = {}
    for name, test in _TESTS.items():
        value = open_.options.get(name)
        if value is None:
            continue
        if name == "headers" and value == []:
            # PHP has one type for lists and maps.
            continue
        why = test(value)
        if why:
            raise ValueError(f"the option {name} must be {why}")
        options[name] = value
    return options


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _seconds(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    good = is_number and 0 <= value <= LONGEST_TIMEOUT
    return "" if good else f"a number of seconds from 0 to {LONGEST_TIMEOUT:.0f}"


def _id(value: Any) -> str:
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64
    return "" if is_id else "the id of a connection"


def _text(longest: int, what: str = "a string") -> Callable[[object], str]:
    def test(value: object) -> str:
        good = isinstance(value, str) and len(value) <= longest and _is_unicode(value)
        return "" if good else f"{what} of at most {longest} characters"

    return test


_pem: Final = _text(MOST_PEM, "a text in PEM form")


def _headers(value: Any) -> str:
    good = isinstance(value, dict) and all(
        isinstance(text, str) and _is_unicode(text) for item in value.items() for text in item
    )
    return "" if good else "a map of header names to values, all of them strings"


def _names(value: Any) -> str:
    good = (
        isinstance(value, list | tuple)
        and all(isinstance(name, str) and NAME.fullmatch(name) for name in value)
        and sum(map(len, value)) <= MOST_REQUEST
    )
    return "" if good else "a list of names"


_TESTS: Final[dict[str, Callable[[Any], str]]] = {
    "during": _id,
    "couple": _id,
    "name": _text(LONGEST_NAME),
    "reconnect": _flag,
    "headers": _headers,
    "subprotocols": _names,
    "connect_timeout": _seconds,
    "deflate": _flag,
    "verify": _flag,
    "ca": _pem,
    "cert": _pem,
    "key": _pem,
    "server_name": _text(LONGEST_HOST),
    "proxy": _text(MOST_REQUEST),
}


def _is_unicode(text: str) -> bool:
    """Whether a text can be sent: half a surrogate pair, as in broken JSON, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SERVER_NAME: Final = re.compile(r"(?!\.)[-_.0-9a-zA-Z]+")


def _check_server_name(name: str) -> None:
    """Raises ValueError unless TLS can ask a server for this name: the name of a host, or an
    address."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return
    plain = ""
    with suppress(UnicodeError):
        plain = name.encode("idna").decode()
    if not _SERVER_NAME.fullmatch(plain):
        raise ValueError(f"{_brief(name)} cannot be the name of a server: give server_name")


# --- bridges ---


class BridgeView(Protocol):
    """The part of a table of `bridges` that matters here."""

    @property
    def subprotocols(self) -> tuple[str, ...]: ...
    @property
    def verify(self) -> bool: ...
    @property
    def server_name(self) -> str: ...
    @property
    def proxy(self) -> str | None: ...
    @property
    def set_headers(self) -> tuple[str, ...]: ...


def open_of(bridge: BridgeView, target: str, offered: Sequence[str] | None = None) -> Open:
    """The `open` for a target of a bridge. `offered`: the subprotocols of its client, for a
    WebSocket target; None: the client is raw. Raises ValueError for a header that cannot be set."""
    options: dict[str, Any] = {"verify": bridge.verify, "couple": 0}
    if bridge.server_name:
        options["server_name"] = bridge.server_name
    if bridge.proxy is not None:
        options["proxy"] = bridge.proxy
    is_websocket = is_websocket_target(target)
    if is_websocket:
        options["subprotocols"] = list(bridge.subprotocols if offered is None else offered)
        options["headers"] = set_headers(bridge, {})
    return Open(0, target, "websocket" if is_websocket else "raw", "/", "", "", options)


def set_headers(bridge: BridgeView, headers: Mapping[str, str]) -> dict[str, str]:
    """These headers, with the bridge's own headers in place of those of the same names. Raises
    ValueError."""
    found = dict(headers)
    for text in bridge.set_headers:
        name, colon, value = (part.strip(" \t") for part in text.partition(":"))
        if not colon or not NAME.fullmatch(name):
            raise ValueError(f"{_brief(text)}: write NAME: VALUE; NAME: alone leaves it out")
        for known in [each for each in found if each.lower() == name.lower()]:
            del found[known]
        if value:
            found[name] = value
    return found


def path_of_target(target: str) -> str:
    """The path and query of a target; empty if it has none, not even a slash."""
    rest = _split_scheme(target)[1].partition("#")[0]
    path = rest[len(_authority(rest)) :]
    return f"/{path}" if path.startswith("?") else path


def read_tokens(text: str, first: int = 1) -> dict[str, str]:
    """The targets in a token file: `token: target` on each line. Raises ValueError with the number
    of an invalid line; `first` is the number of the first line."""
    found = {}
    for number, line in enumerate(text.splitlines(), first):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        token, colon, target = line.partition(":")
        token, target = token.strip(), target.strip()
        if not (token and colon and target):
            raise ValueError(f"line {number}: write token: host:port")
        found[token] = target
    return found
