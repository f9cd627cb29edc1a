"""How a client of the drill tells a connection that has ended from one that was refused."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import time

import pytest

from tests.tools.drill.faulty import GUID, faulty, frame
from wsraw.tools.drill.figures import Figures
from wsraw.tools.drill.load.clients import Client, HangClient, VerifiedClient, _text
from wsraw.tools.drill.load.schedule import Schedule

CLOSE = frame(8, (1011).to_bytes(2) + b"its worker died")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "x"),
        ConnectionResetError(22, "The specified network name is no longer available"),
        ConnectionAbortedError(errno.ECONNABORTED, "x"),
    ],
)
def test_a_reset_has_one_name(error: OSError) -> None:
    """The name shows that the connection may be lost with its gateway."""
    assert _text(error) == "connection reset by peer"


def test_a_refusal_has_one_name() -> None:
    """On Windows, asyncio gives the error another number."""
    for number in (errno.ECONNREFUSED, errno.EINVAL):
        assert _text(ConnectionRefusedError(number, "x")) == "connection refused"


def test_a_close_frame_that_comes_with_the_answer_ends_a_connection_that_was_open() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [line] = [each for each in head.splitlines() if each.lower().startswith(b"sec-websocket-k")]
        accept = base64.b64encode(hashlib.sha1(line.split(b": ")[1] + GUID).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + CLOSE
        )
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            client = Client(server.sockets[0].getsockname(), "websocket")
            assert await client.connect() == ""
            assert await client.ended == "1011 its worker died"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["websocket", "raw"])
@pytest.mark.parametrize("messages", [0, 1])
def test_a_worker_must_know_of_a_client_that_has_sent_something(kind: str, messages: int) -> None:
    """A client that comes and goes while there is no worker is forgotten."""

    async def main(port: int) -> None:
        schedule = Schedule(1, 10.0, 1.0)
        client = VerifiedClient(("127.0.0.1", port), kind, 0, 64, schedule, Figures())
        assert await client.connect() == ""
        for _ in range(messages):
            client.send_next(time.monotonic())
        client.close()
        await client.ended
        assert client.end("", looks_lost=False).is_known is bool(messages)

    with faulty() as port:
        asyncio.run(main(port))


def test_a_worker_must_know_of_a_client_that_has_made_it_hang() -> None:
    async def main(port: int) -> None:
        client = HangClient(("127.0.0.1", port), 1.0)
        client.start(0.0)
        for sends in (True, False):
            assert await client.connect() == ""
            assert client.hang(5.0) is sends
            client.abort()
            await client.ended
            assert client.end("eof", looks_lost=False).is_known is sends
            client.start(10.0)

    with faulty() as port:
        asyncio.run(main(port))
