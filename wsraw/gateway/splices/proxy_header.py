"""Sans-I/O. The PROXY header that a target gets before anything else.

See HAProxy's proxy-protocol.txt. Both addresses of a header are of one family, so an IPv4 address
beside an IPv6 one is written as `::ffff:…`.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from wsraw.config.addresses import Address
from wsraw.gateway.admission.proxy_protocol import SIGNATURE

Place = tuple[Address | None, int]
"""An address, and a port."""

_UNSPECIFIED: Final = b"\x21\x00"
"""Version 2, the command PROXY, and no family: the address of the client is not known."""

_STREAMS: Final = {4: b"\x21\x11", 6: b"\x21\x21"}

_TLV_SSL: Final = b"\x20\x00\x05\x01\x00\x00\x00\x01"
"""The client uses TLS; its certificate, if it has one, was not verified."""


def header(version: str, source: Place, target: Place, tls: bool) -> bytes:
    """The header of version `v1` or `v2` for a client at `source` that has connected to `target`,
    with TLS or without."""
    (client, client_port), (ours, our_port) = source, target
    if client is None or ours is None:
        client = ours = None
    elif client.version != ours.version:
        client, ours = _as_ipv6(client), _as_ipv6(ours)
    if version == "v1":
        if client is None or ours is None:
            return b"PROXY UNKNOWN\r\n"
        ports = f"{client_port} {our_port}"
        return f"PROXY TCP{client.version} {client} {ours} {ports}\r\n".encode()
    tlv = _TLV_SSL if tls else b""
    if client is None or ours is None:
        return SIGNATURE + _UNSPECIFIED + len(tlv).to_bytes(2, "big") + tlv
    ports_2 = client_port.to_bytes(2, "big") + our_port.to_bytes(2, "big")
    addresses = client.packed + ours.packed + ports_2 + tlv
    return SIGNATURE + _STREAMS[client.version] + len(addresses).to_bytes(2, "big") + addresses


def _as_ipv6(address: Address) -> Address:
    if address.version == 6:
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
