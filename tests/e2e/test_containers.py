"""examples/containers: test that its files work, without a container engine.

The steps of the Dockerfile run in a folder, and its commands run with other paths and ports.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.sync.client import connect

from tests.deadline import DEADLINE, UNIT, eventually
from tests.e2e.remote import Keys
from tests.e2e.serving import TIMEOUT, linux
from tests.running import ROOT

pytestmark = linux

FOLDER = ROOT / "examples" / "containers"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = ("gateway", "worker")
NOBODY = "10001"


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of the Dockerfile, by stage."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            name = rest.rpartition(" AS ")[2]
            found[name] = []
        if name:
            found[name].append((word, rest))
    return found


STAGES = stages()


def of(stage: str, word: str) -> list[str]:
    """The arguments of an instruction, those of the stages below included."""
    base = STAGES[stage][0][1].split()[0]
    below = of(base, word) if base in STAGES else []
    return below + [rest for found, rest in STAGES[stage] if found == word]


def command(service: str) -> list[str]:
    """The command that process 1 of a service runs."""
    target = COMPOSE["services"][service]["build"]["target"]
    entry, line = of(target, "ENTRYPOINT")[-1], of(target, "CMD")[-1]
    # The commands are lists: a shell in between would keep signals from wsraw.
    return [*json.loads(entry), *json.loads(line)]


# --- the files fit each other ---


@pytest.mark.parametrize("service", SERVICES)
def test_the_image_is_built_from_this_repository(service: str) -> None:
    build = COMPOSE["services"][service]["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).samefile(FOLDER / "Dockerfile")
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for rest in of("build", "COPY") + of(service, "COPY"):
        if "--from" not in rest:
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists()
                assert name.split("/")[0] in kept


@pytest.mark.parametrize("service", SERVICES)
def test_the_containers_run_without_privileges(service: str) -> None:
    assert of(service, "USER")[-1] == f"{NOBODY}:{NOBODY}"
    said = COMPOSE["services"][service]
    assert said["read_only"]
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_gets_only_the_secrets_that_its_command_names(service: str) -> None:
    named = re.findall(r"/run/secrets/(\S+)", " ".join(command(service)))
    assert sorted(named) == sorted(COMPOSE["services"][service]["secrets"])
    for name in named:
        assert COMPOSE["secrets"][name] == {"file": f"keys/{name}"}


def test_only_the_gateway_is_published_and_both_share_a_network() -> None:
    gateway, worker = (COMPOSE["services"][name] for name in SERVICES)
    assert "ports" not in worker
    assert worker["networks"] == ["link"]
    assert "link" in gateway["networks"]
    assert COMPOSE["networks"]["link"]["internal"]
    [host] = re.findall(r"--connect=tcp://(\w+):", " ".join(command("worker")))
    assert host in COMPOSE["services"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_containers_have_the_time_to_stop_gracefully(service: str) -> None:
    grace = COMPOSE["services"][service]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > 30


# --- the files work ---


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage, run in a folder. Slow: pip downloads the dependencies."""
    folder = tmp_path_factory.mktemp("image")
    places = {"/src": folder / "src", "/dist": folder / "dist", "/opt/wsraw": folder / "opt"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    # In the image python:3.12, `pip` and `python` belong to the same installation.
    tools = folder / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    (tools / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pip "$@"\n')
    (tools / "pip").chmod(0o755)
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    for word, rest in STAGES["build"][1:]:
        if word == "WORKDIR":
            assert rest == "/src"
            places["/src"].mkdir()
        elif word == "COPY":
            *names, where = rest.split()
            for name in names:
                target = places["/src"] / where / (name if where == "./" else "")
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, target)
                else:
                    shutil.copy(ROOT / name, target)
        else:
            assert word == "RUN"
            for said, here in places.items():
                rest = re.sub(rf"{said}\b", str(here), rest)
            subprocess.run(
                ["sh", "-ec", rest],
                cwd=places["/src"],
                env=environment,
                check=True,
                timeout=300 * UNIT,
            )
    return places["/opt/wsraw"] / "bin"


@pytest.mark.long
def test_the_commands_of_the_images_work_outside_a_container(image: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.add("worker", allow=False)
    log, run_dir = tmp_path / "log", tmp_path / "run"
    places = {
        "/run/secrets": str(keys.folder),
        "/app/handlers.py": str(ROOT / "examples" / "echo.py"),
        "0.0.0.0:8000": "127.0.0.1:0",
        "0.0.0.0:7788": "127.0.0.1:0",
        "/tmp/wsraw": str(run_dir),
    }

    def start(name: str) -> subprocess.Popen[bytes]:
        words = command(name)
        for said, here in places.items():
            words = [word.replace(said, here) for word in words]
        assert words[0] == "wsraw"
        return subprocess.Popen(
            [image / "wsraw", *words[1:]], cwd="/", stdin=subprocess.DEVNULL, stderr=stream
        )

    def said(pattern: str) -> str:
        found = eventually(lambda: re.search(pattern, log.read_text()), pattern)
        return str(found and found[1])

    with log.open("wb") as stream:
        processes = [start("gateway")]
        try:
            port = said(r"listening on ws://127\.0\.0\.1:(\d+).*; ready")
            places["tcp://gateway:7788"] = said(r"connect to (tcp://\S+) \(with keys\)")
            processes.append(start("worker"))
            with connect(f"ws://127.0.0.1:{port}/", proxy=None, open_timeout=TIMEOUT) as client:
                client.send("hello")
                assert client.recv(TIMEOUT) == "hello"
            assert health(image, places) == 0
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE) == 0
            # The counterpart: a health check that always fails.
            assert health(image, places) != 0
        finally:
            for process in processes:
                process.kill()
                process.wait()


def health(image: Path, places: dict[str, str]) -> int:
    [line] = of("gateway", "HEALTHCHECK")
    words = line.partition("CMD ")[2]
    assert words.startswith("wsraw ")
    for said, here in places.items():
        words = words.replace(said, here)
    path = f"{image}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", words],
        env=os.environ | {"PATH": path},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode
