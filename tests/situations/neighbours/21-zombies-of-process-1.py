"""uvicorn-gunicorn-docker #48, s2i-python-container #94, honcho #231: process 1 of a container reaps orphans.

Input: `wsraw run` is process 1 of a pid namespace (needs root); a handler starts a shell whose helper outlives it,
20 times. Right: no zombies are left (gunicorn and supervisord reap them).
"""

from lib import *

folder = tempfile.mkdtemp(prefix="wsb-")
open(f"{folder}/handlers.py", "w").write(
    textwrap.dedent("""
    import subprocess
    def on_message(msg, con):
        subprocess.run("(sleep 0.5 &)", shell=True)
        con.send("ok\\n")
""")
)
run = Run(
    None,
    workers=f"{folder}/handlers.py",
    folder=folder,
    before=["unshare", "-p", "-f", "--mount-proc"],
)
s = run.tcp()
for _ in range(20):
    s.sendall(b"x\n")
    line(s)
time.sleep(1.5)
one = subprocess.run(
    ["pgrep", "-P", str(run.p.pid)], capture_output=True, text=True
).stdout.split()[0]
found = subprocess.run(
    ["ps", "--ppid", one, "-o", "stat=,comm="], capture_output=True, text=True
).stdout.splitlines()
zombies = [l for l in found if l.startswith("Z")]
print("children of process 1:", len(found), "; zombies among them:", len(zombies))
os.kill(int(one), signal.SIGTERM)
print("SIGTERM to process 1: exit code", run.p.wait(15))
verdict(not zombies, f"{len(zombies)} zombies after 20 messages")
