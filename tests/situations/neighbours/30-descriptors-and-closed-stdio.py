"""Supervisor's minfds, gunicorn behind `nohup … <&- >&- 2>&-`: few descriptors, and none of the usual three.

Input: a limit of 48 descriptors and `wsraw scale 30`; stdin, stdout and stderr closed at the start.
Right: those who are in are served on, and a later `scale 2` works; with closed descriptors it is up and reloads.
"""

from lib import *

HANDLERS = 'def on_message(msg, con):\n    con.send("ok\\n")\n'
bad = []
run = Run(HANDLERS, before=["prlimit", "--nofile=48:48"], count=2)
run.ctl("scale", "30", "--timeout", "4")
said = run.ask(b"x").decode()
back = run.ctl("scale", "2", "--timeout", "15")
print(
    "48 descriptors, scale 30:",
    said,
    "; scale 2:",
    back.returncode,
    back.stdout.strip(),
    "; exit code",
    run.p.poll(),
)
if said != "ok" or back.returncode:
    bad.append("descriptors")
run.stop()
for closed in ("<&-", ">&- 2>&-", "<&- >&- 2>&-"):
    with socket.socket() as q:
        q.bind(("127.0.0.1", 0))
        port = q.getsockname()[1]
    run = Run(
        HANDLERS,
        listen=f"127.0.0.1:{port}",
        wait=False,
        before=["sh", "-c", f'exec "$@" {closed}', "sh"],
    )
    run.port = port
    said = ""
    for _ in range(50):
        time.sleep(0.1)
        try:
            said = run.ask(b"x", 2).decode()
            break
        except OSError:
            pass
    asked = run.ctl("reload")
    print(f"{closed}: {said!r}, reload {asked.returncode}, after it {run.ask(b'x').decode()!r}")
    if said != "ok" or asked.returncode:
        bad.append(closed)
    run.stop()
verdict(not bad, f"{bad or 'all right'}")
