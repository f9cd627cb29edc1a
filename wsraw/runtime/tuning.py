"""I/O. Options of clients' sockets."""

from __future__ import annotations

import socket
import sys
from typing import Final

KEEPALIVE_IDLE: Final = 60
"""Seconds of silence after which TCP itself asks a raw peer whether it is still there."""

INHERITED: Final = sys.platform == "linux"
"""Accepted sockets have the options of the listening one, but not its being non-blocking: five
system calls less for each client."""


def tune(sock: socket.socket, *, inherited: bool = False) -> None:
    """Options that every client socket gets, if it has not inherited them. Raises OSError if the
    peer is gone already.

    WebSockets have their ping; TCP's own keepalive is what raw connections have instead.
    """
    sock.setblocking(False)
    if inherited or sock.family == getattr(socket, "AF_UNIX", None):
        return
    # Replies are written once a turn, whole: Nagle's delay would only wait for nothing.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
