"""A published message is held once, for all members (output.py keeps the same bytes object), but counted in full for each.
So one broadcast of 1 MiB to 1000 members who read at once is taken for a gigabyte: memory_limit closes members
(1013 "the server is out of memory") while the gateway holds a few MiB."""

import time, selectors, threading
from lib import *

H = """
import wsraw
def on_connect(inf, con):
    con.join("g")
def on_message(msg, con):
    if msg["data"] == "go":
        wsraw.publish("g", b"x" * %d, exclude=[con])
    return "ok"
"""
SIZE = int(float(sys.argv[3]) * 2**20) if len(sys.argv) > 3 else 3 << 20
N = int(sys.argv[1]) if len(sys.argv) > 1 else 600
LIMIT = sys.argv[2] if len(sys.argv) > 2 else "256MiB"


def case():
    run = Run(H % SIZE, "--memory-limit", LIMIT, "--no-deflate", workers=1)
    gw = run.gateway_pid()
    members = [WS(run.port, rcvbuf=65536) for _ in range(N)]
    sel = selectors.DefaultSelector()
    got = {}
    closed = {}
    for m in members:
        m.s.setblocking(False)
        got[m.s] = 0
        sel.register(m.s, selectors.EVENT_READ)
    stop = []
    slow = True  # as a link of some Mbit/s: each member takes 4 KiB about 100 times a second

    def read():
        while not stop:
            for k, _ in sel.select(0.5):
                s = k.fileobj
                try:
                    d = s.recv(4096 if slow else 1 << 18)
                except BlockingIOError:
                    continue
                except OSError as e:
                    d = b""
                if not d:
                    sel.unregister(s)
                    closed[s] = got[s]
                else:
                    got[s] += len(d)
            time.sleep(0.01)

    threading.Thread(target=read, daemon=True).start()
    p = WS(run.port)
    r0 = rss(gw)
    top = r0
    p.send("go")
    p.text()
    t0 = time.monotonic()
    while time.monotonic() - t0 < 40 and any(v < SIZE for s, v in got.items() if s not in closed):
        top = max(top, rss(gw))
        time.sleep(0.3)
        g = run.status()["gateway"]
        print("counted %.0f MiB" % ((g["bytes"] or 0) / 2**20), g["crowded"], g["limits"])
    time.sleep(1)
    stop.append(1)
    whole = sum(v >= SIZE for v in got.values())
    print("\n".join(l for l in run.lines if "limit" in l)[-1500:])
    print(
        f"members {N}, got all of it {whole}, disconnected {len(closed)}; gateway RSS {r0:.0f} -> at most {top:.0f} MiB, limit {LIMIT}; {time.monotonic() - t0:.1f} s"
    )
    verdict(
        len(closed) > 0,
        f"{len(closed)} of {N} members were disconnected for memory while the gateway held {top:.0f} MiB of {LIMIT}",
    )


if "IN_NS" not in os.environ:
    # A loopback with the MTU of a network: with its own, 64 KiB, the kernel takes some MiB for each socket.
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
