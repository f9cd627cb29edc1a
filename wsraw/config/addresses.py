"""Sans-I/O. Addresses: of listeners (the setting `listen`), of the worker link, and of clients.

runtime/sockets.py opens the socket of a listener.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from wsraw.config.settings import Settings
from wsraw.config.units import parse_time
from wsraw.link.rules import split_host_port

Address: TypeAlias = IPv4Address | IPv6Address

UNIX: Final = "unix"
"""Stands for the address of a peer on a unix socket, because it has none."""


# --- listeners ---


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """One listener, as `parse_listen` reads it."""

    name: str
    """The text of the setting; also `con.listener`."""
    host: str = ""
    port: int = 0
    path: str = ""
    """The path of a unix socket; then host and port are unused."""
    fd: str = ""
    """Number or name of a socket that a service manager passes; then host, port and path are
    unused."""
    mode: int | None = None
    """Permissions of the socket's file; None: as the umask says."""
    group: str = ""
    """Name or number of the group of the socket's file; empty: the group of the process."""
    protocol: Literal["any", "raw", "websocket"] = "any"
    first_byte_timeout: float = 0.0
    plain_http: Literal["raw", "reject", "health", "handlers", "static"] = "raw"
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    tls: Literal["off", "optional", "required"] = "off"
    tls_cert: tuple[str, ...] = ()
    tls_key: tuple[str, ...] = ()
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    tls_client_ca: str = ""
    tls_client_auth: Literal["none", "optional", "required"] = "none"
    reuse_port: bool = False


class TlsPair(NamedTuple):
    """A certificate of a listener."""

    names: tuple[str, ...]
    """The server names that it is for; none: all names that no other certificate is for."""
    cert: str
    key: str
    """The file of the key; empty: the key is in the file of the certificate."""


_PROTOCOLS: Final = {
    "raw": "raw",
    "tls": "raw",
    "ws": "websocket",
    "wss": "websocket",
    "websocket": "websocket",
}
SCHEMES: Final = tuple(_PROTOCOLS)
"""Prefixes of an address."""
_WITH_TLS: Final = ("tls", "wss")
_MAY_BE_REPEATED: Final = ("tls_cert", "tls_key")
OF_LISTENER: Final = (
    "first_byte_timeout",
    "plain_http",
    "proxy_protocol",
    "tls",
    *_MAY_BE_REPEATED,
    "tls_min_version",
    "tls_client_ca",
    "tls_client_auth",
)
"""Settings that a listener may override."""

OF_UNIX: Final = ("mode", "group")
"""Options of a unix socket; they are not settings."""
GROUP_MODE: Final = 0o660
"""Permissions of a socket with a group: its members need the write permission to connect."""
FIRST_PASSED: Final = 3
"""The first descriptor that a service manager passes: 0 to 2 are stdin, stdout and stderr."""
_DESCRIPTOR: Final = re.compile(r"[0-9]{1,9}|[!-~]{1,255}", re.ASCII)
_MODE: Final = re.compile("0?[0-7]{3}")


def parse_listen(text: str, settings: Settings | None = None) -> Listen:
    """Read one `listen` value; options that it leaves out are those of `settings`.

    Raises ValueError that begins with `listen: `.
    """
    try:
        return _parse_listen(text, settings or Settings())
    except ValueError as error:
        raise ValueError(f"listen: {text!r}: {error}") from error


def _parse_listen(text: str, settings: Settings) -> Listen:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    elif scheme not in _PROTOCOLS:
        raise ValueError(f"the prefix is raw://, ws://, tls:// or wss://, not {f'{scheme}://'!r}")
    address, _, query = rest.partition("?")
    found: dict[str, Any] = {name: getattr(settings, name) for name in OF_LISTENER}
    if settings.static and settings.plain_http == "raw":
        found["plain_http"] = "static"
    found["reuse_port"] = settings.reuse_port
    found |= _parse_place(address)
    known = (*OF_LISTENER, *OF_UNIX) if "path" in found else OF_LISTENER
    given = parse_qsl(query, keep_blank_values=True)
    names = {name for name, _ in given}
    for name, value in given:
        if name in OF_UNIX and name not in known:
            raise ValueError(f"{name} is for unix sockets only, as in unix:PATH?{name}=…")
        if name not in known:
            raise ValueError(f"{name!r} is not an option; write one of {', '.join(known)}")
        found[name] = _option_value(name, value)
    if "tls_cert" in names:
        # A listener with certificates of its own uses none of the settings.
        for name in _MAY_BE_REPEATED:
            found[name] = tuple(value for each, value in given if each == name)
    asks_nobody = "tls_client_auth" in names and found["tls_client_auth"] == "none"
    if asks_nobody and "tls_client_ca" not in names:
        # The client authorities of the settings are for the other listeners.
        found["tls_client_ca"] = ""
    found["tls"] = _tls_of(scheme, found["tls"], bool(found["tls_cert"]), "tls" in names)
    if "group" in found:
        found.setdefault("mode", GROUP_MODE)
    listen = Listen(name=text, protocol=_PROTOCOLS.get(scheme, "any"), **found)  # type: ignore[arg-type]
    if listen.tls != "off":
        _check_tls(listen)
    return listen


def _parse_place(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise ValueError("write unix:PATH")
        return {"path": path}
    if address.startswith("fd:"):
        fd = address.removeprefix("fd:")
        if not _DESCRIPTOR.fullmatch(fd) or (fd.isdigit() and int(fd) < FIRST_PASSED):
            raise ValueError(
                f"write fd:NUMBER, from {FIRST_PASSED} on, or fd:NAME with the name of a socket "
                "that a service manager passes"
            )
        return {"fd": fd}
    host, port = split_host_port(address) or ("", None)
    if port is None:
        raise ValueError(
            "write HOST:PORT, as in 127.0.0.1:8000, or [::1]:8000 with IPv6; 0.0.0.0 and [::] mean "
            "all networks of this machine, and the port is from 0 to 65535"
        )
    return {"host": host, "port": port}


def _option_value(name: str, text: str) -> Any:
    """The value of a listener's option. Raises ValueError."""
    if "\0" in text:
        raise ValueError(f"{name}: {text!r}: it contains a null character")
    if name == "first_byte_timeout":
        return parse_time(text)
    if name == "mode":
        if not _MODE.fullmatch(text):
            raise ValueError(f"mode: {text!r}: write it as for chmod: 660, or 666 for all users")
        return int(text, 8)
    if name == "group":
        if not text:
            raise ValueError("group: write the name or number of a group")
        return text
    kind = get_type_hints(Settings)[name]
    choices = get_args(kind) if get_origin(kind) is Literal else (text,)
    if text not in choices:
        raise ValueError(f"{name}: {text!r}: write {' or '.join(choices)}")
    return text


def _tls_of(scheme: str, tls: str, has_cert: bool, is_own: bool) -> str:
    """Whether a listener uses TLS. A prefix decides; only an option of the listener itself
    overrides it."""
    if scheme and not is_own:
        return "required" if scheme in _WITH_TLS else "off"
    if scheme in _WITH_TLS and tls == "off":
        raise ValueError(f"tls=off: write the address without {scheme}://")
    if tls == "auto":
        return "required" if has_cert or scheme in _WITH_TLS else "off"
    return tls


def _check_tls(listen: Listen) -> None:
    if not listen.tls_cert:
        raise ValueError("TLS needs a certificate: give tls_cert, and tls_key")
    tls_pairs(listen)
    if listen.tls_client_auth != "none" and not listen.tls_client_ca:
        raise ValueError("tls_client_auth needs tls_client_ca, the authorities for clients")
    if listen.tls_client_auth == "none" and listen.tls_client_ca:
        raise ValueError("tls_client_ca needs tls_client_auth: write optional or required")
    if listen.tls == "optional" and listen.first_byte_timeout:
        raise ValueError(
            "first_byte_timeout does not work with tls=optional, as a silent client may still "
            "begin with TLS; use two listeners, or first_byte_timeout=0 here"
        )


_NAMES: Final = re.compile(r"(?:(?:\*\.)?[\w.-]+)(?:,(?:\*\.)?[\w.-]+)*")


def split_certificate(text: str) -> tuple[str, str]:
    """The server names and the file of a tls_cert value; the name of a file alone may contain a
    =."""
    names, equals, file = text.partition("=")
    return (names, file) if equals and _NAMES.fullmatch(names) else ("", text)


def tls_pairs(listen: Listen) -> list[TlsPair]:
    """The certificates of a listener. Raises ValueError if they do not fit together."""
    certs, keys = listen.tls_cert, listen.tls_key
    if keys and len(keys) != len(certs):
        raise ValueError(
            f"tls_cert is given {len(certs)} times, tls_key {len(keys)} times: give one key for "
            "each certificate, in the same order"
        )
    pairs = []
    for index, text in enumerate(certs):
        names, file = split_certificate(text)
        if not file:
            raise ValueError(f"tls_cert: {text!r}: write FILE, or NAME,NAME=FILE")
        if index and not names:
            raise ValueError(
                f"tls_cert: {text!r}: only the first one is the default; name the servers of the "
                "others, as in example.org,*.example.org=FILE"
            )
        found = tuple(name.lower() for name in names.split(",")) if names else ()
        pairs.append(TlsPair(found, file, keys[index] if keys else ""))
    return pairs


def parse_admin(text: str) -> Listen:
    """Read the setting `admin`. Raises ValueError that begins with `admin: `."""
    host, port = split_host_port(text) or ("", None)
    if not host or port is None:
        raise ValueError(f"admin: {text!r}: write HOST:PORT, as in 127.0.0.1:9100 or [::1]:9100")
    return Listen(name=text, host=host, port=port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address with this host."""
    address = parse_address(host)
    return address.is_loopback if address is not None else host.lower() == "localhost"


def is_loopback_endpoint(text: str) -> bool:
    """Whether only this machine can reach that `worker_listen` value.

    Raises ValueError that begins with `worker_listen: `.
    """
    host, port = split_host_port(text.removeprefix("tcp://")) or ("", None)
    try:
        # ZeroMQ binds to addresses, not to names.
        address = ip_address(host)
        if port is None or not text.startswith("tcp://") or (address.version == 6) != ("[" in text):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"worker_listen: {text!r}: write tcp://ADDRESS:PORT with an IP address of this "
            "machine, as in tcp://10.0.0.1:7788 or tcp://[::1]:7788; 0.0.0.0 and [::] mean all "
            "its networks"
        ) from None
    return address.is_loopback


# --- clients and proxies ---


def parse_address(text: str) -> Address | None:
    """An IP address, or None. IPv4 inside IPv6 (::ffff:192.0.2.1) becomes IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            # fe80::1%eth0: networks are written without the interface.
            return IPv6Address(int(address))
    return address


class Networks:
    """The setting `trusted_proxies`: ADDRESS, ADDRESS/BITS, or `unix` for peers on unix sockets.

    Raises ValueError with a line that says what to write instead.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        for text in texts:
            if text == UNIX:
                self._unix = True
                continue
            try:
                self._networks.append(ip_network(text))
            except ValueError as error:
                raise ValueError(f"{text!r}: {_advice(text, error)}") from error

    def __contains__(self, address: Address | str | None) -> bool:
        """Whether an address, or the word `unix`, is among the trusted ones."""
        if isinstance(address, str):
            return self._unix and address == UNIX
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)


def _advice(text: str, error: ValueError) -> str:
    if "host bits set" in str(error):
        network = ip_network(text, strict=False)
        return f"bits are set after the prefix; write {network}, or {text.partition('/')[0]}"
    return "write an address (192.0.2.7, ::1), a network (10.0.0.0/8, fd00::/8) or unix"
