"""Many clients that verify every answer: its content and its order, and that none is lost or
duplicated.

Each client sends numbered messages and expects an answer to each, in order. The test fails if a
client is disconnected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from websockets.asyncio.client import ClientConnection, connect

from tests.deadline import DEADLINE
from tests.e2e.serving import Serving

UNANSWERED = 100
"""The most unanswered messages of a client that sends at an interval."""

Expect = Callable[[bytes, int], bytes]


def echo(data: bytes, n: int) -> bytes:
    """What an echo server answers to the n-th message."""
    return data


class Client:
    """One connection. `sent` and `answered` count its messages."""

    def __init__(self, size: int, interval: float, expect: Expect) -> None:
        self.size = size
        self.interval = interval
        self.expect = expect
        self.sent = 0
        self.answered = 0
        self.over = False

    def message(self, n: int) -> bytes:
        return b"%08d" % n + b"." * (self.size - 9) + b"\n"

    def check(self, got: bytes) -> None:
        wanted = self.expect(self.message(self.answered), self.answered)
        assert got == wanted, f"answer {self.answered}: {got[:40]!r}, not {wanted[:40]!r}"
        self.answered += 1

    async def open(self, serving: Serving) -> None:
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def receive(self, size: int) -> bytes:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        """Free the socket, whether or not the connection was opened."""

    async def run_sender(self, limit: int) -> None:
        while not self.over and self.sent < limit:
            # If the machine is too busy for the interval, the queue would only grow: skip messages
            # instead.
            if not self.interval or self.sent < self.answered + UNANSWERED:
                await self.send(self.message(self.sent))
                self.sent += 1
            if self.interval:
                await asyncio.sleep(self.interval)
        self.over = True

    async def run_receiver(self) -> None:
        while True:
            wanted = self.expect(self.message(self.answered), self.answered)
            self.check(await self.receive(len(wanted)))


class WebClient(Client):
    ws: ClientConnection

    async def open(self, serving: Serving) -> None:
        # No pings: their pongs would come only after all data that waits to be read.
        self.ws = await connect(
            serving.url(),
            proxy=None,
            compression=None,
            max_size=None,
            open_timeout=DEADLINE,
            ping_interval=None,
        )

    async def send(self, data: bytes) -> None:
        await self.ws.send(data)

    async def receive(self, size: int) -> bytes:
        data = await self.ws.recv()
        assert isinstance(data, bytes)
        return data

    async def close(self) -> None:
        await self.ws.close()

    def abort(self) -> None:
        if hasattr(self, "ws"):
            self.ws.transport.abort()


class RawClient(Client):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def open(self, serving: Serving) -> None:
        host, port = serving.addresses[0]
        self.reader, self.writer = await asyncio.open_connection(str(host), port)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    def abort(self) -> None:
        if hasattr(self, "writer"):
            self.writer.transport.abort()


class Load:
    """Clients that work while the test does something to the run."""

    def __init__(self, clients: Sequence[Client], limit: int = 1 << 60) -> None:
        self.clients = clients
        self.limit = limit
        self._tasks: list[asyncio.Task[None]] = []
        self._serving: Serving | None = None

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            client.abort()
        # A transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)

    @property
    def answered(self) -> int:
        return sum(client.answered for client in self.clients)

    async def start(self, serving: Serving) -> None:
        self._serving = serving
        await asyncio.gather(*(client.open(serving) for client in self.clients))
        for client in self.clients:
            self._tasks.append(asyncio.create_task(client.run_sender(self.limit)))
            self._tasks.append(asyncio.create_task(client.run_receiver()))

    def check(self) -> None:
        """Raise the error of a client that has failed."""
        for task in self._tasks:
            if task.done():
                try:
                    task.result()  # Raises the task's error, if there is one.
                except Exception as error:
                    error.add_note(str(self._serving))
                    raise

    async def until(self, condition: Callable[[], object]) -> None:
        """Keep working until the condition is true."""
        until = asyncio.get_running_loop().time() + DEADLINE
        while not condition():
            self.check()
            assert asyncio.get_running_loop().time() < until, (
                f"{self.answered} answers, still waiting"
            )
            await asyncio.sleep(0.01)
        self.check()

    async def more(self, answers: int) -> None:
        """Keep working until that many more answers have come."""
        goal = self.answered + answers
        await self.until(lambda: self.answered >= goal)

    async def caught_up(self) -> None:
        """Keep working until everything sent so far is answered."""
        goals = [(client, client.sent) for client in self.clients]
        await self.until(lambda: all(client.answered >= goal for client, goal in goals))

    async def finish(self) -> None:
        """Stop sending, and wait until everything is answered."""
        if self.limit == 1 << 60:
            for client in self.clients:
                client.over = True
        await self.until(
            lambda: all(client.over and client.answered >= client.sent for client in self.clients)
        )
        for task in self._tasks:
            task.cancel()
        assert all(client.answered == client.sent > 0 for client in self.clients)
        await asyncio.gather(*(client.close() for client in self.clients))
