"""What a connection's request head costs stays with the gateway for its life (inf), and is in no account: 16 KiB of headers
make an idle WebSocket many times as large. memory_limit does not see it, max_connections does not know of it."""

import time
from lib import *

N = 3000


def measure(run, headers):
    gw = run.gateway_pid()
    r0 = rss(gw)
    cs = []
    for _ in range(N):
        cs.append(WS(run.port, headers=headers))
    time.sleep(1)
    r1 = rss(gw)
    g = run.status()["gateway"]
    for c in cs:
        c.close()
    time.sleep(1)
    return (r1 - r0) * 1024 / N, g["bytes"], r1


def case():
    out = []
    for name, headers in (
        ("plain", []),
        ("99 headers, 16 KiB, latin-1", [f"X-{i:02}: \xff{'y' * 145}" for i in range(95)]),
        ("99 headers, 16 KiB, ascii", [f"X-{i:02}: {'y' * 150}" for i in range(95)]),
    ):
        run = Run(ECHO, "--memory-limit", "32MiB", workers=1)
        out.append((name, *measure(run, headers)))
        w = run.worker_pids()
        print(
            name,
            out[-1],
            "workers' RSS",
            [round(rss(p)) for p in w],
            run.status()["gateway"]["limits"],
        )
        run.close()
    worst = max(o[1] for o in out)
    verdict(
        worst > 20,
        f"{worst:.0f} KiB a connection (plain: {out[0][1]:.1f}), accounted: {[o[2] for o in out]} bytes in all",
    )


main(case)
