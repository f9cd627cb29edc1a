"""15,000 idle connections that all close and come back at once, while 50 others echo (verified)."""

import time
from lib import *

N = 15000
H = """
import wsraw
def on_connect(inf, con): con.join("all")
def on_message(msg, con):
    if msg["data"] == "cast": wsraw.publish("all", "x" * 1000)
    return msg
"""


def case():
    run = Run(H, workers=2, prefix=())
    run.wait("worker 2 is ready")
    gw = run.gateway_pid()
    p = subprocess.Popen(
        [
            "nice",
            "-n",
            "5",
            WSLOAD,
            "rate",
            "--port",
            str(run.port),
            "--conns",
            "50",
            "--rate",
            "500",
            "--duration",
            "40",
            "--drain",
            "20",
            "--json",
            "--ignore-other",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)

    def hold():
        h = subprocess.Popen(
            [
                "nice",
                "-n",
                "5",
                WSLOAD,
                "hold",
                "--port",
                str(run.port),
                "--conns",
                str(N),
                "--duration",
                "60",
                "--inflight",
                "1000",
                "--sources",
                "1",
                "--ignore-other",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        t = time.monotonic()
        while time.monotonic() - t < 60:
            line = h.stderr.readline()
            if "OPEN" in line:
                print(line.strip(), "%.1f s" % (time.monotonic() - t))
                return h
            if not line:
                print("hold ended", h.poll())
                return h

    h = hold()
    print("RSS %.0f MiB" % rss(gw))
    time.sleep(2)
    h.kill()
    h.wait()
    h = hold()
    time.sleep(2)
    s = run.status()["gateway"]
    print("sockets", s["sockets"], s["connections"], s["limits"], "RSS %.0f MiB" % rss(gw))
    out, err = p.communicate()
    d = json.loads(out)
    print({k: v for k, v in d.items() if not isinstance(v, list)}, err[-300:])
    # a broadcast to all of them
    c = WS(run.port, timeout=30)
    t = time.monotonic()
    c.send("cast")
    got = 0
    while got < 2:
        c.recv()
        got += 1
    print("cast + reply in %.3f s" % (time.monotonic() - t))
    t = time.monotonic()
    c.close()
    run.p.terminate()
    code = run.p.wait(60)
    print("stop with 15,000 connections: %.1f s, code %s" % (time.monotonic() - t, code))
    h.kill()
    print("\n".join(run.lines[-6:]))
    verdict(p.returncode != 0 or code != 0, f"wsload {p.returncode}")


main(case)
