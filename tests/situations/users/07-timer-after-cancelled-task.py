"""python-websockets/websockets#1113 (its cause: `except Exception` does not see CancelledError): an async
timer that awaits a task which somebody cancels goes on, and the log says what happened."""

from lib import *

with Run("""
import asyncio
from wsraw import every
n = 0
@every(0.2)
async def beat():
    global n
    n += 1
    if n == 3:
        task = asyncio.create_task(asyncio.sleep(5))
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        await task
async def on_message(msg, con):
    return str(n)
""") as r:
    time.sleep(2.5)
    c = ws(r.port)
    c.send(frame(1, b"n"))
    n = int(c.message()[1])
    c.close()
    logged = any("Cancelled" in l or "every raised" in l for l in r.lines)
verdict(
    n > 8 and logged, f"calls within 2.5 s of a timer of 0.2 s: {n}; a word in the log: {logged}"
)
