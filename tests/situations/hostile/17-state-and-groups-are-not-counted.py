"""con.state (64 KiB) and the names of groups (1000 of 1024 characters for each connection) live in the gateway and are in
no account: where a handler keeps an unfinished line in the state, as handlers.md advises, or joins the room that a client
names, clients fill the gateway's memory far beyond memory_limit."""

import time
from lib import *

H = """
def on_connect(inf, con): con.state = b""
def on_message(msg, con):
    d = msg["data"]
    if d[:1] == "r":
        con.join(d)
    else:
        con.state = d.encode()
    return "."
"""


def case():
    out = []
    run = Run(H, "--memory-limit", "32MiB", workers=2)
    gw = run.gateway_pid()
    r0 = rss(gw)
    N = 60
    cs = []
    t0 = time.monotonic()
    try:
        for n in range(N):
            c = WS(run.port, timeout=3)
            cs.append(c)
            for b in range(10):
                c.s.sendall(
                    b"".join(
                        c.frame(f"r{n}-{i}-".ljust(1000, "\u20ac"))
                        for i in range(b * 100, b * 100 + 100)
                    )
                )
                for _ in range(100):
                    c.recv()
    except (TimeoutError, ConnectionError) as error:
        print("no more room:", repr(error))
    time.sleep(1)
    r1 = rss(gw)
    g = run.status()["gateway"]
    print(
        f"groups: {N} connections, {r1 - r0:.0f} MiB = {(r1 - r0) / N:.2f} MiB each, in {time.monotonic() - t0:.0f} s; accounted {g['bytes']} bytes; limits {g['limits']}"
    )
    for c in cs:
        c.close()
    run.close()
    run = Run(H, "--memory-limit", "32MiB", workers=2)
    gw = run.gateway_pid()
    s0 = rss(gw)
    N2 = 2000
    cs = []
    try:
        for n in range(N2):
            c = WS(run.port, timeout=3)
            cs.append(c)
            c.send("s" * 65000)
        for c in cs:
            c.recv()
    except (TimeoutError, ConnectionError) as error:
        print("no more room:", repr(error))
    time.sleep(1)
    s1 = rss(gw)
    g = run.status()["gateway"]
    print(
        f"state: {N2} connections, {s1 - s0:.0f} MiB = {(s1 - s0) * 1024 / N2:.0f} KiB each; accounted {g['bytes']} bytes; limits {g['limits']}",
        [round(rss(p)) for p in run.worker_pids()],
    )
    verdict(
        r1 - r0 > 60 or s1 - s0 > 60,
        f"{r1 - r0:.0f} MiB by the groups of 60 connections, {s1 - s0:.0f} MiB by the states of {N2}; the limit is 32 MiB",
    )


main(case)
