"""The head of a request, compared with the library."""

from __future__ import annotations

from collections.abc import Hashable

from tests.fuzz.targets import handshake
from tests.library import library_answer
from wsraw.config.settings import Settings
from wsraw.gateway.admission.sniffer import Finding, Sniffer
from wsraw.gateway.websocket.handshake import HandshakeError, ServerHandshake

SEEDS = [seed[1:] for seed in handshake.SEEDS if seed[1:].startswith(b"GET ")]
WORDS = handshake.WORDS


def run(data: bytes) -> Hashable:
    sniffer = Sniffer()
    if sniffer.receive_data(data) is not Finding.WEBSOCKET:
        return None
    head = data[: sniffer.head_size]
    try:
        asked = ServerHandshake(head, Settings())
    except HandshakeError as error:
        assert library_answer(head)[0] == error.status, error
        return str(error)[:20]
    inf = [item for item in asked.inf.items() if item[0] not in ("method", "url", "Protocol")]
    assert (101, inf, asked.offered) == library_answer(head)
    return len(inf), asked.terms
