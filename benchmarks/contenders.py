"""The servers that are compared, and how each is started. One that cannot run is named and left
out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
BUILD = HERE.parent / "build" / "bench"
COMPILED = HERE.parent / "build" / "compiled"


@dataclass(frozen=True)
class Contender:
    """A server. `command` takes the port; `needs` returns why the server cannot run here, or ""."""

    name: str
    command: Callable[[int], list[str]]
    needs: Callable[[], str]
    raw: Callable[[int], int] | None = None
    """The port of its raw protocol, if it has one."""
    cwd: Path | None = None
    python_path: Path | None = None
    """The folder of its modules. The current folder is not enough: the children of a run ignore
    it, and would import an installed wsraw.
    """


def _python(module: str) -> Callable[[], str]:
    def missing() -> str:
        found = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
        return "" if found.returncode == 0 else f"pip install {module} did not work"

    return missing


def _nothing() -> str:
    return ""


def _script(name: str, *arguments: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, str(SERVERS / name), str(port), *arguments]


def wsraw(name: str, handlers: str, workers: int, *options: str) -> Contender:
    """A run of wsraw."""

    def command(port: int) -> list[str]:
        place = f"{SERVERS / handlers}:{workers}"
        where = f"127.0.0.1:{port}"
        run = (sys.executable, "-m", "wsraw", "run", "--workers", place, "--listen", where)
        return [*run, "--max-message-size", str(1 << 24), "--log-level", "warning", *options]

    return Contender(name, command, _nothing, raw=lambda port: port, python_path=HERE.parent)


def _not_compiled() -> str:
    return "" if (COMPILED / ".built").exists() else "make compiled has not been run"


def compiled(contender: Contender) -> Contender:
    """A run of wsraw with its hot path compiled."""
    return replace(contender, needs=_not_compiled, python_path=COMPILED)


def _built(program: str, *flags: str) -> Callable[[], str]:
    def missing() -> str:
        return "" if build(program, *flags) else f"{program}.c does not compile here"

    return missing


def build(program: str, *flags: str) -> Path | None:
    """Compile a C file of this folder, unless that is done; returns the program's path, or None."""
    source, target = HERE / "c" / f"{program}.c", BUILD / program
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    BUILD.mkdir(parents=True, exist_ok=True)
    made = subprocess.run([compiler, "-O2", "-o", target, source, *flags], capture_output=True)
    return target if made.returncode == 0 else None


def _node_missing() -> str:
    if shutil.which("node") is None:
        return "there is no node"
    if not (HERE.parent / "build" / "node" / "node_modules" / "ws").exists():
        return "make node-peers has not been run"
    return ""


CONTENDERS = {
    contender.name: contender
    for contender in (
        wsraw("wsraw", "wsraw_echo.py", 1),
        wsraw("wsraw-2", "wsraw_echo.py", 2),
        compiled(wsraw("wsraw-compiled", "wsraw_echo.py", 1)),
        Contender("websockets", _script("websockets_echo.py"), _python("websockets")),
        Contender("websockets+uvloop", _script("websockets_echo.py", "uvloop"), _python("uvloop")),
        Contender("uvicorn", _script("uvicorn_echo.py"), _python("uvicorn")),
        Contender("picows", _script("picows_echo.py"), _python("picows")),
        Contender(
            "node-ws",
            lambda port: ["node", str(SERVERS / "node_ws.mjs"), str(port)],
            _node_missing,
            cwd=HERE.parent / "build" / "node",
        ),
        Contender(
            "pushpin",
            _script("pushpin.py"),
            lambda: "" if shutil.which("pushpin") else "there is no pushpin (a Debian package)",
        ),
        Contender(
            "epoll-c",
            lambda port: [str(BUILD / "epoll_echo"), str(port), str(port + 1)],
            _built("epoll_echo", "-lcrypto"),
            raw=lambda port: port + 1,
        ),
    )
}

EVENTS = wsraw("wsraw-events", "wsraw_events.py", 1)
EVENTS_COMPILED = compiled(wsraw("wsraw-events-compiled", "wsraw_events.py", 1))
BURN = wsraw("wsraw-burn", "wsraw_burn.py", 1)
BURN_2 = wsraw("wsraw-burn-2", "wsraw_burn.py", 2)
