"""The gateway is killed in a stop. Workers are asked to leave (SIGTERM) and wait LEAVE_WITHIN (5 s) for a drain that cannot
come; policy.GRACE is 5 s too, and SIGKILL comes first: on_stop is not run."""

import time
from lib import *

H = """
import os, time
def on_message(msg, con):
    if msg["data"] == "slow": time.sleep(2)
    return msg
def on_stop(): open("DIR/stopped", "a").write("x")
"""


def case():
    d = tempfile.mkdtemp(dir=tempfile.gettempdir())
    run = Run(H.replace("DIR", d), workers=2)
    run.wait("worker 2 is ready")
    c = WS(run.port)
    c.send("slow")
    time.sleep(0.2)
    gw = run.gateway_pid()
    run.p.terminate()
    time.sleep(0.3)
    os.kill(gw, signal.SIGKILL)
    t = time.monotonic()
    code = run.p.wait(30)
    n = len(Path(d, "stopped").read_text()) if Path(d, "stopped").exists() else 0
    print("\n".join(run.lines[-6:]))
    shutil.rmtree(d)
    verdict(
        n != 2,
        f"on_stop ran in {n} of 2 workers; took {time.monotonic() - t:.1f} s, exit code {code}",
    )


main(case)
