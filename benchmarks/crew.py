"""A gateway without workers of its own in one network namespace, its workers in another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.netns import GATEWAY_AT, CannotMake, Namespaces
from wsraw.commands.keys import make_pair
from wsraw.runtime import launch
from wsraw.supervisor.run_folder.folder import count_dead_letters
from wsraw.tools.drill.plan import DrillError
from wsraw.tools.drill.target.close_log import VARIABLE
from wsraw.tools.drill.target.control import RunControl
from wsraw.tools.drill.target.run import ECHO

START_TIMEOUT = 30.0
STOP_TIMEOUT = 60.0
LINK = f"tcp://{GATEWAY_AT}:7788"
WSRAW = (sys.executable, "-P", "-m", "wsraw")


class Crew:
    """The gateway and its workers. The caller must be in the gateway's namespace. Raises
    CannotMake if they do not start.
    """

    def __init__(self, net: Namespaces, folder: Path, workers: int, heartbeat: float) -> None:
        self.net = net
        self.names = [f"w{n}" for n in range(workers)]
        self.close_log = folder / "closes"
        self.close_log.mkdir()
        self._run_dir = folder / "run"
        self._keys = folder / "keys"
        self._log = folder / "log"
        self._stream = self._log.open("w")
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        (self._keys / "allowed").mkdir(parents=True)
        for name in ("gateway", *self.names):
            _, public = make_pair(str(self._keys), name)
            if name in self.names:
                public.rename(self._keys / "allowed" / public.name)
        self._gateway = self._spawn(
            *WSRAW, "run", "--workers=none", "--listen=127.0.0.1:0", f"--run-dir={self._run_dir}",
            f"--worker-listen={LINK}", f"--link-key={self._keys}/gateway.key",
            f"--worker-keys={self._keys}/allowed", f"--worker-heartbeat={heartbeat}",
        )  # fmt: skip

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (self._gateway, *self._workers.values()):
            process.kill()
            process.wait()
        self._stream.close()

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        # The process is told to end when this one does, however that happens.
        tied = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        return subprocess.Popen(
            [*tied, *words],
            stdin=subprocess.DEVNULL,
            stdout=self._stream,
            stderr=self._stream,
            # Only this process handles Ctrl-C.
            process_group=0,
        )

    def start(self) -> tuple[str, int]:
        """Start the workers; returns the address for clients."""
        for name in self.names:
            self.start_worker(name)
        self.wait_for(self.is_complete, START_TIMEOUT)
        host, _, port = self.status()["listen"][0].removeprefix("ws://").rpartition(":")
        return host, int(port)

    def wait_for(self, condition: Any, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until or self._gateway.poll() is not None:
                raise CannotMake(f"it is not as it should be:\n{self.last_lines()}")
            time.sleep(0.05)

    def last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])

    # --- status ---

    def status(self) -> dict[str, Any]:
        return RunControl(self._run_dir).status()

    def sessions(self) -> dict[str, str]:
        """The instance of each key, for workers that are ready."""
        try:
            by_hand = self.status()["by_hand"]
        except DrillError:
            # The run is not up yet.
            return {}
        return {each["key"]: each["instance"] for each in by_hand if each["state"] == "ready"}

    def is_complete(self) -> bool:
        return len(self.sessions()) == len(self.names)

    def dead_letters(self) -> int:
        return count_dead_letters(self._run_dir)

    # --- faults ---

    def start_worker(self, name: str) -> None:
        keys = (f"--key={self._keys}/{name}.key", f"--gateway-key={self._keys}/gateway.pub")
        report = f"{VARIABLE}={self.close_log}"
        words = ("env", report, *WSRAW, "worker", str(ECHO), f"--connect={LINK}", *keys)
        self._workers[name] = self._spawn("ip", "netns", "exec", self.net.workers, *words)

    def kill_worker(self, name: str) -> None:
        """Kill a worker and start another, as a service manager would."""
        self._workers[name].kill()
        self._workers[name].wait()
        self.start_worker(name)

    def stop(self) -> list[str]:
        """Stop the run; returns the errors."""
        self._gateway.send_signal(signal.SIGTERM)
        wrong = []
        for name, process in (("gateway", self._gateway), *self._workers.items()):
            try:
                code = process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                wrong.append(f"{name} did not end")
                continue
            if code:
                wrong.append(f"{name} ended with {code}")
        return wrong


def retransmitted() -> int:
    """The number of TCP segments that this namespace has retransmitted."""
    with open(f"/proc/{os.getpid()}/net/snmp") as lines:
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])
