"""Kludex/uvicorn#338, #960 (what is watched, at what price); t2bot/matrix-media-repo#319, jdiazcano/cfg4k#65
(files behind symbolic links, as Kubernetes mounts them): --reload looks at the handlers file and at *every* *.py below."""

from lib import *

said, right = [], True
# a) a project of 2,600 files; the one that changes comes late
d = tempfile.mkdtemp()
for i in range(26):
    os.mkdir(f"{d}/a{i:02}")
    for j in range(100):
        open(f"{d}/a{i:02}/m{j}.py", "w").close()
os.mkdir(d + "/zz")
open(d + "/zz/__init__.py", "w").close()
open(d + "/zz/helper.py", "w").write("V = 1\n")
order = [f for f, _, _ in os.walk(d)]
with Run(
    "import sys\nfrom zz.helper import V\ndef on_message(msg, con): return str(V)\n",
    "--reload",
    folder=d,
) as r:
    for where, place in ((order[1], "first"), (order[-1], "last")):
        time.sleep(1.5)
        n = len(r.lines)
        open(where + "/changed.py", "w").write("X = 1\n")
        time.sleep(3)
        seen = any("chang" in l or "reload" in l for l in r.lines[n:])
        said.append(
            f"a new file in the {place} of {len(order)} folders (2,600 files) noticed: {seen};"
        )
        right &= seen
# b) the link in front of the handlers file moves on
d = tempfile.mkdtemp()
for v in "12":
    os.mkdir(f"{d}/..v{v}")
    open(f"{d}/..v{v}/handlers.py", "w").write(f"def on_message(msg, con): return 'v{v}'\n")
os.symlink("..v1", d + "/..data")
os.symlink("..data/handlers.py", d + "/handlers.py")
with Run(None, "--workers", d + "/handlers.py", "--reload") as r:
    c = ws(r.port)
    os.symlink("..v2", d + "/..new")
    os.rename(d + "/..new", d + "/..data")
    time.sleep(3)
    c.send(frame(1, b"x"))
    got = c.message()[1].decode()
    c.close()
    said.append(f"the link in front of the handlers file now leads to v2; handlers answer {got}")
    right &= got == "v2"
verdict(right, *said)
