"""A worker is dead when one drain of the ROUTER has found nothing more to read. While another worker (here: a pusher in
another pool, that publishes as fast as it can) keeps something to read there, no drain ever does: the events of the
dead one go to nobody, and its clients wait for as long as the flood lasts."""

import time
from lib import *

H = """
import time
def on_message(msg, con):
    if msg["data"] == "slow": time.sleep(2)
    return msg
"""
PUSH = """
import wsraw, time
def on_connect(inf, con): con.join("g")
def on_start():
    wsraw.call_soon(push)
def push():
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        wsraw.publish("g", b"x" * 16)
        wsraw.flush()
    wsraw.call_soon(push)
"""
SECONDS = 30


def case():
    run = Run(
        H,
        "--pool",
        "feed=DIR/push.py:%s" % (sys.argv[1] if len(sys.argv) > 1 else 1),
        "--route",
        "/push=feed",
        workers=2,
        extra_files={"push.py": PUSH},
        ready=True,
    )
    members = [WS(run.port, "/push") for _ in range(300)]
    import selectors, threading

    sel = selectors.DefaultSelector()
    for m in members:
        m.s.setblocking(False)
        sel.register(m.s, selectors.EVENT_READ)
    count = [0]

    def read():
        while True:
            for k, _ in sel.select(1):
                try:
                    count[0] += len(k.fileobj.recv(1 << 16))
                except OSError:
                    pass
            time.sleep(0.01)

    threading.Thread(target=read, daemon=True).start()
    time.sleep(2)
    a = WS(run.port, timeout=SECONDS)
    a.send("hi")
    assert a.text() == "hi"
    gw = run.gateway_pid()
    c0 = cpu(gw)
    time.sleep(1)
    print("gateway's CPU: %.0f %%" % (100 * (cpu(gw) - c0)))
    t = time.monotonic()
    a.send("hi")
    a.text()
    print("echo under the flood: %.1f ms" % (1000 * (time.monotonic() - t)))
    s = run.status()
    before = {w["pid"]: w for w in s["workers"]}
    a.send("slow")
    time.sleep(0.5)
    s = run.status()
    busy = [w["pid"] for w in s["workers"] if w["in_flight"] and w.get("pool", "default") != "feed"]
    print("busy:", busy)
    t = time.monotonic()
    for pid in busy:
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + SECONDS
    got = "nothing"
    while time.monotonic() < until and got == "nothing":
        try:
            a.s.settimeout(1)
            op, data = a.recv_frame()
            if op == 0x81:
                got = data.decode()
            elif op == 0x89:
                a.send(data, op=10)
        except OSError:
            pass
    took = time.monotonic() - t
    print("\n".join(run.lines[-12:]))
    print("answer after the death:", got, "after %.1f s" % took)
    verdict(took > 5, f"waited {took:.1f} s for the events of a dead worker")


main(case)
