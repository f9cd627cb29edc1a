"""Servers for the connections that wsraw opens: one raw, one of the websockets library."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from websockets.sync.server import Server, ServerConnection
from websockets.sync.server import serve as ws_serve

from tests.e2e.serving import TIMEOUT


class Upstream:
    """The state of a server: its port, and how many clients have connected."""

    def __init__(self) -> None:
        self.port = 0
        self.came = 0
        self.errors: list[BaseException] = []


@contextmanager
def raw_upstream(handle: Callable[[socket.socket], object]) -> Iterator[Upstream]:
    """A raw server; `handle` serves each connection in a thread of its own."""
    upstream = Upstream()
    threads: list[threading.Thread] = []

    def serve_one(sock: socket.socket) -> None:
        with sock:
            sock.settimeout(TIMEOUT * 4)
            try:
                handle(sock)
            except OSError:
                # The peer has disconnected, which the test checks on its side.
                pass
            except BaseException as error:
                upstream.errors.append(error)

    is_over: list[bool] = []

    def accept() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            if is_over:
                sock.close()
                return
            upstream.came += 1
            threads.append(threading.Thread(target=serve_one, args=(sock,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream.port = server.getsockname()[1]
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield upstream
        finally:
            is_over.append(True)
            # Only a connection wakes accept() on every platform.
            socket.create_connection(server.getsockname()).close()
            acceptor.join()
            for thread in threads:
                thread.join(TIMEOUT * 5)
                assert not thread.is_alive()
    assert not upstream.errors, upstream.errors


@contextmanager
def web_upstream(handle: Callable[[ServerConnection], object]) -> Iterator[Upstream]:
    """A WebSocket server; `handle` serves each connection."""
    upstream = Upstream()

    def serve_one(connection: ServerConnection) -> None:
        upstream.came += 1
        handle(connection)

    server: Server
    with ws_serve(serve_one, "127.0.0.1", 0, compression=None, max_size=None) as server:
        upstream.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()
