"""Helpers of the hostile cases. Run each with the python of the environment in WSRAW_VENV."""

from __future__ import annotations
import base64, json, os, re, shutil, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time
from pathlib import Path

VENV = Path(os.environ["WSRAW_VENV"])
WSRAW = str(VENV / "bin" / "wsraw")
PY = str(VENV / "bin" / "python")
WSLOAD = os.environ.get("WSLOAD", "wsload")
_live = []


def free_port():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    p = s.getsockname()[1]
    s.close()
    return p


class Run:
    """A run of wsraw in a folder of its own; `opts` are options of `wsraw run`."""

    def __init__(
        self,
        handlers=None,
        *opts,
        workers=2,
        env=None,
        listen=None,
        run_dir=None,
        preexec=None,
        prefix=(),
        ready=True,
        extra_files=None,
        nice=5,
        stderr_pipe=True,
    ):
        self.dir = Path(tempfile.mkdtemp(prefix="h-", dir=tempfile.gettempdir()))
        self.port = free_port()
        self.run_dir = Path(run_dir) if run_dir else self.dir / "run"
        line = [*prefix, WSRAW, "run", "--run-dir", str(self.run_dir)]
        if listen is None:
            line += ["--listen", f"127.0.0.1:{self.port}"]
        else:
            for each in listen:
                line += [
                    "--listen",
                    each.replace("PORT", str(self.port)).replace("DIR", str(self.dir)),
                ]
        if handlers is not None:
            (self.dir / "h.py").write_text(handlers)
            if workers:
                line += ["--workers", f"{self.dir}/h.py:{workers}"]
        for name, text in (extra_files or {}).items():
            (self.dir / name).write_text(text)
        line += [o.replace("DIR", str(self.dir)) for o in opts]
        self.lines = []
        self.line = line
        e = dict(os.environ)
        e.update(env or {})

        def pre():
            os.nice(nice)
            if preexec:
                preexec()

        self.p = subprocess.Popen(
            line,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=e,
            preexec_fn=pre,
            cwd=self.dir,
        )
        _live.append(self)
        self.reading = threading.Event()
        self.reading.set()
        threading.Thread(target=self._read, daemon=True).start()
        if ready:
            self.wait(r"; ready, pid", 20)

    def _read(self):
        for line in self.p.stderr:
            self.reading.wait()
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    @property
    def log(self):
        return "\n".join(self.lines)

    def wait(self, pattern, timeout=10):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            if self.p.poll() is not None:
                time.sleep(0.2)
                for line in list(self.lines):
                    if re.search(pattern, line):
                        return line
                raise AssertionError(
                    f"the run ended with {self.p.returncode} before {pattern!r}:\n{self.log[-3000:]}"
                )
            time.sleep(0.02)
        raise AssertionError(f"no line {pattern!r} in {timeout} s:\n{self.log[-3000:]}")

    def cli(self, *args, timeout=30):
        return subprocess.run(
            [WSRAW, *args, "--run-dir", str(self.run_dir)],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def status(self):
        out = self.cli("status", "--json")
        return json.loads(out.stdout)

    def gateway(self):
        return self.status()["gateway"]["pid"]

    def workers(self):
        return [w["pid"] for w in self.status()["workers"] if w["pid"]]

    def children(self):
        """pid → cmdline of direct children, without asking the run."""
        found = {}
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                try:
                    stat = (each / "stat").read_text()
                    if int(stat.rpartition(")")[2].split()[1]) == self.p.pid:
                        found[int(each.name)] = (
                            (each / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        )
                except (OSError, ValueError, IndexError):
                    pass
        return found

    def gateway_pid(self):
        return next(p for p, c in self.children().items() if " gateway" in c)

    def worker_pids(self):
        return [p for p, c in self.children().items() if " worker" in c]

    def stop(self, timeout=40):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGCONT)
            self.p.terminate()
            try:
                self.p.wait(timeout)
            except subprocess.TimeoutExpired:
                for pid in self.children():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
                self.p.kill()
                self.p.wait()
        return self.p.returncode

    def close(self):
        kids = list(self.children()) if self.p.poll() is None else []
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGCONT)
            for pid in kids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except OSError:
                    pass
            self.p.terminate()
            try:
                self.p.wait(8)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        for pid in kids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *e):
        self.close()


def rss(pid):
    """MiB"""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def cpu(pid):
    f = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class WS:
    """A small blocking WebSocket client that does only what it is told."""

    def __init__(
        self,
        port=0,
        path="/",
        headers=(),
        host="127.0.0.1",
        timeout=10,
        sock=None,
        rcvbuf=0,
        hosthdr=None,
        raw_head=None,
    ):
        if sock is None:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if rcvbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            sock.settimeout(timeout)
            sock.connect((host, port))
        sock.settimeout(timeout)
        self.s = sock
        self.buf = b""
        head = raw_head or (
            "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
            % (path, hosthdr or f"127.0.0.1:{port}", "".join(f"{h}\r\n" for h in headers))
        ).encode("latin-1")
        self.s.sendall(head)
        while b"\r\n\r\n" not in self.buf:
            d = self.s.recv(65536)
            if not d:
                raise ConnectionError(f"closed in the handshake: {self.buf!r}")
            self.buf += d
        self.head, _, self.buf = self.buf.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])

    def frame(self, data, op=1, fin=True, rsv=0, mask=b"\0\0\0\0"):
        if isinstance(data, str):
            data = data.encode()
        n = len(data)
        h = bytes([(0x80 if fin else 0) | rsv | op])
        if n < 126:
            h += bytes([0x80 | n])
        elif n < 65536:
            h += bytes([0x80 | 126]) + struct.pack(">H", n)
        else:
            h += bytes([0x80 | 127]) + struct.pack(">Q", n)
        return h + mask + data  # mask of zeros: the data as they are

    def send(self, data, **k):
        self.s.sendall(self.frame(data, **k))

    def _need(self, n):
        while len(self.buf) < n:
            d = self.s.recv(1 << 16)
            if not d:
                raise ConnectionError("closed")
            self.buf += d

    def recv_frame(self):
        self._need(2)
        op, n = self.buf[0], self.buf[1] & 127
        at = 2
        if n == 126:
            self._need(4)
            n = struct.unpack(">H", self.buf[2:4])[0]
            at = 4
        elif n == 127:
            self._need(10)
            n = struct.unpack(">Q", self.buf[2:10])[0]
            at = 10
        self._need(at + n)
        data = self.buf[at : at + n]
        self.buf = self.buf[at + n :]
        return op, data

    def recv(self, pongs=True):
        """The next data message's payload; answers pings. ('close', code, reason) for a close."""
        whole = b""
        until = time.monotonic() + (self.s.gettimeout() or 1e9)
        while True:
            if time.monotonic() > until:
                raise TimeoutError("pings alone")
            op, data = self.recv_frame()
            o = op & 15
            if o == 9:
                if pongs:
                    self.s.sendall(self.frame(data, op=10))
                continue
            if o == 10:
                continue
            if o == 8:
                code = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
                return ("close", code, data[2:].decode("utf-8", "replace"))
            whole += data
            if op & 0x80:
                return whole

    def text(self):
        d = self.recv()
        return d if isinstance(d, tuple) else d.decode()

    def close(self):
        try:
            self.s.close()
        except OSError:
            pass


def verdict(wrong, text=""):
    """Ends the case: 0 right, 1 wrong. Cleans up."""
    print(("WRONG: " if wrong else "RIGHT: ") + text, flush=True)
    for run in _live:
        try:
            run.close()
        except Exception as e:
            print("cleanup:", e)
    os._exit(1 if wrong else 0)


def main(f):
    try:
        f()
    except AssertionError as e:
        verdict(True, f"assertion: {e}")
    except BaseException as e:
        import traceback

        traceback.print_exc()
        verdict(True, f"{type(e).__name__}: {e}")
    verdict(False, "done")


ECHO = "def on_message(msg, con):\n    return msg\n"


def certificate():
    """A self-signed certificate for localhost, made by the openssl command: (cert.pem, key.pem)."""
    d = Path(tempfile.mkdtemp(prefix="tls-"))
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            str(d / "key.pem"),
            "-out",
            str(d / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return str(d / "cert.pem"), str(d / "key.pem")
