"""cpython #75953, #120932; isaacsim-mcp-server #27: "reloaded", and the old code runs on.

Input: the handlers file is changed within the second in which it was written, its length the same; or it is replaced
by a file of the same length and time (rsync -t, reproducible builds). Then `wsraw reload`, or --reload.
Right: the new code answers. (PYTHONDONTWRITEBYTECODE is taken out of the environment: it hides this.)
"""

from lib import *


def body(n):
    return f'def on_message(msg, con):\n    con.send("version {n}\\n")\n'


results = {}
for how in ("wsraw reload", "--reload", "same time and length"):
    folder = tempfile.mkdtemp(prefix="wsb-")
    path = f"{folder}/handlers.py"
    if how == "same time and length":
        open(path, "w").write(body(1))
        os.utime(path, (1.7e9, 1.7e9))
    else:
        while time.time() % 1 > 0.03:
            time.sleep(0.005)
        open(path, "w").write(body(1))
    run = Run(
        None,
        *(["--reload"] if how == "--reload" else []),
        workers=path,
        folder=folder,
        env={"PYTHONDONTWRITEBYTECODE": ""},
    )
    before = run.ask(b"x").decode()
    open(path, "w").write(body(2))
    if how == "same time and length":
        os.utime(path, (1.7e9, 1.7e9))
    written = time.time() % 1
    if how == "--reload":
        time.sleep(3)
        said = [l for l in run.log().splitlines() if "reload" in l][-1:]
    else:
        said = run.ctl("reload").stdout.strip()
    after = run.ask(b"x").decode()
    results[how] = after == "version 2"
    print(f"{how}: {before!r} -> {after!r}, {said} (second edit {written:.2f} s into the second)")
    run.stop()
bad = [how for how, good in results.items() if not good]
verdict(not bad, "old code after: " + "; ".join(bad) if bad else "new code each time")
