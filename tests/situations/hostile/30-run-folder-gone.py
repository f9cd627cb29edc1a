"""The run folder is removed while the run is up (its files alone: what a cleaner of /tmp does after ten days). Do clients
stay, do workers restart, do commands work, is the folder made again?  argv: files | all"""

import time
from lib import *

how = sys.argv[1] if len(sys.argv) > 1 else "all"
H = "import os\ndef on_message(msg, con):\n    if msg['data'] == 'die': os._exit(1)\n    return msg\n"


def case():
    run = Run(H, "--start-timeout", "5s", workers=2)
    run.wait("worker 2 is ready")
    v = WS(run.port, timeout=30)
    v.send("hi")
    assert v.text() == "hi"
    if how == "all":
        shutil.rmtree(run.run_dir)
    else:
        for f in ("token", "control-token", "epoch", "lock"):
            (run.run_dir / f).unlink()
    v.send("hi")
    assert v.text() == "hi"
    for pid in run.worker_pids():
        os.kill(pid, signal.SIGKILL)
    t = time.monotonic()
    v.send("again")
    try:
        got = v.text()
    except OSError as e:
        got = repr(e)
    took = time.monotonic() - t
    print("after all workers have died:", got, "%.1f s" % took)
    out = run.cli("status")
    print("status:", out.returncode, out.stderr.strip()[:200])
    out2 = run.cli("reload", "--timeout", "5")
    print("reload:", out2.returncode, out2.stderr.strip()[:200])
    print("\n".join(run.lines[-8:]))
    verdict(
        got != "again" or out.returncode != 0,
        f"served: {got!r:.60}; wsraw status: {out.returncode} {out.stderr.strip()[:80]}",
    )


main(case)
