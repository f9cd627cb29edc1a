"""How the workers in other languages (examples/workers) are started, and what they need to run.

Languages that are not installed are skipped on a developer's machine. With
WSRAW_TEST_LANGUAGES=all, as .ci/run sets it, they are failures.
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
# `make workers` installs Node beside Python where the system has none.
NODE = shutil.which("node") or str(Path(sys.executable).parent / "node")
BUILT = ROOT / "build" / "workers" / "worker-c"
LANGUAGES = ("javascript", "php", "ruby", "c")
MUST = os.environ.get("WSRAW_TEST_LANGUAGES") == "all"


def node(script: Path) -> str:
    """The command for a script that imports the JavaScript worker. Skips or fails like
    `command`.
    """
    return shlex.join([*shlex.split(command("javascript"))[:1], str(script)])


def command(language: str) -> str:
    """The command of a language's worker, for --workers. Skips or fails if it cannot run here."""
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
    # Tests run in parallel: one of them builds the worker while the others wait, so none starts a
    # half-written file.
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
