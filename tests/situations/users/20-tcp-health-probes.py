"""Pithikos/python-websocket-server#39: load balancers connect and close, or reset, without a byte; no handler hears
of it, the log is silent, and nothing leaks."""

from lib import *

with Run(
    "def on_connect(inf, con): print('CONNECT')\ndef on_close(con): print('CLOSE')\ndef on_message(msg, con): return msg\n",
    "--log-level",
    "debug",
) as r:
    g = r.gateway_pid()
    n = len(r.lines)
    fds = len(os.listdir(f"/proc/{g}/fd"))
    for _ in range(100):
        Client(r.port).close()
    for _ in range(100):
        Client(r.port).reset()
    time.sleep(1)
    new = r.lines[n:]
    after = len(os.listdir(f"/proc/{g}/fd"))
verdict(
    not [l for l in new if "ready" not in l] and after == fds,
    f"log lines: {len(new)}; descriptors {fds} -> {after}",
)
