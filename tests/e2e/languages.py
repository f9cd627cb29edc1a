"""How the workers in other languages (examples/workers) are started, and whether they can be.

What is missing is skipped on a developer's machine, and a failure where WSRAW_TEST_LANGUAGES=all
says that it was installed, as .ci/run does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.e2e.serving import EXAMPLES
from tests.running import ROOT

WORKERS = EXAMPLES / "workers"
# `make workers` puts one beside Python where the system has none.
NODE = shutil.which("node") or str(Path(sys.executable).parent / "node")
BUILT = ROOT / "build" / "workers" / "worker-c"
LANGUAGES = ("javascript", "php", "ruby", "c")
MUST = os.environ.get("WSRAW_TEST_LANGUAGES") == "all"


def node(script: Path) -> str:
    """The command of a script that imports the worker in JavaScript; ends the test likewise."""
    return shlex.join([*shlex.split(command("javascript"))[:1], str(script)])


def command(language: str) -> str:
    """The command of that worker, for --workers; ends the test if it cannot run here."""
    missing = _missing(language)
    if missing:
        (pytest.fail if MUST else pytest.skip)(missing)
    words = {
        "javascript": [NODE, WORKERS / "javascript" / "worker.mjs"],
        "php": ["php", WORKERS / "php" / "worker.php"],
        "ruby": ["ruby", WORKERS / "ruby" / "worker.rb"],
        "c": [BUILT],
    }[language]
    return shlex.join(map(str, words))


def _missing(language: str) -> str:
    match language:
        case "javascript":
            there = (WORKERS / "javascript" / "node_modules" / "zeromq").exists()
            return "" if there and os.path.exists(NODE) else "no zeromq for Node: run make workers"
        case "php":
            return _fails("php", "-r", "exit((int)!(class_exists('ZMQ') && msgpack_pack(1)));")
        case "ruby":
            return _fails("ruby", "-e", "require 'ffi-rzmq'; require 'msgpack'")
    import fcntl

    BUILT.parent.mkdir(parents=True, exist_ok=True)
    # Tests run side by side: one of them builds it, and nobody starts a part of it.
    with open(BUILT.with_name("lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _fails("make", "-s", "-C", str(WORKERS / "c"), f"OUT={BUILT}")


def _fails(*words: str) -> str:
    if shutil.which(words[0]) is None:
        return f"{words[0]}: not installed"
    done = subprocess.run(
        words, capture_output=True, encoding="utf-8", timeout=DEADLINE, check=False
    )
    return f"{words[0]}: {done.stdout}{done.stderr}" if done.returncode else ""
