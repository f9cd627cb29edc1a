"""Sans-I/O. The usual request of a WebSocket client, read in one go.

After a deploy of whatever stands in front of us everybody comes back at once. The library's parser
is a generator that reads line by line, and its checks take each header apart; together they take
25 µs, a quarter of what a new connection costs the gateway. So the plain case is read here: a GET
in HTTP/1.1, plain ASCII, each field once, no body, and all of the handshake spelled as everybody
spells it. All else goes to the library, which alone judges; here nothing is refused.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LONGEST: Final = 8 * 1024
"""Bytes of such a request. The library has a limit of its own, for each line."""

MOST_FIELDS: Final = 100

LONGEST_OFFER: Final = 256
"""Bytes of extensions. What is wrong with them is found late, and by the library once more."""

_TOKEN: Final = r"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
_HEAD: Final = re.compile(
    rf"GET ([!-~]++) HTTP/1\.1\r\n((?:{_TOKEN}:[\t -~]*+\r\n)++)\r\n".encode("ascii")
)
_TOKENS: Final = re.compile(rf"{_TOKEN}(?:, ?{_TOKEN})*+")
_KEY: Final = re.compile(r"[0-9a-zA-Z+/]{22}==")
_CONNECTIONS: Final = frozenset(("upgrade", "keep-alive, upgrade"))


class PlainRequest(NamedTuple):
    """What it asks for."""

    inf: dict[str, str]
    """As on_connect shows it."""
    key: str
    extensions: str | None
    """The field as it came."""
    subprotocols: list[str]
    """Those that the client speaks."""


def read(head: bytes) -> PlainRequest | None:
    """A complete request head with the empty line behind it; None for one that is not so plain."""
    found = _HEAD.fullmatch(head) if len(head) <= LONGEST else None
    if found is None:
        return None
    url, fields = found[1].decode("ascii"), found[2].decode("ascii")
    lines = fields.split("\r\n")[:-1]
    inf = {"method": "GET", "url": url}
    known: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        inf[name] = known[name.lower()] = value.strip(" \t")
    if len(known) < len(lines) or len(lines) > MOST_FIELDS:
        return None
    get = known.get
    key = get("sec-websocket-key", "")
    # An empty field is none.
    extensions = get("sec-websocket-extensions") or None
    subprotocols = get("sec-websocket-protocol") or None
    if (
        get("upgrade", "").lower() != "websocket"
        or get("connection", "").lower() not in _CONNECTIONS
        or get("sec-websocket-version") != "13"
        or not _KEY.fullmatch(key)
        or "host" not in known
        or "content-length" in known
        or "transfer-encoding" in known
        or len(extensions or "") > LONGEST_OFFER
        or (subprotocols is not None and not _TOKENS.fullmatch(subprotocols))
    ):
        return None
    # A field of one of these names does not stand in for what they mean here.
    inf["method"], inf["url"], inf["Protocol"] = "GET", url, "websocket server"
    offered = [name.strip() for name in subprotocols.split(",")] if subprotocols else []
    return PlainRequest(inf, key, extensions, offered)
