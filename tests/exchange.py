"""Send and receive over TLS in one thread."""

from __future__ import annotations

import select
import ssl
import time

from tests.deadline import DEADLINE


def exchange(client: ssl.SSLSocket, data: bytes, size: int = 0) -> bytes:
    """Send all data, and read `size` bytes (by default as many as were sent). OpenSSL allows one
    user of a connection at a time, so sending and reading alternate.
    """
    size = size or len(data)
    timeout = client.gettimeout()
    client.setblocking(False)
    sent, received = 0, bytearray()
    until = time.monotonic() + DEADLINE
    while sent < len(data) or len(received) < size:
        assert time.monotonic() < until, f"{len(received)} of {size} bytes are back"
        is_idle = True
        try:
            if sent < len(data):
                sent += client.send(data[sent : sent + 16_384])
                is_idle = False
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        try:
            part = client.recv(65_536)
            assert part, f"it ended after {len(received)} bytes"
            received += part
            is_idle = False
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        if is_idle:
            select.select([client], [client] if sent < len(data) else [], [], 1)
    client.settimeout(timeout)
    return bytes(received)
