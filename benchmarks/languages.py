"""Compare workers in other languages with Python's: verified messages a second, in one table.

Each does what examples/common.py does, which keeps a count in the connection's state. The rounds go
A B C A B C …, as the machine may be busy with other things. Languages that cannot run here are
named and left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contenders import BUILD, Contender, build
from benchmarks.serving import READY_WITHIN, serving

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
WORKERS = EXAMPLES / "workers"
IN_C = BUILD / "worker-c"
LANGUAGES = {
    "Python": str(EXAMPLES / "common.py"),
    "JavaScript": f"node {WORKERS / 'javascript' / 'worker.mjs'}",
    "PHP": f"php {WORKERS / 'php' / 'worker.php'}",
    "Ruby": f"ruby {WORKERS / 'ruby' / 'worker.rb'}",
    "C": str(IN_C),
}
WORKS = {
    "WebSocket, depth 1": ("--depth", "1"),
    "WebSocket, depth 16": ("--depth", "16"),
    "raw, depth 1": ("--depth", "1", "--raw"),
}


def missing(language: str) -> str:
    """Why the language cannot run here, or ""."""
    needs = {
        "JavaScript": ["test", "-d", str(WORKERS / "javascript" / "node_modules" / "zeromq")],
        "PHP": ["php", "-r", "exit((int)!(class_exists('ZMQ') && msgpack_pack(1)));"],
        "Ruby": ["ruby", "-e", "require 'ffi-rzmq'; require 'msgpack'"],
        "C": ["make", "-s", "-C", str(WORKERS / "c"), f"OUT={IN_C}"],
    }.get(language, ["true"])
    BUILD.mkdir(parents=True, exist_ok=True)
    if shutil.which(needs[0]) is None:
        return f"{needs[0]} is not installed"
    done = subprocess.run(needs, capture_output=True, check=False)
    return "what it needs is not installed; see examples/workers" if done.returncode else ""


def contender(language: str, workers: int) -> Contender:
    """A run of ours with these workers."""

    def command(port: int) -> list[str]:
        entry = f"{LANGUAGES[language]}:{workers}"
        where = f"127.0.0.1:{port}"
        run = [sys.executable, "-m", "wsraw", "run", "--workers", entry, "--listen", where]
        return [*run, "--log-level", "warning"]

    return Contender(language, command, lambda: "", raw=lambda port: port, cwd=ROOT)


def wait_for_an_echo(port: int) -> None:
    """Wait for an echo. A gateway answers handshakes before its workers have started, and on a
    busy machine a start may take longer than a measurement.
    """
    with socket.create_connection(("127.0.0.1", port), READY_WITHIN) as sock:
        sock.sendall(b"hello")
        sock.recv(1)


def measure(port: int, options: tuple[str, ...], seconds: float) -> tuple[float, str]:
    """Messages a second, and the error, or ""."""
    done = subprocess.run(
        [
            str(BUILD / "wsload"), "echo", "--port", str(port), "--conns", "64", "--size", "64",
            "--duration", str(seconds), "--warmup", str(min(1.0, seconds)), "--json", *options,
        ],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        return 0.0, done.stdout + done.stderr
    return float(json.loads(done.stdout)["msgs_per_s"]), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one short round of two of them")
    given = parser.parse_args()
    rounds, seconds = (1, 0.5) if given.quick else (given.rounds, given.seconds)
    if not build("wsload", "-lm"):
        sys.exit("wsload.c does not compile here")
    left_out = {language: why for language in LANGUAGES if (why := missing(language))}
    known = [language for language in LANGUAGES if language not in left_out]
    works = dict(WORKS)
    if given.quick:
        known, works = known[:2], dict([*WORKS.items()][:1])
    figures: dict[tuple[str, str], list[float]] = {}
    breaches = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for language in known:
                log = Path(folder) / language
                with serving(contender(language, given.workers), log) as (_process, port):
                    wait_for_an_echo(port)
                    for work, options in works.items():
                        figure, wrong = measure(port, options, seconds)
                        figures.setdefault((language, work), []).append(figure)
                        if wrong:
                            breaches.append(f"{language}, {work}: {wrong}")
    print(f"messages/s, 64 connections, 64 B, {given.workers} worker(s), medians of {rounds}\n")
    print("| worker | " + " | ".join(works) + " |")
    print("|---" * (1 + len(works)) + "|")
    for language in known:
        cells = [f"{statistics.median(figures[language, work]):,.0f}" for work in works]
        print(f"| {language} | " + " | ".join(cells) + " |")
    print()
    for language, why in left_out.items():
        print(f"left out: {language}: {why}")
    print("\n".join(breaches) or "no breach")
    return bool(breaches)


if __name__ == "__main__":
    sys.exit(main())
