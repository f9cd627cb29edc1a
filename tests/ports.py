"""Ports for programs that cannot take one themselves and say which."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A TCP port on which nobody listens. Not one of those that the system gives to whoever asks
    for any port, or connects: another process could have it before it is used."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
