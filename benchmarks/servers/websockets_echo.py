"""The asyncio server of the websockets library, which runs the handler itself. With `uvloop` as
the second argument, the server uses uvloop.
"""

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    # Compression is for those works that offer it; see works.py.
    async with serve(echo, "127.0.0.1", port, max_size=None, compression="deflate"):
        await asyncio.Future()


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        uvloop.run(main(int(sys.argv[1])))
    else:
        asyncio.run(main(int(sys.argv[1])))
