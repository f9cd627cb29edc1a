"""fastapi/fastapi#1487, Kludex/uvicorn#548: a multiprocessing child (fork) that a handler starts ends at
terminate(); leaving `with Pool()` early does not hang."""

from lib import *

HANDLERS = """
import multiprocessing, os, time
def forever():
    while True: time.sleep(0.05)
def on_message(msg, con):
    if msg["data"] == "process":
        p = multiprocessing.Process(target=forever)
        p.start(); time.sleep(0.3); p.terminate(); p.join(3)
        out = f"exitcode {p.exitcode}"
        p.kill(); p.join()
        return out
    with multiprocessing.Pool(1) as pool:
        pool.apply_async(forever); time.sleep(0.3)
        print("CHILD", pool._pool[0].pid)
    return "left the pool"
"""
with Run(HANDLERS, "--handler-timeout", "5s") as r:
    c = ws(r.port, timeout=9)
    c.send(frame(1, b"process"))
    first = c.message()[1].decode()
    c.send(frame(1, b"pool"))
    try:
        second = c.message()
    except TimeoutError:
        second = "no answer in 9 s"
    c.close()
    children = [int(l.rsplit()[-1]) for l in r.lines if "CHILD" in l]
    killed = sum("SIGABRT" in l and "wsraw:" in l for l in r.lines)
stopped = [p for p in children if os.path.exists(f"/proc/{p}")]
for pid in stopped:
    os.kill(pid, signal.SIGKILL)
verdict(
    first == "exitcode -15" and second == (1, b"left the pool"),
    f"Process.terminate(): {first!r} (expected -15); Pool: {second}; workers killed as hung: {killed}; "
    f"children alive after the run has stopped: {len(stopped)}",
)
