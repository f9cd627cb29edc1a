"""Sans-I/O. Headers as handlers see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

MOST_BODY: Final = 64 * 1024
"""Bytes of an answer's body that a handler gets to see; what is more is cut off."""

MOST_HEADERS: Final = 64 * 1024
"""Characters of its headers; those behind are left out."""


def to_inf(inf: dict[str, str], headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers as the peer spelled them, duplicates joined (cookies as RFC 9113, section 8.2.3, says
    it); the names in `inf` stay ours."""
    spelled: dict[str, str] = {}
    ours = dict(inf)
    for name, value in headers:
        lower = name.lower()
        known = spelled.setdefault(lower, name)
        joint = "; " if lower == "cookie" else ", "
        inf[known] = f"{inf[known]}{joint}{value}" if known in inf else value
    inf.update(ours)
    return inf


def response_of(response: Any) -> dict[str, Any]:
    """What a server has answered that did not let us in, as plain values."""
    left = MOST_HEADERS
    headers = []
    for name, value in response.headers.raw_items():
        left -= len(name) + len(value)
        if left < 0:
            break
        headers.append((name, value))
    return {
        "status": response.status_code,
        "headers": to_inf({}, headers),
        "body": bytes(response.body[:MOST_BODY]),
    }
