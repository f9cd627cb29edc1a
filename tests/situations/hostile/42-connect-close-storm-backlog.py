"""Clients that connect and leave faster than on_connect is handled (5 ms each, as a look into a database takes): each leaves
its place behind, with its headers, until its on_connect and on_close are handled. They are no standing connections
(max_connections, max_connections_per_address), and count 256 bytes an event in memory_limit: nothing bounds them."""

import time, threading
from lib import *

H = """
import time
def on_connect(inf, con): time.sleep(0.005)
def on_message(msg, con): return msg
"""
SECS = int(sys.argv[1]) if len(sys.argv) > 1 else 25


def case():
    run = Run(H, "--memory-limit", "64MiB", workers=2)
    run.wait("worker 2 is ready")
    gw = run.gateway_pid()
    r0 = rss(gw)
    by = WS(run.port, timeout=20)
    by.send("x")
    by.recv()
    head = (
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        + "".join(f"X-{i:02}: \xff{'y' * 145}\r\n" for i in range(90))
        + "\r\n"
    ).encode("latin-1")
    n = [0]
    stop = []

    def storm():
        while not stop:
            s = socket.create_connection(("127.0.0.1", run.port))
            s.sendall(head)
            try:
                s.recv(200)
            except OSError:
                pass
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
            n[0] += 1

    ts = [threading.Thread(target=storm, daemon=True) for _ in range(8)]
    for t in ts:
        t.start()
    t0 = time.monotonic()
    while time.monotonic() - t0 < SECS:
        time.sleep(5)
        g = run.status()["gateway"]
        print(
            "%.0f s: %d came, standing sockets %s, connections %s, parked %s, accounted %.1f MiB, RSS %.0f MiB, limits %s"
            % (
                time.monotonic() - t0,
                n[0],
                g["sockets"],
                g["connections"]["total"],
                g["parked"],
                g["bytes"] / 2**20,
                rss(gw),
                g["limits"],
            ),
            flush=True,
        )
    r1 = rss(gw)
    stop.append(1)
    t = time.monotonic()
    by.send("y")
    try:
        by.recv()
        lat = time.monotonic() - t
    except OSError:
        lat = 999
    c = WS(run.port, timeout=20)
    t = time.monotonic()
    c.send("z")
    try:
        c.recv()
        new = time.monotonic() - t
    except OSError:
        new = 999
    print("echo of who was there: %.2f s; of who comes now: %.1f s" % (lat, new))
    verdict(
        r1 - r0 > 128,
        f"{r1 - r0:.0f} MiB more in {SECS} s, limit 64 MiB; who comes now waits {new:.0f} s",
    )


main(case)
