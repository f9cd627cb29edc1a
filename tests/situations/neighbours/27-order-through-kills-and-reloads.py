"""workerman #1112, nchan #145, render_sync #89: nothing lost, duplicated or out of order while code is reloaded or workers die.

Input: 20 raw connections send 2,000 numbered lines each, while workers are killed with SIGKILL and reloaded.
Right: each gets all its lines back, once and in order.
"""

from lib import *

import random

run = Run(
    """
def on_message(msg, con):
    *lines, con.state = ((con.state or b"") + msg["data"]).split(b"\\n")
    for line in lines:
        con.send(line + b"\\n")
""",
    count=3,
)
COUNT = 2000
results = {}


def client(n):
    s = run.tcp()
    s.settimeout(20)
    got = b""

    def read():
        nonlocal got
        while got.count(b"\n") < COUNT:
            data = s.recv(65536)
            if not data:
                break
            got += data

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(COUNT):
        s.sendall(b"%d\n" % i)
        if i % 10 == 0:
            time.sleep(0.015)
    reader.join()
    numbers = list(map(int, got.split()))
    results[n] = numbers == list(range(COUNT))


clients = [threading.Thread(target=client, args=(n,)) for n in range(20)]
for each in clients:
    each.start()
for n in range(7):
    time.sleep(0.5)
    if n % 3 == 2:
        run.p.send_signal(signal.SIGHUP)
        continue
    ready = [w["pid"] for w in run.status()["workers"] if w["state"] == "ready"]
    if ready:
        os.kill(random.choice(ready), signal.SIGKILL)
for each in clients:
    each.join()
print(
    run.log().count("SIGKILL"),
    "workers killed,",
    run.log().count("reloaded:"),
    "reloads;",
    sum(results.values()),
    "of 20 clients complete",
)
verdict(sum(results.values()) == 20, f"{sum(results.values())} of 20 complete and in order")
