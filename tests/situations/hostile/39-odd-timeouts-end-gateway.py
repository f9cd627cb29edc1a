"""connect_timeout of an opened connection near the largest float: math.ceil(inf) in endpoint.py:_arm ends the gateway."""

import time
from lib import *

H = """
from wsraw import open_client_connection
def on_message(msg, con):
    host, t = msg["data"].split()
    open_client_connection(host, couple=None, connect_timeout=float(t))
    return "opened"
"""


def case():
    lst = socket.create_server(("127.0.0.1", 0))
    port = lst.getsockname()[1]
    run = Run(H, workers=1)
    gw = run.gateway_pid()
    bad = []
    for t in ("1e9", "1e300", "inf", "1e308", "1.7e308"):
        c = WS(run.port)
        c.send(f"ws://127.0.0.1:{port}/ {t}")
        try:
            c.recv()
        except OSError as e:
            print(e)
        time.sleep(0.7)
        if not alive(gw):
            bad.append(t)
            print([l for l in run.lines if "Error" in l][-1:])
            time.sleep(1)
            gw = run.gateway_pid()
    verdict(bool(bad), f"gateway died of connect_timeout {bad}")


main(case)
