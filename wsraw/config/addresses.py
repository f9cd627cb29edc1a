"""Sans-I/O. What a value of the setting `listen` says: where, which protocol, and its TLS.

runtime/sockets.py opens the socket of it.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from wsraw.config.settings import Seconds, Settings, convert_to
from wsraw.config.units import parse_time


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """One listener, as `parse_listen` reads it from the `listen` setting."""

    name: str
    """As the user wrote it; what `con.listener` shows."""
    host: str = ""
    port: int = 0
    path: str = ""
    """Of a unix socket; then host and port are unused."""
    mode: int | None = None
    """Permissions of its file; None: as the umask has it."""
    group: str = ""
    """Name or number of the group of its file; empty: that of the process."""
    protocol: Literal["any", "raw", "websocket"] = "any"
    first_byte_timeout: Seconds = 0.0
    plain_http: Literal["raw", "reject", "health"] = "raw"
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    tls: Literal["off", "optional", "required"] = "off"
    tls_cert: tuple[str, ...] = ()
    tls_key: tuple[str, ...] = ()
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    tls_client_ca: str = ""
    tls_client_auth: Literal["none", "optional", "required"] = "none"


class TlsPair(NamedTuple):
    """A certificate of a listener: the server names that it is for, and its files."""

    names: tuple[str, ...]
    cert: str
    key: str
    """Empty: it stands in the same file."""


_PROTOCOLS: Final = {
    "raw": "raw",
    "tls": "raw",
    "ws": "websocket",
    "wss": "websocket",
    "websocket": "websocket",
}
SCHEMES: Final = tuple(_PROTOCOLS)
"""What may stand in front of an address."""
_WITH_TLS: Final = ("tls", "wss")
_TEXTS_OF_LISTENER: Final = ("tls_cert", "tls_key")
OF_LISTENER: Final = (
    "first_byte_timeout",
    "plain_http",
    "proxy_protocol",
    "tls",
    *_TEXTS_OF_LISTENER,
    "tls_min_version",
    "tls_client_ca",
    "tls_client_auth",
)


OF_UNIX: Final = ("mode", "group")
"""What a unix socket's address may say beside that; no setting says it for all."""
GROUP_MODE: Final = 0o660
"""The permissions where only a group is named: one must be allowed to write to connect."""


def parse_listen(text: str, settings: Settings | None = None) -> Listen:
    """Read one `listen` value; what it does not say comes from `settings`.

    Raises ValueError with a line that says what to write instead.
    """
    settings = settings or Settings()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, protocol = "", text, "any"
    elif scheme in _PROTOCOLS:
        protocol = _PROTOCOLS[scheme]
    else:
        raise ValueError(
            f"listen: {text!r}: in front may stand raw://, ws://, tls:// or wss://, "
            f"not {f'{scheme}://'!r}"
        )
    address, _, query = rest.partition("?")
    place = _parse_unix(text, address) if address.startswith("unix:") else _parse_tcp(text, address)
    asked: dict[str, Any] = {name: getattr(settings, name) for name in OF_LISTENER}
    said = parse_qsl(query, keep_blank_values=True)
    known = (*OF_LISTENER, *OF_UNIX) if "path" in place else OF_LISTENER
    for name, value in said:
        if name not in known:
            why = f"behind ? may stand {', '.join(known)}, not {name!r}"
            if name in OF_UNIX:
                why = f"{name}: only a unix socket has one, as in unix:PATH?{name}=…"
            raise ValueError(f"listen: {text!r}: {why}")
        try:
            asked[name] = _value(name, value)
        except ValueError as error:
            raise ValueError(f"listen: {text!r}: {name}: {error}") from error
    for name in _TEXTS_OF_LISTENER:
        # A listener with certificates of its own has none of the others.
        if any(each == "tls_cert" for each, _ in said):
            asked[name] = tuple(value for each, value in said if each == name)
    own_tls = any(name == "tls" for name, _ in said)
    try:
        asked["tls"] = _tls_of(scheme, asked["tls"], bool(asked["tls_cert"]), own_tls)
        if "group" in asked:
            asked.setdefault("mode", GROUP_MODE)
        listen: Listen = convert_to({"name": text, "protocol": protocol, **place, **asked}, Listen)
        if listen.tls != "off":
            _check_tls(listen)
    except ValueError as error:
        raise ValueError(f"listen: {text!r}: {error}") from error
    return listen


def _value(name: str, text: str) -> Any:
    """What stands behind ?, as the setting of that name would have it. Raises ValueError."""
    if name == "first_byte_timeout":
        return parse_time(text)
    if name == "mode":
        if not _MODE.fullmatch(text):
            raise ValueError(f"{text!r} is not a mode; write it as for chmod: 660, or 666 for all")
        return int(text, 8)
    if name == "group":
        if not text:
            raise ValueError("write the name of a group, or its number")
        return text
    kind = get_type_hints(Settings)[name]
    choices = get_args(kind) if get_origin(kind) is Literal else (text,)
    if text not in choices:
        raise ValueError(f"{text!r} is none of its values; write {' or '.join(choices)}")
    return text


def _tls_of(scheme: str, tls: str, has_cert: bool, own: bool) -> str:
    """A scheme says what it always says; beside it only the listener itself has a say."""
    if scheme and not own:
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
        raise ValueError("tls_client_auth needs tls_client_ca: who vouches for clients?")
    if listen.tls_client_auth == "none" and listen.tls_client_ca:
        raise ValueError("tls_client_ca alone asks nobody: tls_client_auth optional or required")
    if listen.tls == "optional" and listen.first_byte_timeout:
        raise ValueError(
            "first_byte_timeout cannot be with optional TLS: a silent client may still begin with "
            "either; take two listeners, or first_byte_timeout=0 here"
        )


_MODE: Final = re.compile("0?[0-7]{3}")

_NAMES: Final = re.compile(r"(?:(?:\*\.)?[\w.-]+)(?:,(?:\*\.)?[\w.-]+)*")


def split_certificate(text: str) -> tuple[str, str]:
    """The server names and the file of a tls_cert; a file alone may have a = in its name."""
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
                f"tls_cert: {text!r}: only the first is for everybody; write the server names in "
                "front, as in example.org,*.example.org=FILE"
            )
        found = tuple(name.lower() for name in names.split(",")) if names else ()
        pairs.append(TlsPair(found, file, keys[index] if keys else ""))
    return pairs


def _parse_unix(text: str, address: str) -> dict[str, Any]:
    path = address.removeprefix("unix:")
    if not path:
        raise ValueError(f"listen: {text!r}: write unix:PATH")
    return {"path": path}


def _parse_tcp(text: str, address: str) -> dict[str, Any]:
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"listen: {text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    if not colon or not host:
        raise ValueError(
            f"listen: {text!r}: write HOST:PORT, as in 127.0.0.1:8000 (0.0.0.0 or [::] as HOST "
            "for every network of this machine)"
        )
    if not is_count(port) or int(port) > 65535:
        raise ValueError(f"listen: {text!r}: the port must be a number from 0 to 65535")
    return {"host": host, "port": int(port)}


def is_count(text: str) -> bool:
    """Whether it can be a port, or the number of something."""
    # More digits than any of our numbers have are a wrong one; and int() refuses thousands of them.
    return text.isascii() and text.isdigit() and len(text) < 10
