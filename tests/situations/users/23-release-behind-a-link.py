"""benoitc/gunicorn#394, emmett-framework/granian#629: handlers given by a path with a link (current -> release-N);
`wsraw reload` after the link has moved on runs the new release."""

from lib import *

d = tempfile.mkdtemp()
for v in "12":
    os.mkdir(f"{d}/release-{v}")
    open(f"{d}/release-{v}/handlers.py", "w").write(
        f"from helper import V\ndef on_message(msg, con): return V\n"
    )
    open(f"{d}/release-{v}/helper.py", "w").write(f"V = 'release {v}'\n")
os.symlink("release-1", d + "/current")
with Run(None, "--workers", d + "/current/handlers.py") as r:
    c = ws(r.port)
    c.send(frame(1, b"x"))
    first = c.message()[1]
    os.symlink("release-2", d + "/new")
    os.rename(d + "/new", d + "/current")
    r.ctl("reload")
    c.send(frame(1, b"x"))
    second = c.message()[1]
    c.close()
verdict((first, second) == (b"release 1", b"release 2"), first, "->", second)
