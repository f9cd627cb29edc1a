"""Sans-I/O. Addresses, and the networks that are trusted to speak for others."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

UNIX: Final = "unix"
"""How a peer on a unix socket is called: it has no address, and can be trusted as such."""


def parse_address(text: str) -> Address | None:
    """An IP address, or None: it is none. IPv4 inside IPv6 (::ffff:192.0.2.1) is IPv4."""
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
    """A list of networks, each ADDRESS or ADDRESS/BITS, or `unix` for peers on unix sockets.

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
        """Whether an address, or the word `unix`, is among them."""
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
        return f"bits are set behind the prefix; write {network}, or {text.partition('/')[0]}"
    return "write an address (192.0.2.7, ::1), a network (10.0.0.0/8, fd00::/8) or unix"
