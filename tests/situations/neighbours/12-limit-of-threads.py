"""gunicorn in a small container (DFO-Ocean-Navigator #771, gatekeeper-policy-manager #882): no more threads.

Input: RLIMIT_NPROC (as a container's pids limit does) leaves room for some of a new worker's process and threads, and
SIGTTIN asks for more workers; then: no room at all, and a handler opens a connection by name.
Right: the new worker, or that open, fails; everybody else is served on. (Needs root, to run as another user.)
"""

from lib import *

HANDLERS = """
import os
from wsraw import open_client_connection
def on_message(msg, con):
    if con.target:
        return
    if msg["data"].strip() == b"open":
        open_client_connection("localhost:9")
    con.send(f"pid {os.getpid()}\\n")
"""
UID = 23456


def threads():
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == UID:
                count += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            pass
    return count


def start(limit):
    folder = tempfile.mkdtemp(prefix="wsb-")
    os.chmod(folder, 0o755)
    os.mkdir(f"{folder}/home")
    os.chown(f"{folder}/home", UID, UID)
    open(f"{folder}/handlers.py", "w").write(textwrap.dedent(HANDLERS))
    caps = "+dac_override,+dac_read_search"  # To read a Python in somebody else's home.
    run = Run(
        None,
        folder=folder,
        workers=f"{folder}/handlers.py:2",
        run_dir=False,
        env={"HOME": f"{folder}/home", "TMPDIR": f"{folder}/home"},
        before=[
            "setpriv",
            f"--reuid={UID}",
            f"--regid={UID}",
            "--clear-groups",
            f"--inh-caps={caps}",
            f"--ambient-caps={caps}",
            "prlimit",
            f"--nproc={limit}",
        ],
    )
    run.expect("worker 2 is ready", 10)
    time.sleep(0.3)
    return run


run = start(500)
usual = threads()
run.stop()
time.sleep(0.5)
bad = []
for limit in range(usual + 5, usual + 12):
    run = start(limit)
    s = run.tcp(b"x\n")
    line(s)
    for _ in range(3):
        if run.p.poll() is None:
            os.kill(run.p.pid, signal.SIGTTIN)
        time.sleep(0.7)
    try:
        s.sendall(b"x\n")
        after = line(s, 3).decode() or "nothing"
    except OSError as error:
        after = error.strerror
    code = run.p.poll()
    print(
        f"room for {limit - usual} more, 3 SIGTTIN: the client got {after!r}, exit code of the run {code}"
    )
    if code is not None:
        print("   ", run.log().splitlines()[-1])
        bad.append(f"room for {limit - usual}: the whole run ended, exit code {code}")
    run.stop()
    time.sleep(0.3)
run = start(usual)
s = run.tcp(b"open\n")
after = line(s, 3).decode() or "nothing, the connection was lost"
time.sleep(0.5)
died = [l for l in run.log().splitlines() if "can't start new thread" in l and "gateway" in l]
print(f"no room, and an open by name: the client got {after!r}; {died}")
if died:
    bad.append("open by name: the gateway died, with all connections")
run.stop()
verdict(not bad, "; ".join(bad) or "everybody else was served on")
