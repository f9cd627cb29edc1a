"""examples/cluster without containers: its settings, its HAProxy and its NATS, at other
addresses.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.sync.client import connect

from tests.deadline import DEADLINE, eventually
from tests.e2e.cluster import nats_server
from tests.e2e.cluster.nats_server import NatsServer
from tests.e2e.cluster.test_cluster import cluster_of, wait_for
from tests.e2e.serving import ROOT, Serving, linux, serve
from tests.ports import free_port

pytestmark = linux

FOLDER = ROOT / "examples" / "cluster"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GATEWAYS = ("gateway-1", "gateway-2")


def options(name: str, nats: NatsServer) -> list[str]:
    """The options of a gateway; addresses of this machine replace the names of containers."""
    told: list[str] = COMPOSE["services"][name]["command"][1:]
    other = {
        "--cluster=nats://nats:4222": f"--cluster={nats.url}",
        "--trusted-proxies=172.31.77.0/24": "--trusted-proxies=127.0.0.1",
    }
    left = [word for word in told if not word.startswith(("--workers=", "--listen="))]
    assert set(other) <= set(left)
    return [other.get(word, word) for word in left]


@contextmanager
def haproxy(tmp_path: Path, gateways: list[Serving]) -> Iterator[int]:
    port = free_port()
    text = (FOLDER / "haproxy.cfg").read_text().replace("bind :8000", f"bind 127.0.0.1:{port}")
    for name, gateway in zip(GATEWAYS, gateways, strict=True):
        host, place = gateway.addresses[0]
        assert f" {name}:8000 " in text
        text = text.replace(f" {name}:8000 ", f" {host}:{place} ")
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    proxy = subprocess.Popen(["haproxy", "-db", "-f", file])
    try:
        yield port
    finally:
        proxy.kill()
        proxy.wait()


def test_the_example_serves_one_room_at_two_gateways(tmp_path: Path) -> None:
    nats_server.need()
    if shutil.which("haproxy") is None:
        must = os.environ.get("WSRAW_TEST_PROXIES") == "must"
        (pytest.fail if must else pytest.skip)("no haproxy here")
    with ExitStack() as stack:
        nats = stack.enter_context(NatsServer(tmp_path, "-c", str(FOLDER / "nats.conf")))
        chat = ROOT / "examples" / "chat.py"
        gateways = [
            stack.enter_context(serve(chat, *options(name, nats), workers=2)) for name in GATEWAYS
        ]
        for each in gateways:
            wait_for(each, "connected", 1)
        assert [cluster_of(each)["node"] for each in gateways] == list(GATEWAYS)
        port = stack.enter_context(haproxy(tmp_path, gateways))

        def is_up() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        eventually(is_up, "haproxy to listen")
        url = f"ws://127.0.0.1:{port}/"
        webs = [
            stack.enter_context(connect(url, proxy=None, open_timeout=DEADLINE)) for _ in range(4)
        ]
        counts = [each.status()["gateway"]["connections"]["websocket"] for each in gateways]
        assert counts == [2, 2], "leastconn"
        large = "x" * 1_000_000
        eventually(
            lambda: all(cluster_of(each)["subscriptions"] for each in gateways), "subscriptions"
        )
        webs[0].send(large)
        for web in webs[1:]:
            while large not in str(web.recv(timeout=DEADLINE)):
                pass


def test_the_files_of_the_example_fit_each_other() -> None:
    services = COMPOSE["services"]
    for name in GATEWAYS:
        command = services[name]["command"]
        assert command[0] == "run"
        assert f"--node={name}" in command
        assert [word for word in command if "--node" not in word] == [
            word for word in services[GATEWAYS[0]]["command"] if "--node" not in word
        ]
        subnet = COMPOSE["networks"]["inside"]["ipam"]["config"][0]["subnet"]
        assert f"--trusted-proxies={subnet}" in command
        assert list(services[name]["networks"]) == ["inside"]
    for service, file in (("haproxy", "haproxy.cfg"), ("nats", "nats.conf")):
        assert f"./{file}:" in services[service]["volumes"][0]
        assert (FOLDER / file).is_file()
    docker = (FOLDER / "Dockerfile").read_text()
    for path in re.findall(r"^COPY (?!--from)(.*) \S+$", docker, re.M):
        for each in path.split():
            assert (ROOT / each).exists(), each
    assert services["gateway-1"]["build"]["dockerfile"] == "examples/cluster/Dockerfile"
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    assert {"examples", "wsraw", "pyproject.toml"} <= set(kept)
