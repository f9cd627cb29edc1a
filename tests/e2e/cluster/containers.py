"""Run the services of a compose file without a container engine. Each service has a network
namespace and a root folder of its own: an overlay over this machine's files. Linux, root.

Networks with their subnets, names of services, mounted files, read-only roots and dropped
capabilities are as in the file. Images are not: programs of this machine run under the paths that
the images use.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.netns import CannotMake, do, missing, sweep
from tests.running import ROOT

OUTSIDE = "outside"
"""The namespace of the clients, which reach only published ports."""


class Image(NamedTuple):
    """The parts of an image that matter to a service."""

    programs: Mapping[str, str]
    """A path in the image → the shell line that runs there."""
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    """UID:GID."""
    files: Mapping[str, Path] = {}
    """A path in the image → a file of this machine."""


class Composed:
    """Networks and services of a compose file. Raises CannotMake."""

    def __init__(self, file: Path, told: dict[str, Any], folder: Path) -> None:
        lacks = missing()
        if lacks:
            raise CannotMake(lacks)
        if "overlay" not in Path("/proc/filesystems").read_text():
            raise CannotMake("this kernel has no overlayfs")
        self._file = file
        self._services: dict[str, dict[str, Any]] = told["services"]
        self._folder = folder
        self._begin = f"wsraw-compose-{os.getpid()}"
        self.addresses: dict[tuple[str, str], str] = {}
        """(service, network) → address."""
        self._subnets: dict[str, ipaddress.IPv4Network] = {}
        for number, (name, network) in enumerate(told["networks"].items()):
            config = (network or {}).get("ipam", {}).get("config", [{}])[0]
            subnet = config.get("subnet", f"198.18.{number}.0/24")
            self._subnets[name] = ipaddress.IPv4Network(subnet)
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Composed:
        sweep(r"wsraw-compose-(\d+)-[\w-]+")
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
        for process in self._running:
            process.kill()
            process.wait()
        self._remove()

    # --- networks ---

    def namespace(self, service: str) -> str:
        return f"{self._begin}-{service}"

    def _make(self) -> None:
        hub = self.namespace("hub")
        do("ip", "netns", "add", hub)
        for number, network in enumerate(self._subnets):
            do("ip", "-n", hub, "link", "add", f"net{number}", "type", "bridge")
            do("ip", "-n", hub, "link", "set", f"net{number}", "up")
            assert network
        # A container engine publishes ports on all its addresses; here they are on the service's
        # own address.
        published = [
            network
            for service in self._services.values()
            if "ports" in service
            for network in service["networks"]
            if network != "inside"
        ]
        joined = {name: each["networks"] for name, each in self._services.items()}
        port = 0
        for service, networks in {**joined, OUTSIDE: published}.items():
            do("ip", "netns", "add", self.namespace(service))
            do("ip", "-n", self.namespace(service), "link", "set", "lo", "up")
            for network in networks:
                self._plug(service, network, networks, port)
                port += 1

    def _plug(self, service: str, network: str, networks: Any, port: int) -> None:
        number, subnet = list(self._subnets).index(network), self._subnets[network]
        fixed = networks[network].get("ipv4_address") if isinstance(networks, dict) else None
        taken = {at for (_, where), at in self.addresses.items() if where == network}
        address = fixed or next(str(at) for at in list(subnet)[2:] if str(at) not in taken)
        assert address not in taken
        assert ipaddress.IPv4Address(address) in subnet
        self.addresses[service, network] = address
        hub, inner = self.namespace("hub"), self.namespace(service)
        peer = ("peer", "name", f"eth{number}", "netns", inner)
        do("ip", "-n", hub, "link", "add", f"port{port}", "type", "veth", *peer)
        do("ip", "-n", hub, "link", "set", f"port{port}", "master", f"net{number}")
        do("ip", "-n", hub, "link", "set", f"port{port}", "up")
        place = f"{address}/{subnet.prefixlen}"
        do("ip", "-n", inner, "address", "add", place, "dev", f"eth{number}")
        do("ip", "-n", inner, "link", "set", f"eth{number}", "up")

    def _remove(self) -> None:
        for name in (*self._services, OUTSIDE, "hub"):
            words = ["ip", "netns", "delete", self.namespace(name)]
            subprocess.run(words, capture_output=True, check=False)

    # --- services ---

    def start(self, service: str, image: Image) -> subprocess.Popen[bytes]:
        """Start a service's command in its root folder; `log` has the output."""
        told = self._services[service]
        root = self._folder / service
        root.mkdir()
        script = self._script(service, told, image, root)
        words = ["ip", "netns", "exec", self.namespace(service), "unshare", "--mount"]
        with self.log(service).open("wb") as log:
            process = subprocess.Popen(
                [*words, "sh", "-ec", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._running.append(process)
        return process

    def log(self, service: str) -> Path:
        return self._folder / f"{service}.log"

    def _script(self, service: str, told: dict[str, Any], image: Image, root: Path) -> str:
        top = f"{root}/root"
        lines = [
            "mount --make-rprivate /",
            f"mount -t tmpfs tmpfs {root}",
            f"mkdir {root}/upper {root}/work {top}",
            f"mount -t overlay overlay {top} -o "
            f"lowerdir=/,upperdir={root}/upper,workdir={root}/work",
            *(f"mount --rbind /{name} {top}/{name}" for name in ("proc", "dev", "sys")),
        ]
        for needed in {str(ROOT), sys.prefix, sys.base_prefix}:
            # The folder may be on another file system, and any user of the service must be able to
            # enter it.
            there = f"{top}{needed}"
            lines.append(f"mkdir -p {there}")
            lines.append(f'[ -n "$(ls -A {there})" ] || mount --rbind {needed} {there}')
            folders = [str(each) for each in [Path(needed), *Path(needed).parents][:-1]]
            lines.append(f"chmod o+rx {' '.join(top + each for each in folders)}")
        names = ["127.0.0.1 localhost"] + [
            f"{at} {name}"
            for (name, network), at in self.addresses.items()
            if network in told["networks"] and name != OUTSIDE
        ]
        lines.append(f"printf '%s\\n' {shlex.join(names)} > {top}/etc/hosts")
        for path, line in image.programs.items():
            lines.append(f"mkdir -p {Path(top + path).parent}")
            lines.append(f"printf '#!/bin/sh\\n%s\\n' {shlex.quote(line)} > {top}{path}")
            lines.append(f"chmod 755 {top}{path}")
        mounted = dict(image.files)
        for volume in told.get("volumes", ()):
            source, target, mode = volume.split(":")
            assert mode == "ro"
            mounted[target] = (self._file.parent / source).resolve(strict=True)
        for path, source in mounted.items():
            lines += [
                f"mkdir -p {Path(top + path).parent}",
                f"cp {source} {top}{path}",
                f"chmod 444 {top}{path}",
            ]
        lines += [f"mount -t tmpfs tmpfs {top}{each}" for each in told.get("tmpfs", ())]
        if told.get("read_only"):
            lines.append(f"mount -o remount,ro {top}")
        uid, _, gid = image.user.partition(":")
        drop = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        if "ALL" in told.get("cap_drop", ()):
            drop += ["--bounding-set=-all", "--inh-caps=-all"]
        if "no-new-privileges:true" in told.get("security_opt", ()):
            drop.append("--no-new-privs")
        command = [*image.entrypoint, *(told.get("command") or image.command)]
        path = "/opt/wsraw/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = ["chroot", top, "setpriv", *drop, "env", "-i", f"PATH={path}", *command]
        return "\n".join([*lines, f"exec {shlex.join(words)}"])

    def outside(self, *words: str) -> list[str]:
        """The prefix of a command that runs where the clients are."""
        return ["ip", "netns", "exec", self.namespace(OUTSIDE), *words]
