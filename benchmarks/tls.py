"""Measure TLS handshakes with a gateway that measures its own turns: `python benchmarks/tls.py`.

First come N handshakes, some at a time, each with one echo and without resumption. Then come idle
connections, to measure the memory of one. The results are the gateway's own CPU time and, where
there is /proc, its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trustme

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "MEASURE_WSRAW_TURNS": "1"}


def wsraw(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsraw", *arguments]


def certificate(folder: str, kind: trustme.KeyType) -> str:
    path = f"{folder}/{kind.name}.pem"
    cert = trustme.CA().issue_cert("localhost", key_type=kind)
    cert.private_key_and_cert_chain_pem.write_to_path(path)
    return path


class Run:
    """`wsraw run` with an echo."""

    def __init__(self, folder: str, options: list[str]) -> None:
        self.folder = f"{folder}/run"
        os.mkdir(self.folder, 0o700)
        echo = str(ROOT / "examples/echo.py")
        # The clients' own time does not matter, so the timeout is long.
        fixed = ["--listen=127.0.0.1:0", "--handshake-timeout=300", "--run-dir", self.folder]
        self.process = subprocess.Popen(
            wsraw("run", "--workers", echo, *fixed, *options),
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"listening on \w+://[^ ]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                return
        raise SystemExit("wsraw did not start")

    def status(self) -> dict[str, object]:
        text = subprocess.run(
            wsraw("status", "--json", "--run-dir", self.folder),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        gateway: dict[str, object] = json.loads(text)["gateway"]
        return gateway

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


async def handshakes(port: int, count: int, at_once: int) -> float:
    left = iter(range(count))
    made = context()

    async def client() -> None:
        for _ in left:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=made)
            writer.write(b"echo")
            assert await reader.readexactly(4) == b"echo"
            writer.close()
            await writer.wait_closed()

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return time.monotonic() - begun


def idle(port: int, count: int, secure: bool) -> list[socket.socket]:
    made, kept = context(), []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        if secure:
            sock = made.wrap_socket(sock)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        kept.append(sock)
    return kept


def tell_handshakes(name: str, pem: str, count: int, at_once: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, ["--tls-cert", pem])
        try:
            took = asyncio.run(handshakes(run.port, count, at_once))
            status = run.status()
            print(f"{name}: {count} handshakes, {at_once} at a time, {count / took:.0f}/s")
            print(f"  tls {status['tls']}")
            print(f"  turns of the loop {status['turns']}", flush=True)
        finally:
            run.stop()


def tell_memory(name: str, options: list[str], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, options)
        try:
            before = run.status()["rss"]
            kept = idle(run.port, count, bool(options))
            after = run.status()["rss"]
            assert isinstance(before, int)
            assert isinstance(after, int)
            print(
                f"{name}: {count} idle, {(after - before) / count / 1024:.1f} KiB each", flush=True
            )
            for sock in kept:
                sock.close()
        finally:
            run.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--handshakes", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--idle", type=int, default=5_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ecdsa = certificate(folder, trustme.KeyType.ECDSA)
        rsa = certificate(folder, trustme.KeyType.RSA)
        for name, pem in (("ECDSA P-256", ecdsa), ("RSA 2048", rsa)):
            if asked.handshakes:
                tell_handshakes(name, pem, asked.handshakes, asked.at_once)
        if asked.idle:
            tell_memory("TLS", ["--tls-cert", ecdsa], asked.idle)
            tell_memory("plain", [], asked.idle)


if __name__ == "__main__":
    main()
