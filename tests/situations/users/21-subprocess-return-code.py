"""Kludex/uvicorn#894: the exit code of a program that a handler runs is right, plain and async; no zombies stay."""

from lib import *

said, right = [], True
for kind, text in (
    (
        "plain",
        """
import subprocess
def on_message(msg, con):
    return str([subprocess.run(["sh", "-c", f"exit {n}"], capture_output=True).returncode for n in range(5)])
""",
    ),
    (
        "async",
        """
import asyncio
async def on_message(msg, con):
    out = []
    for n in range(5):
        p = await asyncio.create_subprocess_exec("sh", "-c", f"exit {n}", stdout=asyncio.subprocess.PIPE)
        await p.communicate(); out.append(p.returncode)
    return str(out)
""",
    ),
):
    with Run(text) as r:
        c = ws(r.port)
        c.send(frame(1, b"x"))
        got = c.message()[1].decode()
        c.close()
        w = r.worker_pids()[0]
        zombies = 0
        for p in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                f = open(f"/proc/{p}/stat").read().rpartition(")")[2].split()
                zombies += int(f[1]) == w and f[0] == "Z"
        said.append(f"{kind}: {got}, zombies {zombies};")
        right &= got == "[0, 1, 2, 3, 4]" and not zombies
verdict(right, *said)
