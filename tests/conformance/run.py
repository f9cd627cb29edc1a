"""Run the Autobahn test suite against wsraw, as server and as client, and report the results.

    make conformance                                    all cases, both roles
    python tests/conformance/run.py --quick --role client --cases '6.*'

The suite's cases are driven by kosoku (a wheel on PyPI), which `make` puts into build/autobahn. The
reports are build/conformance/server/index.html and build/conformance/client/index.html.

Exit code: 0 if every case is OK or INFORMATIONAL, and was closed properly; 1 if one is not; 2 if
the suite could not run, or not all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "build" / "autobahn"
KOSOKU = "import sys; from kosoku._cli import main; sys.exit(main())"

SLOW = [
    "9.*",
    *(
        f"{group}.{kind}.{size}"
        for group in (12, 13)
        for kind in range(1, 8)
        for size in range(4, 19)
    ),
]
"""The cases that --quick leaves out: limits and performance, and most sizes of the compressed
cases.
"""

# 9.* sends messages of up to 16 MiB; 12.* and 13.* want to see small messages compressed, too.
OPTIONS = [
    "--max-message-size",
    str(16 << 20),
    "--output-limit",
    str(40 << 20),
    "--deflate-from",
    "0",
]

ALL = 517
"""The number of cases in the suite: a full run with fewer cases is incomplete."""

GOOD = {"OK", "INFORMATIONAL"}

START_TIMEOUT = 60.0

PATIENCE = 1000
"""Milliseconds after which the suite gives up a case, whatever it finds afterwards."""

AGAIN = 3
"""How often a case that was given up is played again: a busy machine may take a second for an
answer.
"""


class CannotRunError(Exception):
    """The suite could not run, which says nothing about wsraw."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--role", choices=["server", "client", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="without the slow cases")
    parser.add_argument("--cases", default="", help="ids or globs, with commas: '6.*,7.1.5'")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "conformance")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for each role")
    parser.add_argument(
        "--option", action="append", default=[], help="for wsraw run: messages=whole"
    )
    args = parser.parse_args()
    options = [*OPTIONS, *(f"--{option}".replace("_", "-") for option in args.option)]
    cases = [case for case in args.cases.split(",") if case]
    roles = ["server", "client"] if args.role == "both" else [args.role]
    good = True
    try:
        for role in roles:
            report = (args.out / role).resolve()
            report.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(report, ignore_errors=True)
            began = time.monotonic()
            play = play_server if role == "server" else play_client
            play(report, select(cases, args.quick), options, args.timeout)
            played = read(report)
            for n in range(AGAIN):
                if late := [name for name, case in played.items() if is_late(case)]:
                    print(f"as {role}, again, as an answer took too long:", *late)
                    again = report.with_name(f"{role}-again-{n}")
                    play(again, select(late, False), options, args.timeout)
                    played |= read(again)
            good &= tell(role, played, time.monotonic() - began, report)
            if not cases and not args.quick and len(played) != ALL:
                raise CannotRunError(f"as {role} only {len(played)} of {ALL} cases were played")
    except CannotRunError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if good else 1


def select(cases: list[str], quick: bool) -> list[str]:
    chosen = [word for case in cases for word in ("-i", case)]
    return [*chosen, *(word for case in SLOW for word in ("-x", case))] if quick else chosen


# --- the two roles ---


def play_server(report: Path, chosen: list[str], options: list[str], timeout: float) -> None:
    """Play the cases with wsraw as the server."""
    echo = ROOT / "examples" / "echo.py"
    with (
        wsraw(report, echo, options, {}) as (run, url),
        suite(report, [*chosen, "-p", "2", url]) as kosoku,
    ):
        wait_for_end(kosoku, run, timeout)


def play_client(report: Path, chosen: list[str], options: list[str], timeout: float) -> None:
    """Play the cases with the suite as the server: handlers of wsraw open a connection for each
    case.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        place = "{}:{}".format(*sock.getsockname())
    with suite(report, [*chosen, "-m", "fuzzingserver", place]) as kosoku:
        wait_for_port(place, kosoku)
        about = {"AUTOBAHN_URL": f"ws://{place}", "AUTOBAHN_LANES": "2"}
        with wsraw(report, Path(__file__).with_name("client.py"), options, about) as (run, _):
            # The suite ends by itself once the client has asked for the report.
            wait_for_end(kosoku, run, timeout)


@contextlib.contextmanager
def suite(report: Path, words: list[str]) -> Iterator[subprocess.Popen[str]]:
    if not (SUITE / "kosoku").exists():
        raise CannotRunError("the suite is not installed: make autobahn")
    command = [sys.executable, "-c", KOSOKU, "-o", str(report), *words]
    env = {**os.environ, "PYTHONPATH": str(SUITE)}
    with open(f"{report}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )
    try:
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def wsraw(
    report: Path, handlers: Path, options: list[str], about: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run of those handlers that is ready, and its address."""
    command = [sys.executable, "-m", "wsraw", "run", "--workers", str(handlers)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    file = Path(f"{report}.wsraw.log")
    with open(file, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *options],
            env={**os.environ, **about, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        until = time.monotonic() + START_TIMEOUT
        while not (
            found := re.search(r"listening on (ws://\S+:\d+).*; ready", file.read_text("utf-8"))
        ):
            if process.poll() is not None or time.monotonic() > until:
                raise CannotRunError("wsraw did not start:\n" + file.read_text("utf-8"))
            time.sleep(0.05)
        yield process, found[1]
    finally:
        end(process)


def wait_for_port(place: str, process: subprocess.Popen[str]) -> None:
    host, _, port = place.rpartition(":")
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return
        time.sleep(0.05)
    raise CannotRunError(f"the suite does not listen on {place}")


def wait_for_end(kosoku: subprocess.Popen[str], run: subprocess.Popen[str], timeout: float) -> None:
    until = time.monotonic() + timeout
    while kosoku.poll() is None:
        if run.poll() is not None:
            raise CannotRunError(f"wsraw has ended, exit code {run.returncode}")
        if time.monotonic() > until:
            raise CannotRunError(f"the suite was not through after {timeout:g} s")
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- results ---

Cases = dict[str, dict[str, Any]]


def read(report: Path) -> Cases:
    try:
        index: dict[str, Cases] = json.loads((report / "index.json").read_text("utf-8"))
    except OSError:
        raise CannotRunError(
            "the suite wrote no report:\n" + Path(f"{report}.log").read_text("utf-8")
        ) from None
    # The report has one agent, or none if no case was chosen.
    return next(iter(index.values()), {})


def verdict_of(case: dict[str, Any]) -> str:
    verdict: str = case["behavior"]
    if verdict in GOOD and case["behaviorClose"] not in GOOD:
        return f"closed: {case['behaviorClose']}"
    return verdict


def is_late(case: dict[str, Any]) -> bool:
    return verdict_of(case) not in GOOD and case["duration"] >= PATIENCE


def tell(role: str, cases: Cases, seconds: float, report: Path) -> bool:
    """Print the counts and the cases that are not OK; returns whether all is well."""
    by_verdict: dict[str, list[str]] = {}
    for name, case in sorted(cases.items(), key=lambda item: [*map(int, item[0].split("."))]):
        by_verdict.setdefault(verdict_of(case), []).append(name)
    counts = Counter({verdict: len(names) for verdict, names in by_verdict.items()})
    print(f"as {role}: {len(cases)} cases in {seconds:.0f} s, report: {report / 'index.html'}")
    for verdict, count in counts.most_common():
        names = "" if verdict == "OK" else "   " + " ".join(by_verdict[verdict])
        print(f"  {verdict:<14}{count:>4}{names}")
    sys.stdout.flush()
    return bool(cases) and set(by_verdict) <= GOOD


if __name__ == "__main__":
    sys.exit(main())
