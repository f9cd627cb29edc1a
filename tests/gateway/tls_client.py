"""TLS clients of a gateway in the same thread, with Python's ssl."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.authority import client_context
from tests.gateway.socket_harness import SocketHarness
from wsraw.link.records import OnMessage, Record, Send

Serve = Callable[..., SocketHarness]


class Client:
    """A TLS client that never blocks: it takes a turn of the gateway for each attempt."""

    def __init__(
        self,
        served: SocketHarness,
        context: ssl.SSLContext | None = None,
        name: str = "localhost",
        buffer: int = 0,
    ) -> None:
        self.served = served
        self.sock = (context or client_context()).wrap_socket(
            served.connect(buffer), server_hostname=name, do_handshake_on_connect=False
        )
        served.clients.append(self.sock)

    def until(self, step: Callable[[], Any]) -> Any:
        result: list[Any] = []

        def turn() -> bool:
            try:
                result.append(step())
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            return True

        self.served.until(turn)
        return result[0]

    def shake(self) -> Client:
        self.until(self.sock.do_handshake)
        return self

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.until(partial(self.sock.send, view)) :]

    def receive(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = self.until(partial(self.sock.recv, size - len(got)))
            assert part, f"closed after {len(got)} bytes"
            got += part
        return bytes(got)

    def receive_all(self) -> bytes:
        got = bytearray()
        while True:
            try:
                part = self.until(partial(self.sock.recv, 1 << 16))
            except ssl.SSLZeroReturnError:
                # ssl reports the end so if we have sent a close_notify before.
                part = b""
            if not part:
                return bytes(got)
            got += part

    def close_notify(self) -> None:
        """Send a close_notify without waiting for the other side."""
        try:
            self.sock._sslobj.shutdown()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            pass


def send_plainly(sock: ssl.SSLSocket, data: bytes) -> None:
    """Send plain bytes, before TLS or instead of it."""
    assert socket.socket.send(sock, data) == len(data)


def echo(event: Any) -> tuple[Record, ...]:
    return (Send(event.con, event.data),) if type(event) is OnMessage else ()
