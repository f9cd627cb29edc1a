"""uvicorn #2289, fastapi #1487: a child process made in a handler must end when it is terminated.

Input: a handler starts multiprocessing.Process (fork), calls terminate() and join(3); then the run gets SIGTERM while a
daemonic child lives. Right: the child is dead at once, the run stops in about a second and leaves no process.
"""

from lib import *

HANDLERS = """
import multiprocessing, time
from wsraw import send_message

def sleep(seconds):
    time.sleep(seconds)

def on_message(msg, con):
    child = multiprocessing.get_context("fork").Process(target=sleep, args=(60,), daemon=True)
    child.start()
    if msg["data"].strip() == b"keep":
        con.send(f"{child.pid}\\n")
        return
    time.sleep(0.3)
    began = time.monotonic()
    child.terminate()
    child.join(3)
    con.send(f"alive={child.is_alive()} exitcode={child.exitcode} after {time.monotonic() - began:.1f} s\\n")
    child.kill()
"""
bad = []
for kind in ("def", "async def"):
    run = Run(HANDLERS.replace("def on_message", f"{kind} on_message"))
    said = run.ask(b"terminate", 8).decode()
    print(f"{kind} on_message: terminate() and join(3):", said)
    if "alive=False" not in said:
        bad.append(f"{kind}: {said}")
    pid = int(run.ask(b"keep"))
    began = time.monotonic()
    run.p.send_signal(signal.SIGTERM)
    run.p.wait(20)
    took, left = time.monotonic() - began, alive(pid)
    print(f"  SIGTERM to the run: it took {took:.1f} s; its daemonic child lives on: {left}")
    print("  " + "\n  ".join(run.log().splitlines()[-3:]))
    if left or took > 4:
        bad.append(f"{kind}: stop took {took:.1f} s, child left: {left}")
    if left:
        os.kill(pid, signal.SIGKILL)
verdict(not bad, "; ".join(bad) or "terminated children end, and none is left")
