"""The PROXY header: any cut gives the same result, and the data after it is passed on unchanged."""

from __future__ import annotations

from collections.abc import Hashable

from tests.fuzz.oracles import pieces
from wsraw.gateway.admission.proxy_protocol import MAX_SIZE, SIGNATURE, ProxyReader

V4 = b"\x21\x11\x00\x0c" + bytes((192, 0, 2, 1, 192, 0, 2, 2)) + b"\x30\x39\x00\x50"
V6 = b"\x21\x21\x00\x24" + bytes(31) + b"\x01\x30\x39\x00\x50"
SEEDS = [
    bytes((number,)) + data
    for number in (0, 255)
    for data in (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\r\nGET ",
        b"PROXY TCP6 2001:db8::1 ::1 12345 80\r\nrest",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ::1 1 2\r\nrest",
        SIGNATURE + V4 + b"rest",
        SIGNATURE + V6,
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x11\x00\x16" + V4[4:] + b"\x20\x00\x05\x01\x00\x00\x00\x00\x04\x00",
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216) + b"rest",
        b"GET / HTTP/1.1\r\n",
    )
]
WORDS = [SIGNATURE, b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b" 65536", b"::ffff:1.2.3.4", b"%1"]


def _told(reader: ProxyReader) -> tuple[object, ...]:
    return reader.state, reader.address, reader.peer, reader.tls, reader.error, reader.found


def run(data: bytes) -> Hashable:
    optional, data = data[:1] > b"\x7f", data[1:]
    whole, cut = ProxyReader(optional), ProxyReader(optional)
    if data:
        whole.receive_data(data)
    left = list(pieces(data))
    while left and cut.state == "reading":
        cut.receive_data(left.pop(0))
    if whole.state == "wrong":
        # With other cuts an error may be found earlier, but it must be found.
        assert cut.state == "wrong"
    else:
        assert _told(cut) == _told(whole)
    if whole.state == "done":
        assert data.endswith(whole.rest)
        assert cut.rest + b"".join(left) == whole.rest
        assert whole.peer.isascii()
        assert bool(whole.peer) is (whole.address is not None)
    elif whole.state == "reading":
        assert len(data) < MAX_SIZE
        whole.receive_eof()
        assert whole.state in ("done", "wrong")
    else:
        assert whole.error
        assert "\n" not in whole.error
    return optional, whole.state, whole.error[:40], whole.address is None, whole.tls
