"""Two network namespaces, and a network between them that can be slow, lossy, or cut. Linux, root.

The network is a veth pair with netem. If the kernel has no netem, wire.py delays and drops whole
packets instead. TCP is the kernel's in both cases.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from benchmarks import wire

DEVICE = "bad0"
GATEWAY_AT, WORKERS_AT = "192.0.2.1", "192.0.2.2"
HELD = 10_000
"""Packets that netem may hold; its default of 1000 would lose packets."""


class CannotMake(Exception):  # noqa: N818
    """The network cannot be made here; the text says what is missing."""


def missing() -> str:
    """What this machine lacks, or ""."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid():
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    return ""


class Namespaces:
    """The namespaces `gateway` and `workers`, which are removed when the block ends. Raises
    CannotMake.
    """

    def __init__(self, kind: str = "auto") -> None:
        """`kind` is netem, tun, or auto for the first of these that works here."""
        lacks = missing()
        if lacks:
            raise CannotMake(lacks)
        self.gateway, self.workers = (f"wsraw-{os.getpid()}-{of}" for of in ("gateway", "workers"))
        self.how = ""
        """A description of the network."""
        self._kind = kind
        self._wire: subprocess.Popen[str] | None = None

    def __enter__(self) -> Namespaces:
        sweep(r"wsraw-(\d+)-(?:gateway|workers)")
        try:
            for namespace in (self.gateway, self.workers):
                do("ip", "netns", "add", namespace)
                do("ip", "-n", namespace, "link", "set", "lo", "up")
            self._connect()
            for namespace, at in self._ends():
                do("ip", "-n", namespace, "address", "add", f"{at}/30", "dev", DEVICE)
                do("ip", "-n", namespace, "link", "set", DEVICE, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.gateway, GATEWAY_AT), (self.workers, WORKERS_AT)

    def _connect(self) -> None:
        why = ""
        if self._kind != "tun":
            why = self._try_netem()
            if not why:
                self.how = "a veth pair with netem"
                return
            if self._kind == "netem":
                raise CannotMake(why)
        if not Path("/dev/net/tun").exists():
            raise CannotMake(f"{why or 'tun'}; and there is no /dev/net/tun to do without")
        self._start_wire()
        self.how = f"two tun devices and benchmarks/wire.py{f' ({why})' if why else ''}"

    def _try_netem(self) -> str:
        """Try netem; returns why it does not work, or ""."""
        if shutil.which("tc") is None:
            return "there is no `tc`: install iproute2"
        peer = ("peer", "name", DEVICE, "netns", self.workers)
        do("ip", "-n", self.gateway, "link", "add", DEVICE, "type", "veth", *peer)
        try:
            self._shape_netem(0.0, 0.0)
        except CannotMake as error:
            do("ip", "-n", self.gateway, "link", "delete", DEVICE)
            if "unknown" in str(error):
                return "this kernel has no netem"
            return str(error)
        return ""

    def _start_wire(self) -> None:
        places = (f"{self.gateway}:{DEVICE}", f"{self.workers}:{DEVICE}")
        self._wire = subprocess.Popen(
            [sys.executable, "-I", "-S", wire.__file__, *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Only this process handles Ctrl-C.
            process_group=0,
        )
        self._hear_wire()

    def _hear_wire(self) -> None:
        assert self._wire is not None
        assert self._wire.stdout is not None
        if self._wire.stdout.readline() != "ok\n":
            raise CannotMake("wire.py has ended; its traceback is above")

    # --- faults of the network ---

    def shape(self, delay: float, loss: float) -> None:
        """Set the delay in seconds and the loss from 0 to 1, both in each direction; a loss of 1
        cuts the network.
        """
        if self._wire is None:
            self._shape_netem(delay, loss)
            return
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"{delay} {loss}\n")
        self._wire.stdin.flush()
        self._hear_wire()

    def _shape_netem(self, delay: float, loss: float) -> None:
        what = ("delay", f"{delay * 1000:g}ms", "loss", f"{loss * 100:g}%", "limit", str(HELD))
        for namespace, _ in self._ends():
            do("tc", "-n", namespace, "qdisc", "replace", "dev", DEVICE, "root", "netem", *what)

    def set_up(self, is_up: bool) -> None:
        """Unplug the workers' end, or plug it in again."""
        do("ip", "-n", self.workers, "link", "set", DEVICE, "up" if is_up else "down")

    # --- the end ---

    def _remove(self) -> None:
        if self._wire is not None:
            self._wire.kill()
            self._wire.wait()
            for stream in (self._wire.stdin, self._wire.stdout):
                assert stream is not None
                stream.close()
        for namespace in (self.gateway, self.workers):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def sweep(pattern: str) -> None:
    """Remove namespaces that killed processes have left. The first group of the pattern is the
    process's pid.
    """
    for name in do("ip", "netns", "list").split():
        found = re.fullmatch(pattern, name)
        if found and not Path(f"/proc/{found[1]}").exists():
            do("ip", "netns", "delete", name)


def do(*words: str) -> str:
    """Run a command; returns its output. Raises CannotMake."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMake(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
