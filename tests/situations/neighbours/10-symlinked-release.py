"""gunicorn #394 (releases behind a link), cfg4k #65 and matrix-media-repo #319 (ConfigMaps of Kubernetes).

Input: current -> releases/1 becomes current -> releases/2; `wsraw reload`, or --reload. Right: version 2 answers.
"""

from lib import *


def body(n):
    return f'def on_message(msg, con):\n    con.send("version {n}\\n")\n'


folder = tempfile.mkdtemp(prefix="wsb-")
for n in (1, 2):
    os.makedirs(f"{folder}/releases/{n}")
    open(f"{folder}/releases/{n}/handlers.py", "w").write(body(n))
os.makedirs(f"{folder}/map")


def point(link, to):
    os.symlink(to, link + ".new")
    os.replace(link + ".new", link)


point(f"{folder}/map/handlers.py", "..data/handlers.py")
results = {}


def check(label, link, to, workers, *args, cwd="/", ask=True):
    point(link, to.format(1))
    # As `cd` does it: without PWD no process can know by which link it came to where it is.
    run = Run(None, *args, workers=workers, folder=folder, cwd=cwd, env={"PWD": cwd})
    before = run.ask(b"x").decode()
    point(link, to.format(2))
    said = ""
    if ask:
        said = run.ctl("reload").stdout.strip()
    else:
        time.sleep(3.5)
    after = run.ask(b"x").decode()
    results[label] = after == "version 2"
    print(f"{label}: {before!r} -> {after!r} {said}")
    run.p.terminate()
    run.p.wait()


link = f"{folder}/current"
check("wsraw reload, absolute path", link, "releases/{}", f"{link}/handlers.py")
check(
    "wsraw reload, `cd current` and a relative path", link, "releases/{}", "handlers.py", cwd=link
)
check("--reload, absolute path", link, "releases/{}", f"{link}/handlers.py", "--reload", ask=False)
check(
    "--reload, a ConfigMap's links",
    f"{folder}/map/..data",
    "../releases/{}",
    f"{folder}/map/handlers.py",
    "--reload",
    ask=False,
)
bad = [label for label, good in results.items() if not good]
verdict(not bad, "old code after: " + "; ".join(bad) if bad else "new code each time")
