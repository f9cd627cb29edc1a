"""For tests of handlers: in-process with fake connections, or with a real run; docs/testing.md.

pytest gets the fixtures `wsraw_app` and `wsraw_server`. The names are imported on first use: pytest
loads the plugin, and so this file, in all test runs where wsraw is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsraw.testing.app import App
    from wsraw.testing.peers import Peer, RawPeer, WebSocketPeer
    from wsraw.testing.server import Server

__all__ = ["App", "Peer", "RawPeer", "Server", "WebSocketPeer"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsraw.testing import app, peers, server

    home = {"App": app, "Server": server}.get(name, peers)
    value = globals()[name] = getattr(home, name)
    return value
