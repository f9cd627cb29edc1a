"""Network namespaces around a switch, for a cluster: one for NATS, one for each node. Linux, root.

A link can be cut silently: packets just do not arrive. TCP is the kernel's.
"""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

from benchmarks.netns import CannotMake, do, missing, sweep

NETWORK = "198.51.100"
HUB_AT = f"{NETWORK}.1"


class Star:
    """The namespaces `hub` and `nodes`, which are removed when the block ends. Raises
    CannotMake.
    """

    def __init__(self, count: int) -> None:
        lacks = missing()
        if lacks:
            raise CannotMake(lacks)
        self.hub = f"wsraw-star-{os.getpid()}-hub"
        self.nodes = [f"wsraw-star-{os.getpid()}-{n}" for n in range(count)]

    def __enter__(self) -> Star:
        sweep(r"wsraw-star-(\d+)-\w+")
        try:
            self._make()
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

    def _make(self) -> None:
        for namespace in (self.hub, *self.nodes):
            do("ip", "netns", "add", namespace)
            do("ip", "-n", namespace, "link", "set", "lo", "up")
        do("ip", "-n", self.hub, "link", "add", "switch", "type", "bridge")
        do("ip", "-n", self.hub, "address", "add", f"{HUB_AT}/24", "dev", "switch")
        do("ip", "-n", self.hub, "link", "set", "switch", "up")
        for n, namespace in enumerate(self.nodes):
            peer = ("peer", "name", "net", "netns", namespace)
            do("ip", "-n", self.hub, "link", "add", f"port{n}", "type", "veth", *peer)
            self.heal(n)
            do("ip", "-n", self.hub, "link", "set", f"port{n}", "up")
            do("ip", "-n", namespace, "address", "add", f"{NETWORK}.{n + 2}/24", "dev", "net")
            do("ip", "-n", namespace, "link", "set", "net", "up")

    def cut(self, n: int) -> None:
        """Unplug the cable of a node from the switch; both ends still have a carrier."""
        do("ip", "-n", self.hub, "link", "set", f"port{n}", "nomaster")

    def heal(self, n: int) -> None:
        do("ip", "-n", self.hub, "link", "set", f"port{n}", "master", "switch")

    def _remove(self) -> None:
        for namespace in (*self.nodes, self.hub):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def inside(namespace: str) -> tuple[str, ...]:
    """The prefix of a command that runs in a namespace."""
    return ("ip", "netns", "exec", namespace)
