"""Sans-I/O. What `open` may dial: ``host:port``, ``tcp://``, ``tls://``, ``ws://``, ``wss://``,
``unix:``."""

from __future__ import annotations

from typing import Final, NamedTuple


class Target(NamedTuple):
    """Where to connect: `path` for a unix socket, else host and port."""

    host: str
    port: int
    path: str
    tls: bool = False


_DEFAULT_PORTS: Final = {"ws": "80", "wss": "443"}


def parse_target(target: str) -> Target:
    """Raises ValueError, with what to write instead, for what cannot be dialled."""
    scheme, separator, rest = target.partition("://")
    if not separator:
        if target.startswith("unix:"):
            scheme, rest = "unix", target.removeprefix("unix:")
        else:
            scheme, rest = "tcp", target
    if scheme not in ("tcp", "tls", "ws", "wss", "unix"):
        raise ValueError(
            f"cannot open {target!r}: write host:port, tcp://, tls://, ws://, wss:// or unix:"
        )
    if scheme == "unix":
        if not rest:
            raise ValueError(f"cannot open {target!r}: write it as unix:PATH")
        return Target("", 0, rest)
    # The path of a WebSocket's target belongs to the handshake, not to the dialling.
    authority = rest.partition("/")[0].partition("?")[0]
    host, colon, port = authority.rpartition(":")
    if scheme in _DEFAULT_PORTS and (not colon or authority.endswith("]")):
        host, port = authority, _DEFAULT_PORTS[scheme]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    known = port.isascii() and port.isdigit() and len(port) < 10
    if not host or not known or not 0 < int(port) < 65536:
        raise ValueError(f"cannot open {target!r}: write it as host:port")
    return Target(host, int(port), "", scheme in ("tls", "wss"))
