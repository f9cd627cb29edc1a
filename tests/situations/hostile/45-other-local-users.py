"""What another local user (nobody) gets at: run folder, sockets, tokens in /proc, a folder laid out before us."""

import time
from lib import *


def case():
    bad = []
    os.umask(0)
    run = Run(
        ECHO, listen=["127.0.0.1:PORT", "unix:DIR/app.sock"], workers=2, env={"TMPDIR": "/tmp"}
    )
    os.chmod(run.dir, 0o755)
    time.sleep(1)
    for root, dirs, files in os.walk(run.run_dir):
        for n in [".", *files]:
            p = os.path.join(root, n)
            print(oct(os.stat(p).st_mode), p.replace(str(run.dir), ""))
    print("unix listener:", oct((run.dir / "app.sock").stat().st_mode))

    def nobody(code):
        return subprocess.run(
            [
                "setpriv",
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                code,
            ],
            capture_output=True,
            text=True,
        )

    for name in ("control.sock", "link.sock", "token", "control-token"):
        out = nobody(
            f"import socket;s=socket.socket(socket.AF_UNIX);s.connect({str(run.run_dir / name)!r})"
            if "sock" in name
            else f"print(open({str(run.run_dir / name)!r}).read())"
        )
        print(name, out.returncode, out.stderr.strip().splitlines()[-1:])
        if out.returncode == 0:
            bad.append(name)
    token = (run.run_dir / "token").read_text().strip()
    ctl = (run.run_dir / "control-token").read_text().split()[0]
    for pid in [run.p.pid, *run.children()]:
        cmd = Path(f"/proc/{pid}/cmdline").read_bytes()
        if token.encode() in cmd or ctl.encode() in cmd or b"TOKEN" in cmd:
            bad.append(("cmdline", pid))
        out = nobody(f"print(len(open('/proc/{pid}/environ').read()))")
        if out.returncode == 0:
            bad.append(("environ readable", pid))
    env = [
        x
        for pid in run.worker_pids()
        for x in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"TOKEN" in x
    ]
    print("a worker's /proc/environ, for its own user:", env[:1])
    run.close()
    # laid out before us
    for how in ("theirs", "link", "open"):
        base = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
        os.chmod(base, 0o1777)
        place = base / "wsraw-0"
        if how == "theirs":
            place.mkdir()
            os.chown(place, 65534, 65534)
        elif how == "link":
            t = base / "mine"
            t.mkdir(mode=0o700)
            place.symlink_to(t)
        else:
            place.mkdir()
            os.chmod(place, 0o777)
        p = (
            subprocess.run(
                [WSRAW, "run", "--listen", "127.0.0.1:0"],
                env={**os.environ, "TMPDIR": str(base), "XDG_RUNTIME_DIR": ""},
                capture_output=True,
                text=True,
                timeout=20,
            )
            if True
            else None
        )
        print(how, p.returncode, p.stderr.strip()[:150])
        if p.returncode != 2:
            bad.append(how)
        shutil.rmtree(base, ignore_errors=True)
    verdict(bool(bad), str(bad))


main(case)
