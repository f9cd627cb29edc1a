"""Names are resolved in 4 threads; a job is done even if whoever wanted it has given up (connect_timeout). So some clients
that make a handler open names which a name server never answers for (an attacker's own domain) end all resolving, names
of /etc/hosts included, for as long as the queue lasts: 10 s each, 4 at a time."""

import time, threading
from lib import *

H = """
from wsraw import open_client_connection
def on_message(msg, con):
    open_client_connection(msg["data"], couple=None)
    return "opened"
def on_error(m, con): print("on_error", con.target, m)
"""


def case():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 53))  # never answers
    lst = socket.create_server(("127.0.0.1", 0))
    port = lst.getsockname()[1]
    run = Run(H, workers=1)
    c = WS(run.port)
    c.send(f"localhost:{port}")
    c.recv()
    lst.settimeout(5)
    lst.accept()
    print("localhost works")
    for i in range(80):
        c.send(f"x{i}.attacker.example:80")
        c.recv()
    time.sleep(12)  # all of these have timed out by now
    print(sum("on_error" in l for l in run.lines), "of 80 have been told that they failed")
    t = time.monotonic()
    n = len(run.lines)
    c.send(f"localhost:{port}")
    c.recv()
    try:
        lst.settimeout(30)
        lst.accept()
        got = "connected after %.1f s" % (time.monotonic() - t)
    except OSError:
        got = "not connected in 30 s: %s" % [l for l in run.lines[n:] if "localhost" in l]
    verdict("not" in got or time.monotonic() - t > 5, f"a connection to localhost: {got}")


if "IN_NS" not in os.environ:
    os.execvpe(
        "unshare",
        [
            "unshare",
            "-n",
            "-m",
            "sh",
            "-c",
            'ip link set lo up; echo nameserver 127.0.0.1 > /run/wsraw-case-resolv.conf; mount --bind /run/wsraw-case-resolv.conf /etc/resolv.conf; exec "$0" "$@"',
            sys.executable,
            *sys.argv,
        ],
        {**os.environ, "IN_NS": "1"},
    )
main(case)
