"""A WebSocket client that is sent something, does not read it, and says goodbye (close frame): its on_close is acked, its
place is forgotten, and what waits for it (up to high_water_mark) is in no account any more, while its endpoint lingers
for close_timeout (10 s); what the client takes sets that clock anew. memory_limit does not see it, nor closes them."""

import time
from lib import *

H = """
import os
def on_message(msg, con):
    for _ in range(int(msg["data"])):
        con.send(os.urandom(16384))
"""
N = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
SECONDS = int(sys.argv[2]) if len(sys.argv) > 2 else 24


def case():
    run = Run(H, "--memory-limit", "64MiB", "--no-deflate", "--write-timeout", "5s", workers=1)
    gw = run.gateway_pid()
    r0 = rss(gw)
    cs = []
    t0 = time.monotonic()
    for n in range(N):
        c = WS(run.port, rcvbuf=8192)
        cs.append(c)
        c.send("18")
        time.sleep(0.004)
        c.send(struct.pack(">H", 1000), op=8)
    time.sleep(0.5)
    top = rss(gw) - r0
    left0 = run.status()["gateway"]
    print("opened %d in %.0f s: RSS %.0f -> %.0f MiB" % (N, time.monotonic() - t0, r0, rss(gw)))
    for _ in range(SECONDS // 4):
        t = time.monotonic()
        taken = 0
        for c in cs:
            c.s.setblocking(False)
            try:
                taken += len(c.s.recv(14000))
            except OSError:
                pass
        time.sleep(max(0, 4 - (time.monotonic() - t)))
        g = run.status()["gateway"]
        print(
            "%.0f s: RSS %.0f MiB, accounted %d, sockets %s, connections %s, taken %d, limits %s"
            % (
                time.monotonic() - t0,
                rss(gw),
                g["bytes"],
                g["sockets"],
                g["connections"],
                taken,
                g["limits"],
            ),
            flush=True,
        )
    verdict(
        top > 96,
        f"{left0['sockets']} closed connections hold {top:.0f} MiB of output, {left0['bytes']} bytes are accounted, the limit is 64 MiB",
    )


if "IN_NS" not in os.environ:
    os.execvpe(
        "unshare",
        [
            "unshare",
            "-n",
            "sh",
            "-c",
            'ip link set lo mtu 1500; ip link set lo up; exec "$0" "$@"',
            sys.executable,
            *sys.argv,
        ],
        {**os.environ, "IN_NS": "1"},
    )
main(case)
