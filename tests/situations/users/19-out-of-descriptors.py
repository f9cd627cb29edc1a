"""python-websockets/websockets#822: at the limit of open files the server neither spins nor floods its log, tells
those who come, serves those who are in, and is well again afterwards."""

import resource
from lib import *

with Run(
    "def on_message(msg, con): return msg\n",
    preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
) as r:
    g = r.gateway_pid()

    def cpu():
        f = open(f"/proc/{g}/stat").read().rpartition(")")[2].split()
        return (int(f[11]) + int(f[12])) / 100

    cs = []
    for _ in range(90):
        c = Client(r.port, timeout=4)
        c.send(request(port=r.port))
        cs.append(c)
    time.sleep(1)
    a = cpu()
    time.sleep(3)
    spent = cpu() - a
    answers = {}
    for c in cs:
        try:
            k = c.head()[9:12].decode()
        except OSError as e:
            k = type(e).__name__
        answers[k] = answers.get(k, 0) + 1
    for c in cs:
        c.close()
    time.sleep(1)
    c = ws(r.port)
    c.send(frame(1, b"again"))
    again = c.message()
    c.close()
    lines = sum("Too many open files" in l or "max_connections" in l for l in r.lines)
verdict(
    spent < 0.5 and lines < 10 and answers.get("101", 0) > 20 and again == (1, b"again"),
    f"answers {answers}; gateway's CPU in 3 s: {spent:.2f} s; log lines: {lines}; afterwards {again}",
)
