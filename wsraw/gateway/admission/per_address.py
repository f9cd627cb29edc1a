"""Sans-I/O. How many connections there may be, in total and from one address.

An address is one IPv4 address, or an IPv6 network of 64 bits: that is what one subscriber is given,
and so what one attacker has at least. Loopback and unix sockets are this machine itself, often a
proxy for all clients, and are not counted; nor are trusted proxies, until they have identified
their client.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from wsraw.config.addresses import Address
from wsraw.gateway.http import http_answer

RETRY_AFTER: Final = 5
"""Seconds after which a refused client is asked to try again."""

OVER_LIMIT: Final = http_answer(
    429, "too many connections from your address", ("Retry-After", str(RETRY_AFTER))
)

FULL: Final = http_answer(503, "too many connections", ("Retry-After", str(RETRY_AFTER)))

REFUSAL_TIMEOUT: Final = 2.0
"""Seconds that a refused client has to send its first bytes, and to take our answer."""

ENOUGH: Final = 8
"""Bytes that show whether they begin an HTTP request: the longest method, and a space."""

MOST_REFUSED: Final = 16
"""Refused clients that are waited for at the same time; half of the descriptors kept in reserve."""


def address_key(address: Address | str | None) -> bytes | None:
    """The key under which connections of an address are counted; None: they are not counted."""
    if address is None or isinstance(address, str) or address.is_loopback:
        return None
    return address.packed[:8]


class AddressLimits:
    """Counts the connections of each address, and checks the limits for one address and in total. A
    limit of 0 means no limit."""

    def __init__(self, most: int, per_address: int) -> None:
        self.most = most
        self._per_address = per_address
        self._counts: Counter[bytes] = Counter()

    def refusal(self, key: bytes | None, connections: int) -> str:
        """The setting that forbids one more connection beside this many, or ""."""
        if 0 < self.most <= connections:
            return "max_connections"
        if key is not None and 0 < self._per_address <= self._counts[key]:
            return "max_connections_per_address"
        return ""

    def enter(self, key: bytes | None) -> None:
        if key is not None and self._per_address:
            self._counts[key] += 1

    def leave(self, key: bytes | None) -> None:
        if key is not None and self._per_address:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
