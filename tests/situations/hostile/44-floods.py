"""Floods of single kinds by 8 connections for 6 s each; the bystander's latency, the gateway's memory."""

import time, threading, zlib
from lib import *


def f(op, data=b"", fin=True, rsv=0):
    n = len(data)
    h = bytes([(0x80 if fin else 0) | rsv | op])
    if n < 126:
        h += bytes([0x80 | n])
    elif n < 65536:
        h += bytes([0xFE]) + struct.pack(">H", n)
    else:
        h += bytes([0xFF]) + struct.pack(">Q", n)
    return h + b"\0\0\0\0" + data


def z(n):
    c = zlib.compressobj(9, zlib.DEFLATED, -15)
    return c.compress(bytes(n)) + c.flush(zlib.Z_SYNC_FLUSH)[:-4]


FLOODS = {
    "pings": (f(9, b"x" * 125) * 500, True),
    "pings no read": (f(9, b"x" * 125) * 500, False),
    "pongs": (f(10) * 2000, True),
    "empty continuations": (f(1, b"", False) + f(0, b"", False) * 65536 + f(0, b"", True), True),
    "1-byte fragments": (f(2, b"a", False) + f(0, b"b", False) * 65534 + f(0, b"c", True), True),
    "empty messages": (f(1) * 2000, True),
    "echo not read": (f(2, b"x" * 1000) * 100, False),
    "zeros compressed 1 MiB": (f(2, z(1 << 20), rsv=0x40) * 20, True),
    "zeros compressed, fragments": (
        (f(2, z(1000)[:3], False, 0x40) + f(0, z(1000)[3:], True)) * 500,
        True,
    ),
    "1 MiB text multibyte": (f(1, "\u20ac".encode() * 340000), True),
}


def case():
    bad = []
    names = sys.argv[1:] or list(FLOODS)
    for name in names:
        data, reads = FLOODS[name]
        run = Run(ECHO, workers=2)
        run.wait("worker 2 is ready")
        gw = run.gateway_pid()
        r0 = rss(gw)
        by = WS(run.port, timeout=20)
        lat = []
        over = []

        def ping():
            while not over:
                t = time.monotonic()
                by.send("p")
                if by.recv() != b"p":
                    lat.append(99)
                    return
                lat.append(time.monotonic() - t)
                time.sleep(0.01)

        def flood():
            while not over:
                try:
                    c = WS(
                        run.port,
                        headers=["Sec-WebSocket-Extensions: permessage-deflate"],
                        timeout=5,
                    )
                    c.s.setblocking(False)
                    buf = b""
                    while not over:
                        if not buf:
                            buf = data
                        try:
                            n = c.s.send(buf[: 1 << 18])
                            buf = buf[n:]
                        except BlockingIOError:
                            time.sleep(0.001)
                        if reads:
                            try:
                                if not c.s.recv(1 << 18):
                                    raise OSError("closed")
                            except BlockingIOError:
                                pass
                except OSError as e:
                    closed.append(repr(e))
                    time.sleep(0.05)

        closed = []
        ts = [threading.Thread(target=flood, daemon=True) for _ in range(8)] + [
            threading.Thread(target=ping, daemon=True)
        ]
        for t in ts:
            t.start()
        top = r0
        t0 = time.monotonic()
        while time.monotonic() - t0 < 6:
            top = max(top, rss(gw))
            time.sleep(0.05)
        over.append(1)
        time.sleep(0.3)
        lat.sort()
        print(
            f"{name:30} bystander n {len(lat)} p50 {lat[len(lat) // 2] * 1e3:.1f} p99 {lat[int(len(lat) * 0.99)] * 1e3:.0f} max {lat[-1] * 1e3:.0f} ms; RSS {r0:.0f} -> {top:.0f} MiB; closed {len(closed)} {closed[:1]}; limits {run.status()['gateway']['limits']}",
            flush=True,
        )
        if lat[-1] > 1 or top > 500 or not alive(gw):
            bad.append(name)
        run.close()
    verdict(bool(bad), str(bad))


main(case)
