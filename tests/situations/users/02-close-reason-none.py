"""Kludex/uvicorn#1259 (and simple-websocket#42): close with reason None (Starlette's default) or another
odd argument closes, or raises; it must not leave the client connected and unheard."""

from lib import *

with Run(
    """
def on_message(msg, con):
    what = msg["data"]
    print("HEARD", what)
    if what == "none": con.close(4000, None)
    elif what == "float": con.close(4000.0)
    elif what == "bytes": con.close(4000, b"bye")
    else: return what
def on_error(error, con): print("ERROR", error)
""",
    "--ping-interval",
    "1s",
    "--ping-timeout",
    "3s",
) as r:
    said, right = [], True
    for what in ("none", "float", "bytes"):
        c = ws(r.port, timeout=3)
        c.send(frame(1, what.encode()))
        time.sleep(0.3)
        with contextlib.suppress(OSError):
            c.send(frame(1, b"still there?"))
        got, until = "nothing within 6 s but pings; still connected", time.time() + 6
        with contextlib.suppress(TimeoutError):
            while time.time() < until:
                op, data, _ = c.frame()
                if op != 9:
                    got = op, data
                    break
                c.send(frame(10, data))
        heard = any("HEARD still" in line for line in r.lines)
        said.append(f"{what}: {got}; later message heard: {heard}")
        right &= not isinstance(got, str)
        c.close()
    said.append(next((l for l in r.lines if "left out" in l), ""))
verdict(right, *said)
