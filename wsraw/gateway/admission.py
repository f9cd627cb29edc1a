"""Sans-I/O. How many connections there may be, in total and from one address.

An address is one IPv4 address, or an IPv6 network of 64 bits: that is what one subscriber is given,
and so what one attacker has. Loopback and unix sockets are this machine itself, often a proxy for
everybody, and are not counted.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

LEAST_RESERVE: Final = 32
"""Descriptors that are never given to clients: the link, files, connections that handlers open."""


def most_connections(descriptors: int) -> int:
    """How many connections fit that many descriptors, a tenth left for what handlers open."""
    return max(1, descriptors - max(LEAST_RESERVE, descriptors // 10))


def address_key(address: object) -> str | bytes | None:
    """What stands for a peer's address, as a socket tells it; None: it is not counted."""
    if not isinstance(address, tuple):
        return None
    host: str = address[0]
    if ":" not in host:
        return None if host.startswith("127.") else host
    ip = IPv6Address(host.partition("%")[0])
    mapped = ip.ipv4_mapped
    if mapped is not None:
        return None if mapped.is_loopback else str(mapped)
    return None if ip.is_loopback else ip.packed[:8]


class Admission:
    """Says who may come in; 0 as a bound is none."""

    def __init__(self, most: int, per_address: int) -> None:
        self.most = most
        self._per_address = per_address
        self._counts: dict[str | bytes, int] = {}

    def refusal(self, key: str | bytes | None, standing: int) -> str:
        """The setting that forbids one more connection beside those that stand, or nothing."""
        if 0 < self.most <= standing:
            return "max_connections"
        if key is not None and 0 < self._per_address <= self._counts.get(key, 0):
            return "max_connections_per_address"
        return ""

    def enter(self, key: str | bytes | None) -> None:
        """Somebody came in."""
        if key is not None and self._per_address:
            self._counts[key] = self._counts.get(key, 0) + 1

    def leave(self, key: str | bytes | None) -> None:
        """And is gone."""
        if key is not None and self._per_address:
            left = self._counts[key] - 1
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]
