"""libzmq #3223, czmq #2038, pyzmq #841: sockets of ZeroMQ do not work behind a fork.

Input: a handler forks a child that calls con.send() and flush(). Right: the client gets it, or the child gets an error,
as a thread does (docs/handlers.md, "Threads"). Wrong: silence, or a child that hangs.
"""

from lib import *

HANDLERS = """
import multiprocessing, time
from wsraw import flush

def work(con):
    try:
        con.send("from the child\\n")
        flush()
        print("child: no error", flush=True)
    except Exception as error:
        print("child: " + repr(error), flush=True)

def on_message(msg, con):
    child = multiprocessing.get_context("fork").Process(target=work, args=(con,))
    child.start()
    child.join(3)
    con.send(f"from the parent; child exit code {child.exitcode}\\n")
    child.kill()
"""
bad = []
for kind in ("def", "async def"):
    run = Run(HANDLERS.replace("def on_message", f"{kind} on_message"))
    s = run.tcp(b"go\n", 8)
    first = line(s, 8).decode()
    time.sleep(0.5)
    said = [l for l in run.log().splitlines() if "child:" in l]
    print(f"{kind}: the client got {first!r}; the child's log line: {said}")
    if "from the child" not in first and not any("Error" in l for l in said):
        bad.append(f"{kind}: client got {first!r}, child said {said or 'nothing, it hangs'}")
verdict(not bad, "; ".join(bad) or "sent, or refused with an error")
