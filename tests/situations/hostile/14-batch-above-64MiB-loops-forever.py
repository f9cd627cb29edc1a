"""A handler whose commands are together more than 64 MiB (one large message, or 1000 of 70 KiB: a history that is sent
to who comes back). libzmq cuts the link for a batch that long; the worker comes back with the same instance, which is no
death: the event is given out again, for ever. It never becomes a dead letter, nobody is told, and events of others that
were in that batch are handled again each time."""

import time
from lib import *

H = """
import wsraw, time
def on_message(msg, con):
    d = msg["data"]
    if d == "history":
        open("DIR/count", "a").write(f"{con.delivery}\\n")
        for i in range(1000):
            con.send(b"x" * 70000)
    elif d.startswith("note"):
        open("DIR/notes", "a").write(d + "\\n")
        time.sleep(0.001)
    return d
"""


def case():
    run = (
        Run(None, "--workers", "DIR/h.py:2", extra_files={}, workers=0, ready=False)
        if False
        else None
    )
    import tempfile as t

    d = t.mkdtemp()
    run = Run(H.replace("DIR", d), workers=2)
    c = WS(run.port, timeout=20)
    c.send("history")
    others = [WS(run.port, timeout=5) for _ in range(20)]
    t0 = time.monotonic()
    n = 0
    while time.monotonic() - t0 < 15:
        for i, o in enumerate(others):
            o.send(f"note {n} {i}")
        for i, o in enumerate(others):
            try:
                o.text()
            except OSError as e:
                print("other:", e)
        n += 1
        time.sleep(0.02)
    counts = Path(d, "count").read_text().split()
    notes = Path(d, "notes").read_text().splitlines()
    c.s.settimeout(1)
    try:
        got = c.recv()
    except OSError as e:
        got = repr(e)
    if isinstance(got, bytes):
        got = len(got)
    print("\n".join(run.lines[-6:]))
    gw = run.gateway_pid()
    print(
        "in 15 s the handler ran",
        len(counts),
        "times; deliveries up to",
        counts[-1],
        "; the client got",
        got,
        "; notes handled twice:",
        len(notes) - len(set(notes)),
        "of",
        len(notes),
        "; gateway RSS %.0f MiB" % rss(gw),
    )
    letters = run.cli("dead-letters").stdout
    print(letters[:200])
    shutil.rmtree(d)
    verdict(len(counts) > 5, f"handled {len(counts)} times in 15 s, no end in sight")


main(case)
