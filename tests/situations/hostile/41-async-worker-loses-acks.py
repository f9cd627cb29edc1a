"""As case 01, with async handlers: the exception of `data_to_send` comes in a callback of asyncio, which logs it and goes on;
the batch is gone, acks and answers of all others in it too. They wait until handler_timeout (30 s) has the worker
killed. 400 such messages at once fill all hands (concurrency 100 each), and everybody waits."""

import time, threading
from lib import *

H = """
import json, asyncio
async def on_message(msg, con):
    if msg["data"][:1] == "{":
        con.join(json.loads(msg["data"])["room"])
        return "joined"
    await asyncio.sleep(0)
    return msg["data"]
"""


def case():
    run = Run(H, workers=2)
    run.wait("worker 2 is ready")
    by = [WS(run.port, timeout=60) for _ in range(40)]
    worst = [0.0] * len(by)
    since = [1e18] * len(by)
    over = []

    def ping(i, c):
        n = 0
        while not over:
            t = since[i] = time.monotonic()
            try:
                c.send(f"m{n}")
                g = c.recv()
            except OSError as e:
                print("bystander", repr(e))
                worst[i] = 999
                return
            if g != f"m{n}".encode():
                print("bystander got", g)
                worst[i] = 999
                return
            worst[i] = max(worst[i], time.monotonic() - t)
            n += 1

    for i, c in enumerate(by):
        threading.Thread(target=ping, args=(i, c), daemon=True).start()
    time.sleep(1)
    print("before: %.3f s" % max(worst))
    aa = [WS(run.port, timeout=100) for _ in range(400)]
    for a in aa:
        a.send('{"room": "\\ud800"}')
    t = time.monotonic()
    time.sleep(45)
    worst = [max(w, time.monotonic() - s) for w, s in zip(worst, since)]
    over.append(1)
    time.sleep(1)
    print("\n".join(l for l in run.lines if "worker" in l and "  File" not in l)[-1500:])
    print("longest waits:", sorted(round(w, 1) for w in worst)[-10:])
    verdict(
        max(worst) > 5,
        f"{sum(w > 5 for w in worst)} of {len(by)} bystanders waited up to {max(worst):.0f} s for one message of one client",
    )


main(case)
