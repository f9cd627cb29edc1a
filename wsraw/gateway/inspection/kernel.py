"""I/O. What the kernel knows about a TCP connection: bytes, round trip, retransmitted segments.

The kernel counts these anyway, so they cost a system call when an operator asks, and nothing else.
Only Linux gives them.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, Final

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.sockets.endpoint import Endpoint

_INFO: Final = struct.Struct("=8x 24I 2Q 2Q 2I I")
"""The first fields of struct tcp_info (linux/tcp.h)."""

_RTT: Final = 15
_TOTAL_RETRANS: Final = 23
_BYTES_RECEIVED: Final = 27
_NOT_SENT: Final = 30
"""Indexes of these fields."""


def look(con: Connection) -> dict[str, Any]:
    """The kernel's figures of a connection's socket; empty where there are none."""
    endpoint = con.endpoint
    if not sys.platform.startswith("linux") or not isinstance(endpoint, Endpoint):
        return {}
    sock = endpoint.sock
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return {}
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return {}
    if len(info) < _INFO.size:
        # A kernel before 4.6.
        return {}
    fields = _INFO.unpack(info)
    return {
        "received": fields[_BYTES_RECEIVED],
        "round_trip": fields[_RTT] / 1e6,
        "repeated": fields[_TOTAL_RETRANS],
        "unsent": fields[_NOT_SENT],
    }
