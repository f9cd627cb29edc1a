"""A small echo server, WebSocket and raw on one port, with a mistake that tests choose."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Mistake = Callable[[int, bytes], list[bytes]]
"""A function that returns the answers to the n-th message (from 0) of a connection, in order."""


class Disconnect(Exception):  # noqa: N818
    """Raised by a mistake to end the connection at once. `code` is that of the close frame, 0
    for none.
    """

    def __init__(self, code: int = 0) -> None:
        self.code = code


def right(n: int, data: bytes) -> list[bytes]:
    return [data]


class Faulty:
    """A server with a mistake. `raw_size` is the size of a record, so that raw mistakes concern
    whole records.
    """

    def __init__(self, mistake: Mistake, raw_size: int) -> None:
        self._answers = mistake
        self._raw_size = raw_size

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(4)
            if first == b"GET ":
                await self._serve_web(reader, writer)
            else:
                await self._serve_raw(first, reader, writer)
        except Disconnect as end:
            if end.code:
                writer.write(b"\x88\x02" + end.code.to_bytes(2, "big"))
            # Read everything that is on its way, as the close would otherwise be a reset.
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _serve_raw(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for n in range(1 << 60):
            data = first + await reader.readexactly(self._raw_size - len(first))
            first = b""
            writer.writelines(self._answers(n, data))

    async def _serve_web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = (
            line.split(b": ")[1]
            for line in head.splitlines()
            if line.startswith(b"Sec-WebSocket-K")
        )
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        n = 0
        async for opcode, data in frames(reader):
            if opcode == 8:
                writer.write(frame(8, data))
                return
            writer.writelines(frame(opcode, answer) for answer in self._answers(n, data))
            n += 1


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    while True:
        first, size = await reader.readexactly(2)
        size &= 0x7F
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size)
        yield first & 0x0F, bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))


def frame(opcode: int, data: bytes) -> bytes:
    size = len(data)
    head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + head + data


@contextmanager
def faulty(mistake: Mistake = right, raw_size: int = 64) -> Iterator[int]:
    """Serve in a thread; yields the port."""
    loop: asyncio.AbstractEventLoop
    over = asyncio.Event()
    started = threading.Event()
    port = 0

    async def main() -> None:
        nonlocal port
        server = await asyncio.start_server(Faulty(mistake, raw_size).serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        try:
            await over.wait()
        finally:
            server.close()
            clients = asyncio.all_tasks() - {asyncio.current_task()}
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            # A transport closes its socket in the loop's next turn.
            await asyncio.sleep(0)

    def run() -> None:
        with asyncio.Runner() as runner:
            nonlocal loop
            loop = runner.get_loop()
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
