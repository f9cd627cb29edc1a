"""Verified load (large and small, WebSocket and raw, plain and async handlers, delivery both) while workers are killed,
stopped, terminated, scaled and reloaded at random. argv: seed [seconds]"""

import random, time, threading
from lib import *

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
SECS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
A = "import asyncio\nasync def on_message(msg, con):\n    await asyncio.sleep(0.002)\n    return msg\n"
S = "def on_message(msg, con):\n    con.state = (con.state or 0) + 1\n    return msg\n"


def case():
    R = random.Random(seed)
    bad = []
    for name, h, opts in (
        ("plain", ECHO, []),
        ("async", A, []),
        ("state", S, ["--messages", "whole"]),
        ("sticky", ECHO, ["--dispatch", "sticky"]),
    ):
        run = Run(h, *opts, workers=3)
        run.wait("worker 3 is ready")
        gw = run.gateway_pid()
        loads = []
        for a in (
            ["echo", "--conns", "8", "--depth", "4", "--size", "200000", "--binary"],
            ["rate", "--conns", "100", "--rate", "1500"],
            ["echo", "--raw", "--conns", "10", "--depth", "4", "--size", "5000"],
        ):
            loads.append(
                subprocess.Popen(
                    [
                        "nice",
                        "-n",
                        "5",
                        WSLOAD,
                        *a,
                        "--port",
                        str(run.port),
                        "--duration",
                        str(SECS),
                        "--drain",
                        "20",
                        "--json",
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        t = time.monotonic()
        n = {}
        while time.monotonic() - t < SECS - 3:
            time.sleep(R.random() * 0.6)
            what = R.choice(["kill", "kill", "term", "stop", "reload", "scale", "hup", "int"])
            n[what] = n.get(what, 0) + 1
            ws = run.worker_pids()
            try:
                if what == "kill" and ws:
                    os.kill(R.choice(ws), signal.SIGKILL)
                elif what == "term" and ws:
                    os.kill(R.choice(ws), signal.SIGTERM)
                elif what == "int" and ws:
                    os.kill(R.choice(ws), signal.SIGINT)
                elif what == "stop" and ws:
                    p = R.choice(ws)
                    os.kill(p, signal.SIGSTOP)
                    threading.Timer(
                        R.random() * 2, lambda p=p: alive(p) and os.kill(p, signal.SIGCONT)
                    ).start()
                elif what == "reload":
                    subprocess.Popen(
                        [WSRAW, "reload", "--run-dir", str(run.run_dir)],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                elif what == "scale":
                    run.p.send_signal(R.choice([signal.SIGTTIN, signal.SIGTTOU]))
                elif what == "hup":
                    run.p.send_signal(signal.SIGHUP)
            except ProcessLookupError:
                pass
        rcs = []
        for p in loads:
            out, err = p.communicate()
            try:
                d = json.loads(out)
                rcs.append(
                    (
                        p.returncode,
                        d["msgs"],
                        {k: v for k, v in d["errors"].items() if v},
                        d["lat_us"]["max"] / 1e6 if "lat_us" in d else None,
                        d["first_error"],
                    )
                )
            except Exception as e:
                rcs.append((p.returncode, err[-200:]))
        letters = run.cli("dead-letters").stdout.strip()
        print(
            name,
            n,
            rcs,
            "gateway same:",
            alive(gw),
            "RSS %.0f" % rss(gw),
            letters[:200] if "no dead" not in letters else "",
            flush=True,
        )
        if any(r[0] for r in rcs) or not alive(gw) or "no dead" not in letters:
            bad.append((name, rcs))
            print(run.log[-2500:])
        time.sleep(2)
        code = run.stop()
        if code:
            bad.append(("stop", code))
        run.close()
    verdict(bool(bad), str(bad))


main(case)
