"""SIGKILL of the gateway at a random moment of a reload, a scale up or down, a drain. Afterwards the run must serve with
as many workers as wanted, the command must come back, and nothing may be left behind."""

import random, time
from lib import *

R = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
H = "import time\ntime.sleep(0.1)\n" + ECHO


def case():
    bad = []
    run = Run(H, workers=3, opts=None) if False else Run(H, workers=3)
    for i in range(24):
        what = R.choice([["reload"], ["scale", str(R.choice([2, 3, 5]))]])
        kills = R.choice([1, 1, 2, 3])
        p = subprocess.Popen(
            [WSRAW, *what, "--timeout", "25", "--run-dir", str(run.run_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        t = time.monotonic()
        for _ in range(kills):
            time.sleep(R.random() * 0.8)
            try:
                os.kill(run.gateway_pid(), signal.SIGKILL)
            except StopIteration:
                pass
        try:
            out, _ = p.communicate(timeout=40)
            code = p.returncode
        except subprocess.TimeoutExpired:
            out = "NO ANSWER"
            code = -1
            p.kill()
        took = time.monotonic() - t
        try:
            ok = False
            for _ in range(50):
                try:
                    c = WS(run.port, timeout=5)
                    c.send("x")
                    ok = c.text() == "x"
                    c.close()
                    break
                except OSError:
                    time.sleep(0.1)
            s = run.status()
            states = [w["state"] for w in s["workers"]]
        except Exception as e:
            bad.append((i, what, repr(e)))
            print(bad[-1])
            print(run.log[-1500:])
            break
        fine = ok and code == 0 and set(states) == {"ready"}
        print(
            i,
            what,
            f"kills {kills} code {code} {took:.1f}s {out.strip()!r:.80} served {ok} {states} {'' if fine else 'ODD'}",
            flush=True,
        )
        if not fine and (code == -1 or not ok or took > 20):
            bad.append((i, what, code, out, states))
    # a drain, and the gateway killed in it
    c = WS(run.port)
    c.send("x")
    c.text()
    p = subprocess.Popen(
        [WSRAW, "drain", "--timeout", "25", "--run-dir", str(run.run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(0.3)
    try:
        os.kill(run.gateway_pid(), signal.SIGKILL)
    except StopIteration:
        print("gone already")
    out, _ = p.communicate(timeout=40)
    print("drain:", p.returncode, out, run.p.wait(20))
    print("\n".join(run.lines[-8:]))
    verdict(bool(bad), str(bad)[:500])


main(case)
