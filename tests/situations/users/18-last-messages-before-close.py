"""Kludex/uvicorn#1230: what a client sent just before its close frame, its FIN, or a reset is handled.

Of a client that a worker has heard of: others that reset are forgotten (docs/handlers.md)."""

from lib import *

with Run("""
import time
def on_connect(inf, con): print("MET", inf["url"])
def on_message(msg, con):
    time.sleep(0.3); print("HEARD", con.inf["url"], msg["data"])
def on_close(con): print("CLOSED", con.inf["url"], con.close_code, con.close_cause)
""") as r:
    for path, end in (("/close", frame(8, b"\x03\xe8")), ("/fin", b""), ("/reset", None)):
        c = ws(r.port, path)
        while f"MET {path}" not in r.log():
            time.sleep(0.05)
        c.send(frame(1, b"first") + frame(1, b"second") + (end or b""))
        c.reset() if end is None else c.close()
    time.sleep(3)
    log = r.log()
right = (
    all(f"HEARD {p} {m}" in log for p in ("/close", "/fin", "/reset") for m in ("first", "second"))
    and log.count("CLOSED") == 3
)
verdict(
    right, *[l.partition("worker 1: ")[2] + ";" for l in r.lines if "HEARD" in l or "CLOSED" in l]
)
