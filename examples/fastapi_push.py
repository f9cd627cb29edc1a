"""Push from a web application: POST /push/lobby sends its body to everybody in a room.

wsraw serves the clients, with examples/rooms.py or other handlers that put connections into groups.
The application is another process, and there may be several:

    pip install fastapi uvicorn
    wsraw run --workers rooms.py --run-dir /tmp/rooms
    WSRAW_RUN_DIR=/tmp/rooms uvicorn fastapi_push:app --port 8080
    curl -d 'hello, all' http://127.0.0.1:8080/push/lobby
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

from wsraw.workers.embedded_asyncio import Worker

worker = Worker(run_dir=os.environ["WSRAW_RUN_DIR"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with worker:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/push/{room}", status_code=202)
async def push(room: str, request: Request) -> None:
    if not worker.is_ready:
        # Without this check, publish() waits for the gateway.
        raise HTTPException(503, "wsraw is not there")
    await worker.publish(room, (await request.body()).decode())


@app.post("/close/{con}", status_code=202)
async def close(con: int) -> None:
    await worker.close(con, 4000, "closed by the application")
