"""A gateway without its ZeroMQ, driven turn by turn."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from typing import Any

from tests.deadline import eventually
from tests.gateway.harness import Harness, LinkedWorker
from wsraw.config.addresses import parse_listen
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.link.records import OnMessage, Record
from wsraw.runtime.loop import Loop
from wsraw.runtime.selector import Selector


class Clock:
    """A clock that the test sets; each look moves it by `step`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.time += self.step
        return self.time


class SocketHarness:
    """A gateway without its ZeroMQ: real sockets, the core, and a worker, all in one thread."""

    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        selector: Callable[[], selectors.BaseSelector] = Selector,
        **settings: Any,
    ) -> None:
        self.harness = Harness(**settings)
        self.clock = Clock()
        self.loop = Loop(self.clock, selector)
        self.sockets = Sockets(self.loop, self.harness.registry, self.harness.settings)
        self.sockets.listen(parse_listen(listen, self.harness.settings), None)
        self.loop.before_sleep = self._before_sleep
        self.linked: LinkedWorker = self.harness.worker()
        self.working = True
        """Whether the worker acks the events that it gets."""
        self.handle: Callable[[Any], tuple[Record, ...]] = lambda event: ()
        self.heard: list[Any] = []
        self.clients: list[socket.socket] = []

    def _before_sleep(self, now: float) -> bool:
        self.harness.now = self.harness.registry.flow.now = now
        self.sockets.write_over_limit()
        self.sockets.dial()
        if self.harness.registry.flow.is_check_due:
            self.harness.deadlines.check_memory(now)
        self.sockets.apply_pauses()
        if self.sockets.handshakes.waiting:
            self.sockets.handshakes.work()
        self.harness.turn()
        if self.working:
            for event in self.linked.events:
                self.heard.append(event)
                self.linked.ack(event, commands=self.handle(event))
        self.harness.turn()
        self.sockets.flush()
        self.sockets.update_listeners()
        return False

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.time += seconds
        self.loop.turn(False)

    def until(self, condition: Callable[[], Any], seconds: float = 0.0) -> Any:
        def turn() -> Any:
            self.turn(seconds)
            return condition()

        return eventually(turn)

    def connect(self, buffer: int = 0) -> socket.socket:
        host, port = self.sockets.listeners[0].address.rsplit(":", 1)
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.turn()
        before = set(self.sockets.endpoints)
        sock.connect((host, int(port)))
        sock.setblocking(False)
        self.clients.append(sock)
        self.until(lambda: self.sockets.endpoints - before)
        return sock

    @property
    def endpoint(self) -> Endpoint:
        [endpoint] = self.sockets.endpoints
        return endpoint

    @property
    def con(self) -> Connection:
        return self.endpoint.con

    def kinds(self) -> list[type[Any]]:
        return [type(event) for event in self.heard]

    def data(self) -> bytes:
        return b"".join(event.data for event in self.heard if type(event) is OnMessage)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.sockets.close()
        self.loop.close()
