"""Run a contender, and wsload with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.contenders import Contender
from benchmarks.works import Work

READY_WITHIN = 30.0
FIRST_PORT = 21_000


def _free_port() -> int:
    """A free port whose next port is free, too, for raw protocols."""
    for port in range(FIRST_PORT + os.getpid() % 1000, 60_000, 2):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@contextmanager
def serving(contender: Contender, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a contender, wait until it answers, and end it with all its children."""
    port = _free_port()
    env = dict(os.environ)
    if contender.python_path is not None:
        env["PYTHONPATH"] = str(contender.python_path)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            contender.command(port),
            cwd=contender.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, port, log)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a handshake is answered, and a second more for other processes to start."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}; see {log}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as sock:
                sock.sendall(
                    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    b"Sec-WebSocket-Version: 13\r\n\r\n"
                )
                if sock.recv(4096).startswith(b"HTTP/1.1 101"):
                    time.sleep(1.0)
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"it does not answer within {READY_WITHIN:.0f} s; see {log}")


def measure(
    work: Work, contender: Contender, wsload: Path, log: Path, seconds: float
) -> dict[str, Any]:
    """Run a work once. Raises RuntimeError if the contender does not run, or if a message was
    wrong.
    """
    with serving(contender, log) as (process, port):
        if work.raw:
            assert contender.raw is not None
            port = contender.raw(port)
        command = [str(wsload), *work.options, "--port", str(port), "--json"]
        command += ["--duration", str(work.seconds or seconds), "--warmup", "0.7"]
        command += ["--pids", str(process.pid), *(["--raw"] if work.raw else [])]
        if work.options[0] == "hold":
            return _hold(command, process.pid, work.seconds)
        done = subprocess.run(command, capture_output=True, text=True)
        return _report(done.stdout, done.stderr)


def _report(stdout: str, stderr: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(stdout)
    except ValueError:
        raise RuntimeError(stderr.strip() or "wsload said nothing") from None
    if not report["ok"]:
        raise RuntimeError(f"{report['first_error'] or report['errors']}")
    return report


def _hold(command: list[str], pid: int, seconds: float) -> dict[str, Any]:
    """Measure idle connections. Memory is that of the server with all connections open, minus
    its memory before; CPU is measured while only pongs come, and before the clients close.
    """
    _, before = processes.memory(pid)
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert load.stderr is not None
    assert load.stdout is not None
    try:
        for line in load.stderr:
            if line.startswith("OPEN"):
                break
        # The memory of the handshakes is given back gradually.
        time.sleep(3.0)
        rss, pss = processes.memory(pid)
        cpu, since = processes.cpu(pid), time.monotonic()
        time.sleep(max(0.0, seconds - 5.0))
        used, passed = processes.cpu(pid) - cpu, time.monotonic() - since
        report = _report(load.stdout.read(), "")
    finally:
        load.kill()
        load.wait()
    report["kib_per_connection"] = (pss - before) / max(1, report["open"])
    report["server_rss_kib"] = rss
    report["server_cores_pct"] = 100 * used / passed
    return report
