"""Try an installed wheel: that it is compiled as a whole, and serves both kinds of clients.

For the Python of an environment into which only the wheel was installed. Imports nothing of the
tree.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from websockets.sync.client import connect

import wsraw

TREE = Path(__file__).resolve().parent.parent
COMMAND = Path(sysconfig.get_path("scripts")) / ("wsraw.exe" if os.name == "nt" else "wsraw")
TIMEOUT = 60.0
HANDLERS = """
def on_message(msg, con):
    return msg
"""


def check_modules() -> int:
    """Each module that pyproject.toml names is an extension module; how many there are."""
    assert wsraw.__file__ is not None
    assert not Path(wsraw.__file__).is_relative_to(TREE), f"not of the wheel: {wsraw.__file__}"
    project = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    for path in hook["include"]:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES)), f"{path} is not compiled"
    version = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.endswith(" (compiled)\n"), version.stdout
    print(version.stdout, end="")
    return len(hook["include"])


def check_echo(port: int) -> None:
    """Two WebSockets, one of them without compression, and a raw client get back what they send."""
    for compression in ("deflate", None):
        with connect(
            f"ws://127.0.0.1:{port}/", compression=compression, proxy=None, open_timeout=TIMEOUT
        ) as web:
            for message in ("grüße " * 2000, bytes(range(256)) * 400, "", b""):
                web.send(message)
                assert web.recv(TIMEOUT) == message
    data = bytes(range(256)) * 4000
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as raw:
        sender = threading.Thread(target=raw.sendall, args=(data,))
        sender.start()
        echoed = bytearray()
        while len(echoed) < len(data):
            chunk = raw.recv(1 << 16)
            assert chunk, f"ended after {len(echoed)} bytes"
            echoed += chunk
        sender.join()
        assert echoed == data


def serve(folder: Path) -> None:
    """Start a run with two workers, talk to it, and stop it."""
    (folder / "handlers.py").write_text(HANDLERS)
    environment = os.environ | dict.fromkeys(["TMPDIR", "XDG_RUNTIME_DIR"], str(folder))
    run = subprocess.Popen(
        [COMMAND, "run", "--workers", "handlers.py:2", "--listen", "127.0.0.1:0"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # What is sent to it there goes to its group.
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    watch = threading.Timer(TIMEOUT, run.kill)
    watch.start()
    assert run.stderr is not None
    log = []
    try:
        for line in run.stderr:
            log.append(line)
            if found := re.search(r"listening on \w+://\S+:(\d+).*; ready", line):
                check_echo(int(found[1]))
                run.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        assert run.wait() == 0, f"exit code {run.returncode}"
        assert any("; ready" in line for line in log), "it was never ready"
        assert "Traceback" not in "".join(log), "it logged a traceback"
    except BaseException:
        run.kill()
        sys.stderr.writelines(log)
        raise
    finally:
        watch.cancel()
        run.wait()
        run.stderr.close()


if __name__ == "__main__":
    modules = check_modules()
    with tempfile.TemporaryDirectory() as folder:
        serve(Path(folder))
    print(f"{modules} compiled modules; echo over WebSocket and raw")
