"""max_connections leaves a tenth of the descriptors, or 32. Each worker of this machine takes two in the gateway (its link, its
pidfd): with 14 workers and 300 descriptors, clients alone fill the rest; the next worker that is restarted aborts the
gateway (ipc_listener.cpp). Defaults throughout."""

import time, resource
from lib import *

LIMIT = 300


def case():
    def pre():
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

    run = Run("import time\ntime.sleep(1.5)   # as imports take\n" + ECHO, workers=14, preexec=pre)
    run.wait("worker 14 is ready", 30)
    gw = run.gateway_pid()
    v = WS(run.port)
    v.send("hi")
    v.text()
    cs = []
    for _ in range(290):
        try:
            cs.append(WS(run.port, timeout=2))
        except OSError:
            break
    waiting = [
        socket.create_connection(("127.0.0.1", run.port)) for _ in range(50)
    ]  # in the kernel's queue
    time.sleep(1)
    print(
        "clients",
        len(cs),
        "fds of the gateway:",
        len(os.listdir(f"/proc/{gw}/fd")) if alive(gw) else "gone",
        "of",
        LIMIT,
    )
    for _ in range(3):
        for pid in run.worker_pids()[:3]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(4)
        if not alive(gw):
            break
    dead = not alive(gw)
    print("\n".join(run.lines[-6:]))
    verdict(dead, f"the gateway {'aborted' if dead else 'lives'}")


main(case)
