"""circus #883 (a watcher slowed by its output), Supervisor's log pipes: a handler that floods stdout.

Input: a handler prints for 4 s without a pause; then one that writes without any newline.
Right: others are served, `wsraw status` answers, the run stops, the supervisor does not grow.
"""

from lib import *

bad = []
for label, body in (("lines", 'print("tick")'), ("no newline", 'sys.stdout.write("." * 100)')):
    run = Run(
        f"""
import sys, time
def on_message(msg, con):
    until = time.monotonic() + (4 if msg["data"].startswith(b"flood") else 0)
    while time.monotonic() < until:
        {body}
    con.send("ok\\n")
""",
        count=2,
    )
    a = run.tcp(b"flood\n")
    time.sleep(1)
    times = []
    for _ in range(3):
        began = time.monotonic()
        run.ctl("status")
        times.append(round(time.monotonic() - began, 2))
    began = time.monotonic()
    said = run.ask(b"x", 5).decode()
    other = time.monotonic() - began
    rss = int(open(f"/proc/{run.p.pid}/statm").read().split()[1]) * 4 // 1024
    print(
        f"{label}: status took {times} s, another client {said!r} in {other * 1000:.0f} ms, supervisor {rss} MiB, the flooder {line(a, 8)!r}"
    )
    run.p.send_signal(signal.SIGTERM)
    run.p.wait(30)
    if said != "ok" or max(times) > 3 or rss > 100:
        bad.append(label)
verdict(not bad, f"{bad or 'served on'}")
