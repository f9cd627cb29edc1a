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
        try:
            cs.append(WS(run.port, headers=headers, timeout=3))
        except (TimeoutError, ConnectionError):
            # It waits to be let in: the gateway has seen that there is no more room.
            break
    time.sleep(1)
    r1 = rss(gw)
    g = run.status()["gateway"]
    for c in cs:
        c.close()
    time.sleep(1)
    return len(cs), r1 - r0, g["bytes"] / 2**20


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
    verdict(
        any(grown > 1.5 * max(accounted, 8) or grown > 48 for _, _, grown, accounted in out),
        "; ".join(
            f"{name}: {count} connections, {grown:.0f} MiB more, {accounted:.0f} MiB accounted"
            for name, count, grown, accounted in out
        ),
    )


main(case)
