"""Ports for programs that cannot choose a free port and report it."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A TCP port on which no process listens. The port is outside of the range from which the
    system chooses ports, as another process could otherwise get it before it is used.
    """
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
