"""Gateways in this process, one after another, with real clients and workers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.deadline import eventually
from tests.runtime.link.ends import take
from wsraw.config.settings import Settings
from wsraw.gateway import gateway as g
from wsraw.gateway.frozen.gateway import Parts
from wsraw.gateway.frozen.links import Ends
from wsraw.link.records import OnMessage, Send
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.link.client import LinkClient

TOKEN = "token"


class Worker:
    """A worker that echoes."""

    def __init__(self, endpoint: str, instance: str) -> None:
        self.client = LinkClient(endpoint, probe=True)
        self.link = WorkerEnd(pool="default", token=TOKEN, instance=instance, language="test")
        self.heard: list[Any] = []
        self.reads = self.acks = True
        self.echo: Callable[[OnMessage], list[Any]] = lambda event: [
            Send(event.con, event.data, event.type)
        ]

    def work(self) -> None:
        if not self.reads:
            return
        for batch in take(self.client):
            self.heard += self.link.receive(batch)
        for event in [record for record in self.heard if hasattr(record, "seq")]:
            if not self.acks:
                break
            self.heard.remove(event)
            outbox = self.link.outbox(event)
            if isinstance(event, OnMessage):
                outbox.records.extend(self.echo(event))
            assert self.link.done(outbox)
        while (data := self.link.data_to_send()) is not None:
            assert self.client.send(data)


class Relay:
    """A gateway that another one may replace at any time."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self.settings = Settings(**{"listen": ("127.0.0.1:0",), **settings})
        self.generations = 0
        self.gateway = self._make()
        self.gateway.start()
        self.gateway.sessions.tokens.add(TOKEN, 0)
        self.workers: list[Worker] = []
        self.clients: list[socket.socket] = []
        self._listeners = list(self.gateway.sockets.listeners)

    def _make(self) -> g.Gateway:
        self.generations += 1
        folder = self._folder / f"g{self.generations}"
        folder.mkdir()
        return g.Gateway(self.settings, "", "", 7, folder=str(folder))

    def worker(self) -> Worker:
        worker = Worker(self.gateway._links.endpoint, f"w{len(self.workers)}")
        self.workers.append(worker)
        ready = len(self.gateway.registry.pool().workers) + 1
        self.until(lambda: len(self.gateway.registry.pool().workers) == ready)
        return worker

    def connect(self, buffer: int = 0) -> socket.socket:
        host, port = self.gateway.sockets.listeners[0].address.rsplit(":", 1)
        client = socket.socket()
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        before = len(self.gateway.sockets.endpoints)
        self.turn()
        client.connect((host, int(port)))
        client.setblocking(False)
        self.clients.append(client)
        self.until(lambda: len(self.gateway.sockets.endpoints) > before)
        return client

    def turn(self) -> None:
        self.gateway.loop.turn(False)
        self.gateway.sessions.to_supervisor.clear()
        for worker in self.workers:
            worker.work()

    def until(self, condition: Callable[[], Any]) -> Any:
        def turn() -> Any:
            self.turn()
            return condition()

        return eventually(turn)

    def received(self, client: socket.socket, size: int) -> bytes:
        """Receive that many bytes as a client."""
        found = b""

        def more() -> bool:
            nonlocal found
            try:
                data = client.recv(1 << 20)
                assert data, "closed"
                found += data
            except BlockingIOError:
                pass
            return len(found) >= size

        self.until(more)
        return found

    def upgrade(self) -> None:
        """Replace the gateway by the next one, and close the old one silently."""
        old = self.gateway
        for _ in range(100):
            old.sessions.to_supervisor.clear()
            if not self._parts(old).why_not():
                break
            old.loop.turn(False)
        assert self._parts(old).why_not() == ""
        assert self._parts(old).unmovable() == []
        new = self._make()
        for listener in self._listeners:
            new.sockets.listeners.append(listener)
        thawing = self._parts(new).thawing(new.loop.now)
        for data, sockets in self._parts(old).freeze(old.loop.now):
            thawing.take(data, [sock.dup() for sock in sockets])
        thawing.finish()
        new.sockets.listeners.clear()
        self._close(old)
        new._tick()
        self.gateway = new

    @staticmethod
    def _parts(gateway: g.Gateway) -> Parts:
        ends = Ends(gateway.sockets, gateway._links)
        return Parts(gateway.registry, gateway.sessions, gateway.deadlines, ends)

    def _close(self, gateway: g.Gateway) -> None:
        """Close all sockets as the end of its process does; duplicated descriptors stay open."""
        for endpoint in gateway.sockets.endpoints:
            gateway.loop.unwatch(endpoint.sock)
            endpoint.sock.close()
        gateway._links.close()
        gateway.loop.close()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for worker in self.workers:
            worker.client.forked()
        self.gateway.close()
        for listener in self._listeners:
            listener._sock.close()
