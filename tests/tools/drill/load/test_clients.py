"""How a client of the drill tells a connection that ended from one that was refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib

from tests.tools.drill.faulty import GUID, frame
from wsraw.tools.drill.load.clients import Client

CLOSE = frame(8, (1011).to_bytes(2) + b"its worker died")


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
