"""Sans-I/O. The client's address as proxies in front of the gateway tell it in HTTP headers.

Any client can send these headers; only what our own proxies have added can be believed. Each proxy
appends the address that *it* was connected from. So the header is read from right to left, as long
as the address is that of a trusted proxy: the first one that is not is the client. Whatever is to
the left of that was made up by the client.

Only one of the headers is read, as configured: a proxy that writes X-Forwarded-For passes on a
client's Forwarded as it came, and the other way round.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from wsraw.config.addresses import Address, Networks, parse_address

MAX_HOPS: Final = 32
"""Proxies that a request may have passed; nothing is read further to the left."""

_PAIR: Final = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^ \t",;]*)[ \t]*(?:;|\Z)"""
)
_NODE: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)|(unknown|_[A-Za-z0-9._-]+))(?::([0-9]{1,5}|_[\w.-]+))?",
    re.IGNORECASE | re.ASCII,
)


class Forwarded(NamedTuple):
    """What the headers say about the client."""

    address: Address | None
    """The client's address; None if a proxy hides it (`unknown`, `_name`)."""
    peer: str
    """The client's address as text, with a port if one is known."""
    scheme: str = ""
    """`http` or `https`: the scheme with which the client has connected to the first of our
    proxies."""
    host: str = ""
    """The Host of the request that the client sent to that proxy."""


def x_forwarded_for(headers: dict[str, str], trusted: Networks) -> Forwarded | None:
    """The client according to X-Forwarded-For, -Proto and -Host, or None.

    `headers` has lower-case names, duplicates joined with commas.
    """
    hops = _split(headers.get("x-forwarded-for", ""))
    found: Forwarded | None = None
    place = 0
    for index, hop in enumerate(hops):
        # Some proxies write IPv6 addresses without brackets.
        bare = parse_address(hop)
        client = Forwarded(bare, str(bare)) if bare is not None else _parse_node(hop)
        if client is None:
            break
        found, place = client, index
        if client.address not in trusted:
            break
    protos = _split(headers.get("x-forwarded-proto", ""))
    hosts = _split(headers.get("x-forwarded-host", ""))
    if found is None and not protos and not hosts:
        return None
    # If there are as many values as addresses, each address has one. Otherwise the last proxy has
    # set its own.
    scheme = protos[place if len(protos) == len(hops) else 0].lower() if protos else ""
    host = hosts[place if len(hosts) == len(hops) else 0] if hosts else ""
    scheme = {"ws": "http", "wss": "https", "http": "http", "https": "https"}.get(scheme, "")
    return (found or Forwarded(None, ""))._replace(scheme=scheme, host=host)


def forwarded(headers: dict[str, str], trusted: Networks) -> Forwarded | None:
    """The client according to Forwarded (RFC 7239), or None."""
    found: Forwarded | None = None
    for element in _split(headers.get("forwarded", "")):
        pairs = _parse_element(element)
        client = _parse_node(pairs["for"]) if pairs and "for" in pairs else None
        if pairs is None or client is None:
            break
        scheme = pairs.get("proto", "").lower()
        found = client._replace(
            scheme=scheme if scheme in ("http", "https") else "", host=pairs.get("host", "")
        )
        if client.address not in trusted:
            break
    return found


def _split(value: str) -> list[str]:
    """The elements of a list header, the last first; commas within quotes do not separate.

    The header is read from the right, because what our proxies have added is complete: it must not
    become part of a quote that a client has opened and not closed.
    """
    parts: list[str] = []
    end = len(value)
    quoted = False
    for index in range(end - 1, -1, -1):
        char = value[index]
        if char == '"':
            first = index
            while first and value[first - 1] == "\\":
                first -= 1
            # After an odd number of backslashes, this is an escaped quote inside a quoted string.
            if (index - first) % 2 == 0:
                quoted = not quoted
        elif char == "," and not quoted:
            parts.append(value[index + 1 : end])
            end = index
            if len(parts) > 2 * MAX_HOPS:
                break
    else:
        parts.append(value[:end])
    found = [part.strip(" \t") for part in parts]
    return [part for part in found if part][:MAX_HOPS]


def _parse_element(element: str) -> dict[str, str] | None:
    """The pairs of one `forwarded-element`, names in lower case; None if the element is
    malformed."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(element):
        found = _PAIR.match(element, at)
        # Each parameter may occur once at most (RFC 7239, section 4).
        if found is None or found[1].lower() in pairs:
            return None
        value = found[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        pairs[found[1].lower()] = value
        at = found.end()
    return pairs


def _parse_node(text: str) -> Forwarded | None:
    """A `node` (RFC 7239, section 6): an address, perhaps with a port, or what hides one."""
    found = _NODE.fullmatch(text)
    if found is None:
        return None
    v6, v4, hidden, port = found.groups()
    if hidden:
        return Forwarded(None, text)
    address = parse_address(v6 or v4)
    if address is None or (v6 and ":" not in v6) or (port and port.isdigit() and int(port) > 65535):
        return None
    host = f"[{address}]" if address.version == 6 and port else str(address)
    return Forwarded(address, f"{host}:{port}" if port else host)
