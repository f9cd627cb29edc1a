"""Shared by these scripts: starts wsraw, talks raw lines to it."""

import atexit, base64, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, textwrap, threading, time

WSRAW = os.environ["WSRAW"]
PYTHON = os.path.join(os.path.dirname(os.path.abspath(WSRAW)), "python")


class Run:
    """One `wsraw run` on a free port of 127.0.0.1, in a folder of its own."""

    def __init__(
        self,
        handlers,
        *args,
        listen="127.0.0.1:0",
        env=None,
        wait=True,
        folder=None,
        name="handlers.py",
        workers=None,
        count=1,
        popen=None,
        before=(),
        run_dir=True,
        cwd=None,
    ):
        self.dir = folder or tempfile.mkdtemp(prefix="wsb-")
        self.handlers = os.path.join(self.dir, name)
        if handlers is not None:
            with open(self.handlers, "w") as f:
                f.write(textwrap.dedent(handlers))
        self.run_dir = os.path.join(self.dir, "run")
        self.lines = []
        full = dict(os.environ, PYTHONUNBUFFERED="1")
        for key in [k for k in full if k.startswith("WSRAW")]:
            del full[key]
        full.update(env or {})
        if workers is None:
            workers = f"{self.handlers}:{count}"
        command = [*before, WSRAW, "run", "--workers", workers, "--listen", listen]
        if run_dir:
            command += ["--run-dir", self.run_dir]
        command += list(args)
        self.command = command
        self.p = subprocess.Popen(
            command,
            env=full,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd or self.dir,
            **(popen or {}),
        )
        atexit.register(self.stop)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.port = None
        if wait:
            line = self.expect(r"listening on .*ready", 20)
            found = re.search(r"://[^ ]*:(\d+)", line)
            self.port = int(found.group(1)) if found else None

    def _read(self):
        for raw in self.p.stdout:
            self.lines.append((time.monotonic(), raw.decode("utf-8", "replace").rstrip("\n")))

    def log(self):
        return "\n".join(line for _, line in self.lines)

    def expect(self, pattern, seconds, start=0):
        until = time.monotonic() + seconds
        while True:
            for _, line in self.lines[start:]:
                if re.search(pattern, line):
                    return line
            if time.monotonic() > until or (
                self.p.poll() is not None and not self.reader.is_alive()
            ):
                raise TimeoutError(f"no {pattern!r} in {seconds} s; log:\n{self.log()}")
            time.sleep(0.02)

    def ctl(self, *args, timeout=30, env=None):
        full = dict(os.environ)
        full.update(env or {})
        return subprocess.run(
            [WSRAW, *args, "--run-dir", self.run_dir],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=full,
        )

    def status(self):
        return json.loads(self.ctl("status", "--json").stdout)

    def tcp(self, data=b"", timeout=5):
        s = socket.create_connection(("127.0.0.1", self.port), timeout)
        if data:
            s.sendall(data)
        return s

    def ask(self, data, timeout=5):
        """One raw line out, one line back."""
        s = self.tcp(data + b"\n", timeout)
        try:
            return line(s, timeout)
        finally:
            s.close()

    def stop(self, seconds=10):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(seconds)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def line(s, timeout=5):
    s.settimeout(timeout)
    got = b""
    try:
        while not got.endswith(b"\n"):
            more = s.recv(4096)
            if not more:
                break
            got += more
    except (TimeoutError, ConnectionResetError):
        pass
    return got.rstrip(b"\n")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def verdict(ok, text):
    print(("RIGHT: " if ok else "WRONG: ") + text, flush=True)
    sys.exit(0 if ok else 1)
