"""DataDog/dd-agent #2149, Supervisor #629: a full disk ends the supervisor, and it does not come back.

Input: the run folder is on a disk that is full (a tmpfs of 64 KiB in a mount namespace; needs root); the gateway dies.
Right: "nobody who connects meanwhile is refused", and the run goes on. Exit code 2 is also what the systemd unit of
docs/deploy.md never restarts (RestartPreventExitStatus=2 3).
"""

from lib import *

if "--inner" not in sys.argv:
    done = subprocess.run(["unshare", "-m", sys.executable, os.path.abspath(__file__), "--inner"])
    sys.exit(done.returncode)
folder = tempfile.mkdtemp(prefix="wsb-")
os.mkdir(f"{folder}/disk")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", f"{folder}/disk"], check=True)
open(f"{folder}/handlers.py", "w").write('def on_message(msg, con):\n    con.send("ok\\n")\n')
run = Run(
    None,
    "--run-dir",
    f"{folder}/disk/run",
    workers=f"{folder}/handlers.py",
    folder=folder,
    run_dir=False,
)
run.run_dir = f"{folder}/disk/run"
print("before:", run.ask(b"x"))
gateway = run.status()["gateway"]["pid"]
try:
    with open(f"{folder}/disk/fill", "wb") as f:
        f.write(b"x" * 100_000)
except OSError as error:
    print("the disk is full:", error.strerror)
os.kill(gateway, signal.SIGKILL)
time.sleep(3)
try:
    after = run.ask(b"x", 2).decode()
except OSError as error:
    after = error.strerror
code = run.p.poll()
print(
    f"3 s after the gateway's death: {after!r}, exit code of the run {code}; last line: {run.log().splitlines()[-1]}"
)
verdict(after == "ok", f"{after}, exit code {code}")
