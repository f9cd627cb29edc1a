"""Run the commands of examples/cluster/compose.yaml with the names, subnets and files of that file.

Only building and pulling images is left to a container engine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.netns import CannotMake
from tests.deadline import DEADLINE, eventually
from tests.e2e.cluster import nats_server
from tests.e2e.cluster.containers import Composed, Image
from tests.e2e.cluster.test_example import COMPOSE, FOLDER, GATEWAYS
from tests.e2e.serving import ROOT, linux
from tests.running import command

pytestmark = linux


def copied() -> dict[str, Path]:
    """The files that the last stage of the Dockerfile copies out of the repository."""
    found = {}
    last = (FOLDER / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    for sources, target in re.findall(r"^COPY (?!--from)(.*) (\S+)$", last, re.M):
        for source in sources.split():
            path = target + Path(source).name if target.endswith("/") else target
            found[path] = ROOT / source
    return found


PYTHON = f'exec {sys.executable} -P -m wsraw "$@"'

IMAGES = {
    # Each service has the entrypoint, the command and the user of its Dockerfile.
    "haproxy:2.9": Image(
        {"/usr/local/bin/docker-entrypoint.sh": 'shift; exec haproxy -W -db "$@"'},
        ("docker-entrypoint.sh",),
        ("haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"),
        "99:99",
    ),
    "nats:2.10": Image(
        {"/nats-server": 'exec nats-server "$@"'},
        ("/nats-server",),
        ("--config", "nats-server.conf"),
        "0:0",
    ),
    "": Image(
        {"/opt/wsraw/bin/wsraw": PYTHON},
        ("wsraw",),
        (),
        "10001:10001",
        copied(),
    ),
}


def need() -> None:
    nats_server.need()
    if shutil.which("haproxy") is None:
        must = os.environ.get("WSRAW_TEST_PROXIES") == "must"
        (pytest.fail if must else pytest.skip)("no haproxy here")


class Talker:
    """`wsraw connect`, run where the clients are."""

    def __init__(self, composed: Composed, url: str, log: Path) -> None:
        self._log = log
        words = composed.outside(*command("connect", url))
        with log.open("wb") as out:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out)

    def say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def heard(self, text: str) -> bool:
        return text in self._log.read_text("utf-8")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


@pytest.mark.long
def test_the_services_serve_one_room(tmp_path: Path) -> None:
    need()
    services = COMPOSE["services"]
    with ExitStack() as stack:
        try:
            composed = Composed(FOLDER / "compose.yaml", COMPOSE, tmp_path)
            stack.enter_context(composed)
        except CannotMake as error:
            pytest.skip(str(error))
        running = {
            name: composed.start(name, IMAGES[told.get("image", "")])
            for name, told in services.items()
        }

        def said(service: str, text: str) -> None:
            eventually(
                lambda: (
                    text in composed.log(service).read_text("utf-8")
                    or (running[service].poll() is not None and _ended(composed, service))
                ),
                f"{text!r} of {service}; see {composed.log(service)}",
            )

        said("nats", "Server is ready")
        for name in GATEWAYS:
            said(name, "connected to NATS at nats:4222")
            other = next(each for each in GATEWAYS if each != name)
            said(name, f"node {other} is there")
        [port] = services["haproxy"]["ports"]
        url = f"ws://{composed.addresses['haproxy', 'clients']}:{port.partition(':')[0]}/"
        talkers = [Talker(composed, url, tmp_path / f"talker-{n}.log") for n in range(4)]
        try:
            for talker in talkers:
                eventually(lambda t=talker: t.heard("has come"), "a client to be let in")  # type: ignore[misc]
            for number, talker in enumerate(talkers):
                talker.say(f"line {number}")
                for each in talkers:
                    eventually(
                        lambda t=each, n=number: t.heard(f": line {n}"),  # type: ignore[misc]
                        f"line {number}",
                    )
        finally:
            for talker in talkers:
                talker.close()
        # Stop the service as `docker compose stop` does.
        for name in GATEWAYS:
            running[name].send_signal(signal.SIGTERM)
        for name in GATEWAYS:
            assert running[name].wait(DEADLINE) == 0, composed.log(name).read_text("utf-8")


def _ended(composed: Composed, service: str) -> bool:
    raise AssertionError(f"{service} has ended:\n{composed.log(service).read_text('utf-8')}")


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose here")
def test_compose_reads_the_file() -> None:
    done = subprocess.run(
        ["docker-compose", "-f", FOLDER / "compose.yaml", "config", "-q"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
