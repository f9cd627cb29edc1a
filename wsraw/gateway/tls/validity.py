"""Sans-I/O. How long a certificate is valid, read from its DER (RFC 5280, section 4.1): the ssl
module reports that only for a peer's valid certificate."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

SEQUENCE: Final = 0x30
VERSION: Final = 0xA0
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18


def not_after(pem: bytes) -> float | None:
    """When the first certificate of a PEM file ends, in seconds since 1970; None if that cannot be
    read."""
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        return _not_after(base64.b64decode(found[1]))
    except (ValueError, IndexError):
        return None


def _not_after(der: bytes) -> float:
    """When a certificate ends. Raises ValueError or IndexError for other data."""
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, rest = _element(fields)
    if tag == VERSION:
        # Version 1 leaves the field out.
        _, _, rest = _element(rest)
    for _ in ("signature algorithm", "issuer"):
        _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    if tag != SEQUENCE:
        raise ValueError("no validity")
    _, _, rest = _element(validity)
    tag, end, _ = _element(rest)
    text = end.decode("ascii")
    if tag == UTC_TIME:
        # Years have two digits; those below 50 are in this century.
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it."""
    size, at = der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    if len(der) < at + size:
        raise ValueError("cut short")
    return der[0], der[at : at + size], der[at + size :]
