"""Half a ClientHello (up to 64 KiB in small records), or half a request head (16 KiB), for handshake_timeout: in no account.
argv: tls | http"""

import time
from lib import *

which = sys.argv[1] if len(sys.argv) > 1 else "tls"
N = 3000


def case():
    o = (
        [o for pair in zip(("--tls-cert", "--tls-key"), certificate()) for o in pair]
        if which == "tls"
        else []
    )
    run = Run(ECHO, "--memory-limit", "32MiB", *o, workers=1)
    gw = run.gateway_pid()
    r0 = rss(gw)
    cs = []
    if which == "tls":
        body = b"\x01" + (32000).to_bytes(3, "big") + b"y" * 31000
        data = b"".join(
            b"\x16\x03\x01\x00\x10" + body[i : i + 16] for i in range(0, len(body) - 16, 16)
        )
    else:
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 7000 + b"\r\nY: " + b"y" * 7000
    t = time.monotonic()
    c0 = cpu(gw)
    for _ in range(N):
        s = socket.create_connection(("127.0.0.1", run.port))
        s.sendall(data)
        cs.append(s)
    time.sleep(1)
    r1 = rss(gw)
    g = run.status()["gateway"]
    print(
        f"{which}: {len(data)} bytes each; {N} in {time.monotonic() - t:.1f} s, gateway's CPU {cpu(gw) - c0:.1f} s; RSS {r0:.0f} -> {r1:.0f} MiB = {(r1 - r0) * 1024 / N:.0f} KiB each; accounted {g['bytes']}; limits {g['limits']}"
    )
    verdict(
        r1 - r0 > 64,
        f"{r1 - r0:.0f} MiB by {N} half handshakes; limit 32 MiB; {g['bytes']} accounted",
    )


main(case)
