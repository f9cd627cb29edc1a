"""Supervisor #480, #1105, #1710, #1723: cleaners of /tmp remove what a long-lived supervisor left there.

Input: the run folder is emptied while the run is up; then a worker, or the gateway, is killed.
Right: "A run that has been ready once does not give up" (docs/deploy.md): clients are served on.
"""

from lib import *

HANDLERS = """
import os
def on_message(msg, con):
    con.send(f"pid {os.getpid()}\\n")
"""
bad = []
for who in ("workers", "gateway", "nobody"):
    for what in ("all files", "regular files only"):
        run = Run(HANDLERS, "--start-timeout", "5s", count=2)
        status = run.status()
        print(f"{what} are removed, {who} killed; before: {run.ask(b'x').decode()!r}")
        for name in os.listdir(run.run_dir):
            path = os.path.join(run.run_dir, name)
            if what == "all files" or os.path.isfile(path):
                os.unlink(path)
        if what == "all files":
            os.rmdir(run.run_dir)
        pids = {
            "workers": [w["pid"] for w in status["workers"]],
            "gateway": [status["gateway"]["pid"]],
            "nobody": [],
        }
        for pid in pids[who]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(6)
        try:
            after = run.ask(b"x", 2).decode() or "no answer in 2 s"
        except OSError as error:
            after = error.strerror
        asked = run.ctl("status")
        said = (asked.stdout + asked.stderr).strip().splitlines()[0]
        print(
            f"  6 s later: {after!r}, exit code {run.p.poll()}; wsraw status: {asked.returncode} {said}"
        )
        if run.p.poll() is not None:
            print("  last line:", run.log().splitlines()[-1])
        if not after.startswith("pid") or asked.returncode:
            bad.append(
                f"{what}, {who} killed: {after}, exit code {run.p.poll()}, status {asked.returncode}"
            )
        run.stop()
verdict(not bad, "; ".join(bad) or "served on")
