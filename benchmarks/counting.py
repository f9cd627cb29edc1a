"""Counts for cost.py: instructions by valgrind, system calls of a running server by strace, and
the kernel's figures of its threads. Counts whose tool is missing are left out.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import BUILD, build, wsraw
from benchmarks.serving import serving
from wsraw.tools.drill.target.control import RunControl

MARK = "os_getppid"
"""The function of the interpreter at whose calls valgrind begins a new count."""

RUNS = {
    "100/s": ("rate", "--conns", "50", "--rate", "100", "--size", "64"),
    "2,000/s": ("rate", "--conns", "200", "--rate", "2000", "--size", "64"),
    "depth 1, 64 B": ("echo", "--conns", "64", "--depth", "1", "--size", "64"),
    "depth 16, 64 B": ("echo", "--conns", "64", "--depth", "16", "--size", "64"),
    "depth 1, 16 KiB": ("echo", "--conns", "64", "--depth", "1", "--size", "16384"),
}
"""Options of wsload. At 100/s each message is alone, even on a busy machine."""

LEAST_SHOWN = 0.005
"""The fewest system calls for each message that are shown."""


def instructions(command: Sequence[str], cwd: Path) -> list[dict[str, float]]:
    """Instructions for a message, by stage. The command calls os.getppid at each boundary,
    and prints for each load `[[stage, begun, ended], …], messages`, in numbers of such calls.
    The first span is empty: its instructions are those of the boundary itself.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("instructions are not counted: there is no valgrind")
        return []
    with tempfile.TemporaryDirectory() as folder:
        options = ("--tool=callgrind", f"--dump-before={MARK}", "--combine-dumps=yes")
        out = Path(folder, "out")
        done = subprocess.run(
            [valgrind, *options, f"--callgrind-out-file={out}", *command],
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
        )
        # The counts before each call and after the last one.
        totals = [int(word) for word in re.findall(r"^summary: (\d+)", out.read_text(), re.M)]
    if done.returncode or len(totals) < 2:
        print("instructions are not counted: see valgrind --version, and for symbols in python")
        return []
    found = []
    for spans, messages in json.loads(done.stdout):
        (_, begun, ended), *rest = spans
        boundary = sum(totals[begun:ended])
        figures: Counter[str] = Counter()
        for stage, begun, ended in rest:
            figures[stage] += sum(totals[begun:ended]) - boundary * (ended - begun)
        found.append({stage: count / messages for stage, count in figures.items()})
    return found


def running(seconds: float, *, with_times: bool) -> None:
    """Print tables of a running server: its system calls, and its threads."""
    wsload = build("wsload", "-lm")
    if wsload is None or not Path("/proc/self/schedstat").exists():
        print("no server is measured: it needs a C compiler, and Linux")
        return
    calls: list[str] = []
    threads: list[str] = []
    for name, options in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = wsraw("wsraw", "wsraw_echo.py", 1, "--run-dir", folder)
            with serving(run, BUILD / "cost.log") as (_, port):
                duration = str(2 * seconds + 6)
                command = [str(wsload), *options, "--port", str(port), "--duration", duration]
                load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                try:
                    time.sleep(1.5)
                    server = Server(Path(folder))
                    threads += [f"| {name} | {row}" for row in server.threads(seconds, with_times)]
                    calls += [f"| {name} | {row}" for row in server.system_calls(seconds)]
                finally:
                    load.kill()
                    load.wait()
    print("\n| load | process | system calls a message | of which |\n|---|---|--:|---|")
    print("\n".join(calls))
    cost = " CPU us a message |" if with_times else ""
    print(f"\n| load | process | thread | waits a message |{cost}")
    print("|---|---|---|--:|" + ("--:|" if with_times else ""))
    print("\n".join(threads))


class Server:
    """A run with one worker, and the number of messages that the worker has handled."""

    def __init__(self, folder: Path) -> None:
        self._control = RunControl(folder)
        status = self._control.status()
        self._pids = {"gateway": status["gateway"]["pid"], "worker": status["workers"][0]["pid"]}

    def _handled(self) -> int:
        handled: int | None = None
        while handled is None:
            # A slow gateway may not answer the supervisor in time.
            handled = self._control.status()["workers"][0]["acked"]
        return handled

    def system_calls(self, seconds: float) -> list[str]:
        """A row for each process. Tracing makes the processes slow, so batches are longer at
        full load.
        """
        strace = shutil.which("strace")
        if strace is None:
            return []
        with tempfile.TemporaryDirectory() as folder:
            tracers = []
            for name, pid in self._pids.items():
                options = ("-c", "-f", "-qq", "-o", f"{folder}/{name}", "-p", str(pid))
                tracers.append(subprocess.Popen([strace, *options], stderr=subprocess.DEVNULL))
            while not all(map(_is_traced, self._pids.values())):
                if any(tracer.poll() is not None for tracer in tracers):
                    return []
                time.sleep(0.01)
            before = self._handled()
            time.sleep(seconds)
            count = self._handled() - before
            for tracer in tracers:
                tracer.send_signal(signal.SIGINT)
                tracer.wait()
            return [
                f"{name} | {_summary(Path(folder, name).read_text(), count)} |"
                for name in self._pids
            ]

    def threads(self, seconds: float, with_times: bool) -> list[str]:
        """A row for the main thread of each process, and for other threads that do something."""
        before, handled = self._tasks(), self._handled()
        time.sleep(seconds)
        after, count = self._tasks(), self._handled() - handled
        rows = []
        for key, (cpu, waits) in after.items():
            cpu_before, waits_before = before.get(key, (0.0, 0))
            if waits - waits_before > LEAST_SHOWN * count or cpu - cpu_before > 0.001 * seconds:
                row = f"{key[0]} | {key[1]} | {(waits - waits_before) / count:.2f} |"
                each = (cpu - cpu_before) / count * 1e6
                rows.append(f"{row} {each:.2f} |" if with_times else row)
        return rows

    def _tasks(self) -> dict[tuple[str, str], tuple[float, int]]:
        """CPU seconds and number of waits, by process and thread."""
        found: dict[tuple[str, str], tuple[float, int]] = {}
        for name, pid in self._pids.items():
            for task in Path(f"/proc/{pid}/task").iterdir():
                cpu = int((task / "schedstat").read_text().split()[0]) / 1e9
                waits = _field((task / "status").read_text(), "voluntary_ctxt_switches")
                key = name, "main" if task.name == str(pid) else "others"
                cpu_before, waits_before = found.get(key, (0.0, 0))
                found[key] = cpu + cpu_before, waits + waits_before
        return found


def _field(status: str, name: str) -> int:
    return int(status.partition(f"\n{name}:")[2].split()[0])


def _is_traced(pid: int) -> bool:
    return _field(Path(f"/proc/{pid}/status").read_text(), "TracerPid") > 0


def _summary(table: str, messages: int) -> str:
    """The sum of strace's table, and its largest rows."""
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table, re.M)
    calls = {name: int(count) / messages for count, name in rows if name != "total"}
    shown = [f"{name} {each:.2f}" for name, each in calls.items() if each >= LEAST_SHOWN]
    return f"{sum(calls.values()):.2f} | {', '.join(shown)}"
