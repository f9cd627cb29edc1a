"""Sans-I/O. How many connections there may be, in total and from one address.

An address is one IPv4 address, or an IPv6 network of 64 bits: that is what one subscriber is given,
and so what one attacker has. Loopback and unix sockets are this machine itself, often a proxy for
everybody, and are not counted; nor are trusted proxies, until they have said who their client is.
"""

from __future__ import annotations

from typing import Final

from wsraw.config.addresses import Address

RETRY_AFTER: Final = 5
"""Seconds after which a client that was refused is asked to try again."""

PATIENCE: Final = 2.0
"""Seconds that a refused client has for its first bytes, and to take our answer."""

AT_ONCE: Final = 16
"""Refused clients that are waited for at the same time; half of the descriptors kept in reserve."""

LEAST_RESERVE: Final = 32
"""Descriptors that are never given to clients: the link, files, connections that handlers open."""


def most_connections(descriptors: int) -> int:
    """How many connections fit that many descriptors, a tenth left for what handlers open."""
    return max(1, descriptors - max(LEAST_RESERVE, descriptors // 10))


def address_key(address: Address | str | None) -> bytes | None:
    """What an address counts as; None: it is not counted."""
    if address is None or isinstance(address, str) or address.is_loopback:
        return None
    return address.packed[:8]


class AddressLimits:
    """Says who may come in; 0 as a bound is none."""

    def __init__(self, most: int, per_address: int) -> None:
        self.most = most
        self._per_address = per_address
        self._counts: dict[bytes, int] = {}

    def refusal(self, key: bytes | None, standing: int) -> str:
        """The setting that forbids one more connection beside those that stand, or nothing."""
        if 0 < self.most <= standing:
            return "max_connections"
        if key is not None and 0 < self._per_address <= self._counts.get(key, 0):
            return "max_connections_per_address"
        return ""

    def enter(self, key: bytes | None) -> None:
        """Somebody came in."""
        if key is not None and self._per_address:
            self._counts[key] = self._counts.get(key, 0) + 1

    def leave(self, key: bytes | None) -> None:
        """And is gone."""
        if key is not None and self._per_address:
            left = self._counts[key] - 1
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]
