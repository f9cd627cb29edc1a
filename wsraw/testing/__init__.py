"""For tests of handlers: in-process with fake connections, or with a real run; docs/testing.md.

With pytest there are the fixtures `wsraw_app` and `wsraw_server`.
"""

from wsraw.testing.app import App
from wsraw.testing.peers import Peer, RawPeer, WebSocketPeer
from wsraw.testing.server import Server

__all__ = ["App", "Peer", "RawPeer", "Server", "WebSocketPeer"]
