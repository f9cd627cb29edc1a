"""Sans-I/O. Certificates as plain values."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

MOST_NAMES: Final = 100
"""Alternative names of a client's certificate that handlers see; `sha256` covers them all."""

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""RFC 4514, section 3."""

_TAG_SEQUENCE: Final = 0x30
_TAG_VERSION: Final = 0xA0
_TAG_UTC_TIME: Final = 0x17


def describe(parsed: dict[str, Any], der: bytes) -> dict[str, Any]:
    """A peer's verified certificate, as `con.tls["client"]`, from what `getpeercert` returns."""
    names = parsed.get("subjectAltName", ())
    return {
        "subject": _distinguished(parsed.get("subject", ())),
        "issuer": _distinguished(parsed.get("issuer", ())),
        "serial": parsed.get("serialNumber", ""),
        "sha256": hashlib.sha256(der).hexdigest(),
        "not_after": parsed.get("notAfter", ""),
        "names": [f"{kind}:{name}" for kind, name in names[:MOST_NAMES]],
    }


def _distinguished(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """A name in the notation of RFC 4514: the most specific part first."""
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in reversed(name)
    )


def _escaped(value: str) -> str:
    """Escape a value (RFC 4514, section 2.4), so that it cannot contain another part."""
    text = "".join(f"\\{c}" if c in '"+,;<>\\' else c for c in value).replace("\0", "\\00")
    if text.startswith((" ", "#")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(value) > 1 else text


def validity(der: bytes) -> tuple[datetime, datetime]:
    """The times from and until which a certificate is valid. Raises ValueError.

    A Certificate contains a TBSCertificate, which contains [version,] serial number, signature,
    issuer and then the two times (RFC 5280, section 4.1).
    """
    tbs = _inside(_inside(der))
    if tbs[:1] == bytes((_TAG_VERSION,)):
        tbs = _item(tbs)[2]
    for _ in range(3):
        tbs = _item(tbs)[2]
    times = _inside(tbs)
    first, value, times = _item(times)
    second, other, _ = _item(times)
    return _time(first, value), _time(second, other)


def _inside(data: bytes) -> bytes:
    tag, value, _ = _item(data)
    if tag != _TAG_SEQUENCE:
        raise ValueError("not a certificate")
    return value


def _item(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag and the value of the first DER item, and what follows it."""
    if len(data) < 2:
        raise ValueError("not a certificate")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise ValueError("not a certificate")
    return data[0], data[start : start + size], data[start + size :]


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _TAG_UTC_TIME:
        # RFC 5280, section 4.1.2.5.1: 50 and above is the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
