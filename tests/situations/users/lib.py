"""Shared by the cases: starts wsraw (WSRAW=path of its checkout or of its command), talks bytes."""

import base64, contextlib, os, re, signal, socket, struct, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))


def command():
    where = os.environ["WSRAW"]
    if os.path.isdir(where):
        where = os.path.join(where, ".venv/bin/wsraw")
    return where


class Run:
    """A run of wsraw with handlers given as text."""

    def __init__(
        self,
        handlers=None,
        *options,
        env=None,
        listen="127.0.0.1:0",
        name="handlers.py",
        workers=1,
        folder=None,
        wait=True,
        preexec=None,
        stdout=None,
    ):
        self.folder = folder or tempfile.mkdtemp(prefix="wsraw-case-")
        self.run_dir = os.path.join(tempfile.mkdtemp(prefix="wr-"), "run")
        line = ["nice", "-n", "10", command(), "run", "--run-dir", self.run_dir]
        for each in [listen] if isinstance(listen, str) else listen:
            line += ["--listen", each]
        if handlers is not None:
            self.file = os.path.join(self.folder, name)
            with open(self.file, "w", encoding="utf-8") as f:
                f.write(handlers)
            line += ["--workers", f"{self.file}:{workers}"]
        line += options
        self.lines = []
        environment = dict(os.environ, **(env or {}))
        self.process = subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=self.folder,
            preexec_fn=preexec,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.port = None
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if wait and not self.ready.wait(30):
            self.stop()
            raise SystemExit("wsraw did not get ready:\n" + "\n".join(self.lines))

    def _read(self):
        for raw in self.process.stderr:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(line)
            found = re.search(r"listening on .*?127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
            if "; ready, pid" in line:
                self.ready.set()
        self.ready.set()

    def log(self):
        return "\n".join(self.lines)

    def wait_log(self, pattern, seconds=10):
        until = time.time() + seconds
        while time.time() < until:
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        return None

    def ctl(self, *words, timeout=60):
        return subprocess.run(
            [command(), words[0], "--run-dir", self.run_dir, *words[1:]],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def status(self):
        import json

        return json.loads(self.ctl("status", "--json").stdout)

    def children(self):
        out = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    stat = f.read()
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == self.pid:
                out[int(pid)] = line
        return out

    def gateway_pid(self):
        return next(p for p, line in self.children().items() if "wsraw gateway" in line)

    def worker_pids(self):
        return [p for p, line in self.children().items() if "wsraw worker" in line]

    def stop(self, seconds=45):
        """Seconds that a stop took; None if it had to be killed."""
        t = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
            return time.monotonic() - t
        except subprocess.TimeoutExpired:
            kids = self.children()
            self.process.kill()
            for pid in kids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return None

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.stop()


KEY = base64.b64encode(bytes(range(16))).decode()


def request(path="/", headers=(), port=0, method="GET", version="HTTP/1.1", drop=()):
    base = [
        ("Host", f"127.0.0.1:{port}"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ]
    names = {n.lower() for n in drop}
    lines = [f"{method} {path} {version}".encode("latin-1")]
    for n, v in [x for x in base if x[0].lower() not in names] + list(headers):
        n = n if isinstance(n, bytes) else n.encode("latin-1")
        v = v if isinstance(v, bytes) else v.encode("latin-1")
        lines.append(n + b": " + v)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(op, data=b"", fin=True, mask=b"\x01\x02\x03\x04", rsv=0, size=None):
    head = bytes([(0x80 if fin else 0) | rsv << 4 | op])
    n = len(data) if size is None else size
    bit = 0x80 if mask is not None else 0
    if n < 126:
        head += bytes([bit | n])
    elif n < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    if mask is None:
        return head + data
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


class Client:
    def __init__(self, port, host="127.0.0.1", timeout=10, sock=None):
        self.sock = sock or socket.create_connection((host, port), timeout)
        self.sock.settimeout(timeout)
        self.buf = b""

    def send(self, data):
        self.sock.sendall(data)
        return self

    def head(self):
        while b"\r\n\r\n" not in self.buf:
            d = self.sock.recv(65536)
            if not d:
                break
            self.buf += d
        head, _, self.buf = self.buf.partition(b"\r\n\r\n")
        return head

    def need(self, n):
        while len(self.buf) < n:
            d = self.sock.recv(65536)
            if not d:
                raise EOFError(self.buf)
            self.buf += d
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def frame(self):
        a, b = self.need(2)
        n = b & 127
        if n == 126:
            n = struct.unpack(">H", self.need(2))[0]
        elif n == 127:
            n = struct.unpack(">Q", self.need(8))[0]
        assert not b & 128, "masked by the server"
        return a & 15, self.need(n), a

    def message(self):
        while True:
            op, data, _ = self.frame()
            if op in (1, 2, 0, 8):
                return op, data
            if op == 9:
                self.send(frame(10, data))

    def all(self, seconds=5):
        self.sock.settimeout(seconds)
        try:
            while True:
                d = self.sock.recv(65536)
                if not d:
                    return self.buf, "eof"
                self.buf += d
        except ConnectionResetError:
            return self.buf, "reset"
        except TimeoutError:
            return self.buf, "open"

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def ws(port, path="/", headers=(), timeout=10, drop=()):
    c = Client(port, timeout=timeout)
    c.send(request(path, headers, port, drop=drop))
    head = c.head()
    c.answer = head
    if not head.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(head + b"\r\n\r\n" + c.all(1)[0])
    return c


def verdict(right, *said):
    print("RIGHT" if right else "WRONG", *said)
    sys.stdout.flush()
    sys.exit(0 if right else 1)
