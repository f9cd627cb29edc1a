"""Sans-I/O. Certificates as plain values."""

from __future__ import annotations

import hashlib
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
