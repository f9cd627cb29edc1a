"""Docs: a message that kills workers becomes a dead letter, "all other connections go on". One client sends such a message on
each of 12 connections at once. The workers that die of them count as "early deaths" (they had handled nothing since their
start, restarts.py:bury), so the pool is taken for a crash loop: each restart waits up to 30 s, 36 deaths long. Everybody
waits. argv: messages, pause between them, workers."""

import threading, time
from lib import *

H = """
import os
def on_message(msg, con):
    if msg["data"] == "die": os._exit(1)
    return msg
"""
N = int(sys.argv[1]) if len(sys.argv) > 1 else 12
PAUSE = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
W = int(sys.argv[3]) if len(sys.argv) > 3 else 2


def case():
    run = Run(H, workers=W)
    v = WS(run.port, timeout=150)
    gaps = []
    since = [0.0]
    over = False

    def victim():
        i = 0
        while not over:
            t = since[0] = time.monotonic()
            v.send(f"m{i}")
            try:
                got = v.text()
            except OSError as e:
                got = repr(e)
            if got != f"m{i}":
                print(
                    "the bystander got",
                    got,
                    "instead of its echo, after %.1f s" % (time.monotonic() - t),
                    flush=True,
                )
                gaps.append((time.monotonic() - t, 0.0))
                return
            gaps.append((time.monotonic() - t, time.monotonic()))
            i += 1
            time.sleep(0.02)

    th = threading.Thread(target=victim, daemon=True)
    th.start()
    time.sleep(1)
    t0 = time.monotonic()
    cs = []
    for _ in range(N):
        cs.append(WS(run.port))
    for c in cs:
        c.send("die")
        time.sleep(PAUSE)
    time.sleep(25)
    over = True
    th.join(30)
    s = run.status()
    print(
        "\n".join(
            l for l in run.lines if "crash loop" in l or "starting another" in l or "killed" in l
        )[-2500:]
    )
    worst = max(max(g for g, _ in gaps), time.monotonic() - since[0] if th.is_alive() else 0)
    print(
        "echoes:",
        len(gaps),
        "longest wait of the bystander: %.2f s" % worst,
        "crash_loop:",
        s["crash_loop"],
        "took %.1f s" % (time.monotonic() - t0),
    )
    verdict(worst > 2, "the bystander waited %.1f s" % worst)


main(case)
