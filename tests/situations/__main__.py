"""``python -m tests.situations [PART …]``: see README.md in this folder."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIME_LIMIT = 400.0
"""Seconds for one script. The slowest one needs about two minutes."""
VERDICTS = {0: "right", 1: "WRONG", 2: "unclear"}


def scripts(parts: list[str]) -> list[Path]:
    """All scripts whose path has one of the parts in it, in order; all of them without parts."""
    found = sorted(
        path for path in HERE.glob("*/[0-9]*.py") if not parts or any(p in str(path) for p in parts)
    )
    if not found:
        sys.exit(f"no script has any of {parts} in its path")
    return found


def load_generator() -> Path:
    """Compile wsload, unless that was done for this source."""
    source, program = ROOT / "benchmarks" / "c" / "wsload.c", ROOT / "build" / "wsload"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        libraries = ["-lz", "-lm", "-lpthread"]
        subprocess.run(["cc", "-O2", "-o", program, source, *libraries], check=True)
    return program


def play(script: Path, environment: dict[str, str]) -> tuple[str, str, float]:
    """Run one script; returns its verdict, its output and the seconds it took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-B", script.name],
        cwd=script.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output = process.communicate(timeout=TIME_LIMIT)[0]
        verdict = VERDICTS.get(process.returncode, f"exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0]
        verdict = f"no end in {TIME_LIMIT:.0f} s"
    return verdict, output, time.monotonic() - begun


def main() -> int:
    """Run the scripts one after the other; the exit code says whether all were right."""
    parser = argparse.ArgumentParser(prog="python -m tests.situations")
    parser.add_argument("parts", nargs="*", help="parts of paths, such as users/06 or hostile")
    parser.add_argument("--verbose", action="store_true", help="show what each script prints")
    options = parser.parse_args()
    wsraw = Path(sys.executable).parent / "wsraw"
    environment = os.environ | {
        "WSRAW": str(wsraw),
        "WSRAW_VENV": str(wsraw.parent.parent),
        "WSLOAD": str(load_generator()),
        "PKI_PYTHON": sys.executable,
    }
    # It hides stale bytecode.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    counts: dict[str, int] = {}
    for script in scripts(options.parts):
        verdict, output, seconds = play(script, environment)
        counts[verdict] = counts.get(verdict, 0) + 1
        name = script.relative_to(HERE).with_suffix("")
        print(f"{verdict:8} {seconds:6.1f} s  {name}", flush=True)
        if options.verbose or verdict != "right":
            print(
                "".join(f"    {line}\n" for line in output.splitlines()[-30:]), end="", flush=True
            )
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return 0 if set(counts) == {"right"} else 1


if __name__ == "__main__":
    sys.exit(main())
