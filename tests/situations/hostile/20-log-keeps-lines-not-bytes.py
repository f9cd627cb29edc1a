"""While nobody reads stderr (Ctrl-S, a stuck collector), 10,000 lines are kept. A line is up to 64 KiB, and as text up to
four times that: handlers that print what clients send (or `wsraw run` without handlers, which prints every event) fill
gigabytes of the supervisor's memory. It is the process whose end ends everything."""

import time
from lib import *

H = """
def on_message(msg, con):
    for _ in range(100): print(msg["data"])
    return "ok"
"""


def case():
    run = Run(H, "--max-message-size", "64KiB", workers=2)
    c = WS(run.port, timeout=60)
    r0 = rss(run.p.pid)
    run.reading.clear()
    time.sleep(0.2)
    line = "\U0001f600" + "x" * 60000
    t = time.monotonic()
    for i in range(110):
        c.send(line)
        c.text()
        if i % 10 == 9:
            print(i + 1, "messages: supervisor's RSS %.0f MiB" % rss(run.p.pid), flush=True)
        if rss(run.p.pid) > 3000:
            break
    r1 = rss(run.p.pid)
    run.reading.set()
    verdict(
        r1 - r0 > 500,
        f"supervisor {r0:.0f} -> {r1:.0f} MiB after {i + 1} messages of 60 KiB ({time.monotonic() - t:.0f} s)",
    )


main(case)
