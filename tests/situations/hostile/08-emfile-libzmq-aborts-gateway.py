"""Descriptors of the gateway run out, as each client makes a handler open one connection (examples/web_to_raw.py does
so), and workers are scaled (or restarted) meanwhile: max_connections bounds what is accepted alone.
libzmq's ipc listener aborts the process on EMFILE (ipc_listener.cpp knows ENFILE alone). The workers' listener is our own
since, and pauses; a run with worker_listen still has one of libzmq's, for TCP."""

import time, resource
from lib import *

H = """
from wsraw import open_client_connection
def on_connect(inf, con):
    if "Upstream" in inf:
        host, port = inf["Upstream"].split(":")
        con.state = open_client_connection(inf["Upstream"])
def on_message(msg, con): return msg
"""
LIMIT = 200


def case():
    def pre():
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

    run = Run(H, workers=2, preexec=pre)
    lst = socket.create_server(("127.0.0.1", 0), backlog=1000)
    run.wait("worker 2 is ready")
    v = WS(run.port)
    v.send("hi")
    assert v.text() == "hi"
    gw = run.gateway_pid()
    up = f"Upstream: 127.0.0.1:{lst.getsockname()[1]}"
    cs = []
    for _ in range(160):
        try:
            cs.append(WS(run.port, headers=[up], timeout=2))
        except OSError:
            break
    print("clients:", len(cs))
    time.sleep(1)
    print(
        "fds of the gateway:",
        len(os.listdir(f"/proc/{gw}/fd")) if alive(gw) else "gone",
        "of",
        LIMIT,
    )
    if alive(gw):
        v.send("hi")
        print("echo:", v.text())
    out = run.cli("scale", "8", "--timeout", "5")
    print(out.stdout, out.stderr)
    time.sleep(2)
    dead = not alive(gw)
    try:
        v.send("hi")
        got = v.text()
    except OSError as e:
        got = repr(e)
    print("\n".join(run.lines[-25:]))
    verdict(dead, f"gateway {'died' if dead else 'lives'}; bystander: {got}")


main(case)
