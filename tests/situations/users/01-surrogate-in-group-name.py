"""NousResearch/hermes-agent#97288, miguelgrinberg/Flask-SocketIO#1808: one value that cannot be encoded
(half of a UTF-16 pair, as JSON escapes may hold) must cost its own connection at most.
A client sends {"room": "\\ud83d"}; the handler joins that room."""

import json
from lib import *

PLAIN = """
import json
def on_message(msg, con):
    if msg["data"] == "slow":
        return "slow done"
    con.join(json.loads(msg["data"])["room"])
    return "joined"
def on_close(con):
    print("CLOSED", con.close_cause)
"""
ASYNC = """
import json, asyncio
async def on_message(msg, con):
    if msg["data"] == "other":
        print("other handled, delivery", con.delivery)
        if con.delivery == 1:
            await asyncio.sleep(0.5)
        return "other done"
    if con.delivery == 1:
        await asyncio.sleep(0.5)
    con.join(json.loads(msg["data"])["room"])
    return "joined"
"""
BAD = json.dumps({"room": "\ud83d"}).encode()  # ASCII: {"room": "\ud83d"}
said, right = [], True
with Run(PLAIN) as r:
    c = ws(r.port)
    c.send(frame(1, BAD))
    op, data = c.message()
    c.close()
    time.sleep(0.5)
    deaths = sum("exited with code" in line for line in r.lines)
    said.append(f"plain: client gets {op, data}; workers killed: {deaths}")
    right &= deaths == 0
    with contextlib.suppress(Exception):
        c.close()
with Run(ASYNC, "--handler-timeout", "4s") as r:
    a, b = ws(r.port, timeout=30), ws(r.port, timeout=30)
    t = time.monotonic()
    a.send(frame(1, b"other"))
    b.send(frame(1, BAD))
    got = a.message()
    took = time.monotonic() - t
    times = sum("other handled" in line for line in r.lines)
    deaths = sum("was killed by SIGABRT" in line for line in r.lines)
    said.append(
        f"async: innocent neighbour in the same turn gets {got} after {took:.1f} s, handled {times} times, workers killed: {deaths}"
    )
    right &= took < 2 and deaths == 0
    a.close(), b.close()
verdict(right, *said)
