"""GatewayWorker #66, workerman #286: an id that was stored must never come to mean another client.

Input: a worker stores the id of client A; the files of the run folder are removed, as a cleaner of /tmp does with old
ones; the gateway dies; client B connects; the worker sends to the stored id.
Right: B's id is another one and B gets nothing ("an integer below 2^53 that no other connection gets").
"""

from lib import *

HANDLERS = """
from wsraw import connection
KEPT = []
def on_message(msg, con):
    word = msg["data"].strip()
    if word == b"keep":
        KEPT.append(con.id)
        con.send(f"{con.id}\\n")
    elif word == b"push":
        for id in KEPT:
            connection(id).send("for A alone\\n")
    else:
        con.send(f"{con.id}\\n")
def on_close(con):
    print("on_close", con.id, con.close_cause, flush=True)
"""
run = Run(HANDLERS)
a = run.tcp(b"keep\n")
id_a = line(a).decode()
gateway = run.status()["gateway"]["pid"]
for name in ("token", "control-token", "epoch", "lock"):
    os.unlink(os.path.join(run.run_dir, name))
os.kill(gateway, signal.SIGKILL)
time.sleep(2)
b = run.tcp(b"hello\n")
id_b = line(b).decode()
c = run.tcp(b"push\n")
got = line(b, 1.5).decode()
print(
    f"A had the id {id_a}, B has {id_b}; B was sent {got!r}; on_close of A told:",
    f"on_close {id_a} gateway-died" in run.log(),
)
verdict(id_a != id_b and not got, f"ids {id_a} and {id_b}, B got {got!r}")
