"""SIGSTOP of the gateway (5 s, 40 s), of the supervisor (40 s), of everything at once (40 s), under a verified load.
argv: gateway5 gateway40 supervisor40 all40 worker35"""

import time
from lib import *


def one(which):
    what, secs = re.fullmatch(r"([a-z]+)(\d+)", which).groups()
    secs = int(secs)
    run = Run(
        "import time\ndef on_message(msg, con):\n    print('x' * 200)\n    return msg\n"
        if what == "supervisorprint"
        else ECHO,
        workers=3,
    )
    run.wait("worker 3 is ready")
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
            "100",
            "--rate",
            "1000",
            "--duration",
            str(secs + 12),
            "--warmup",
            "1",
            "--drain",
            "20",
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    gw = run.gateway_pid()
    pids = {
        "gateway": [gw],
        "supervisor": [run.p.pid],
        "supervisorprint": [run.p.pid],
        "all": [run.p.pid, gw, *run.worker_pids()],
        "worker": run.worker_pids()[:1],
    }[what]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    if what.startswith("supervisor"):
        time.sleep(secs / 2)
        os.kill(run.worker_pids()[0], signal.SIGKILL)
        time.sleep(secs / 2)
    else:
        time.sleep(secs)
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    out, err = p.communicate()
    d = json.loads(out)
    code = run.stop()
    keys = {k: v for k, v in d.items() if not isinstance(v, (list, dict))}
    print(which, "wsload rc", p.returncode, keys, err[-300:])
    print("\n".join(l for l in run.lines if "relay" not in l and "xxxx" not in l)[-1200:])
    run.close()
    return p.returncode != 0 or code != 0


def case():
    bad = [
        w
        for w in (sys.argv[1:] or ["gateway5", "gateway40", "supervisor40", "all40", "worker35"])
        if one(w)
    ]
    verdict(bool(bad), str(bad))


main(case)
