"""Forwarded and X-Forwarded-For: a client's entries must not hide those of our proxies."""

from __future__ import annotations

from collections.abc import Hashable

from wsraw.config.addresses import Networks
from wsraw.gateway.admission.forwarded import Forwarded, forwarded, x_forwarded_for

TRUSTED = Networks(["10.0.0.0/8"])
SEEDS = [
    bytes((number,)) + text
    for number, texts in enumerate(
        (
            (
                b"203.0.113.7, 10.0.0.1",
                b"2001:db8::1",
                b"[::1]:80, 1.2.3.4:5",
                b"unknown, 10.1.1.1",
            ),
            (
                b"for=203.0.113.7;proto=https;host=a, for=10.0.0.1",
                b'for="[2001:db8::1]:4711";by=_x, for=unknown',
                b'for="a\\"b", For=1.2.3.4',
            ),
        )
    )
    for text in texts
]
WORDS = [b",", b";", b"=", b'"', b"\\", b"for=", b"10.0.0.1", b"1.2.3.4", b"unknown", b"_a", b"::1"]


def run(data: bytes) -> Hashable:
    kind = data[0] & 1 if data else 0
    text = data[1:].decode("latin-1")
    name, read, added = (
        ("x-forwarded-for", x_forwarded_for, "{}"),
        ("forwarded", forwarded, "for={};proto=http"),
    )[kind]
    headers = {name: text}
    found = read(headers, TRUSTED)
    if found is not None and found.address is not None:
        assert found.peer.isascii()
    # Our proxies append an entry, which counts whatever comes before it.
    for hops in (["203.0.113.9"], ["203.0.113.9", "10.0.0.1"]):
        tail = ", ".join(added.format(hop) for hop in hops)
        client = read({name: f"{text}, {tail}"}, TRUSTED)
        assert isinstance(client, Forwarded)
        assert str(client.address) == "203.0.113.9", (text, client)
    return kind, found is None, found is not None and (found.address in TRUSTED, found.scheme)
