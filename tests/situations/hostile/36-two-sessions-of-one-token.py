"""A foreign worker that forks (node's cluster, a preforking server): two processes say hello with the one token that they
have found, each with an instance of its own, as the protocol allows. Both get a session of the same number. When the
process ends, the gateway ends the first of them alone; nobody asks whether the other still stands (links.py asks only
those without a number), and what it holds waits for ever."""

import time
from lib import *

W = """
import os, sys, time, zmq
from msgspec import msgpack
instance = os.environ["WSRAW_INSTANCE"]
if os.fork() == 0: instance += "b"
context = zmq.Context(); socket = context.socket(zmq.DEALER)
socket.set(zmq.IMMEDIATE, 1); socket.set(zmq.PROBE_ROUTER, 1); socket.set(zmq.LINGER, 2000)
socket.connect(os.environ["WSRAW_ENDPOINT"])
token = os.environ.pop("WSRAW_TOKEN"); session = 0
while True:
    message = socket.recv()
    if not message: continue
    number, *records = msgpack.decode(message)
    batch = []
    for tag, *f in records:
        if tag == "who":
            session, batch = 0, []
            socket.send(msgpack.encode([0, ["hello", 1, os.environ["WSRAW_POOL"], instance, "x", token, 100, 1, []]]))
        elif tag == "welcome": session = f[1]
        elif number != session: continue
        elif tag == "on_message":
            if f[2] == b"slow": time.sleep(3)
            batch += [["send", f[1], instance[-1:].encode() + b":" + f[2], "text"], ["ack", f[0], f[0]]]
        elif tag in ("on_connect", "on_error", "on_close"): batch.append(["ack", f[0], f[0]])
        elif tag == "drain": batch.append(["bye"])
    if batch: socket.send(msgpack.encode([session, *batch]))
    if session and batch and batch[-1] == ["bye"]: break
"""


def case():
    run = Run(
        None,
        "--workers",
        f"{PY} DIR/w.py",
        "--dispatch",
        "sticky",
        workers=0,
        extra_files={"w.py": W},
        ready=True,
    )
    time.sleep(1.5)
    cs = [WS(run.port, timeout=8) for _ in range(8)]
    who = []
    for c in cs:
        c.send("hi")
        who.append(c.text())
    print(who)

    def both():
        return [
            int(p.name)
            for p in Path("/proc").iterdir()
            if p.name.isdigit()
            and int(p.name) != run.p.pid
            and b"/w.py" in (p / "cmdline").read_bytes()
            and str(run.dir).encode() in (p / "cmdline").read_bytes()
        ]

    pids = both()
    print("processes:", pids)
    for p in pids:
        os.kill(p, signal.SIGKILL)
    time.sleep(3)
    print("\n".join(run.lines[-8:]))
    got = []
    for c in cs:
        c.send("again")
    for c in cs:
        try:
            got.append(c.text())
        except OSError as e:
            got.append("NOTHING")
    print(got)
    s = run.status()
    print(
        [
            (w.get("n"), w.get("pid"), w.get("state"), w.get("connections"), w.get("in_flight"))
            for w in s["workers"]
        ]
    )
    for p in both():
        os.kill(p, signal.SIGKILL)
    verdict(
        "NOTHING" in got,
        f"{got.count('NOTHING')} of {len(cs)} clients are held by a session that is dead and was not buried",
    )


main(case)
