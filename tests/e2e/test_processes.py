"""The libraries that the processes of a run load, and the threads that they have.

A run whose workers are all on its machine speaks ZMTP from its own loops: libzmq would cost each
process its start-up time, its memory and two threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import DEADLINE
from tests.e2e.remote import RemoteWorker
from tests.e2e.serving import Serving, linux, serve
from tests.needs import HAS_SIGNALS
from tests.running import environment, wsraw

pytestmark = linux

Write = Callable[[str], Path]

LOADED = """
import sys
{kind} on_message(msg, con):
    return "\\n".join(sorted(sys.modules))
"""
"""Handlers that return the modules that their process has imported."""

KINDS = {"plain": "def", "asyncio": "async def"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serving(kind: str, handlers: Write) -> Iterator[Serving]:
    """A run with one worker of this kind, which has handled an event."""
    with serve(handlers(LOADED.format(kind=KINDS[kind]))) as serving:
        yield serving


def loaded(serving: Serving) -> set[str]:
    """The modules that the worker has imported."""
    with serving.ws() as client:
        client.send("?")
        return set(str(client.recv(DEADLINE)).split())


def processes(serving: Serving) -> dict[str, int]:
    """Name → pid of all processes in a run with one worker."""
    return {
        "supervisor": serving.run.process.pid,
        "gateway": serving.gateway,
        "worker": serving.worker(1),
    }


def mapped(pid: int) -> set[str]:
    """The names of the files that a process has mapped, which include all its libraries."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {os.path.basename(line.split(maxsplit=5)[5]) for line in lines if "/" in line}


def libzmq(pid: int) -> set[str]:
    return {name for name in mapped(pid) if "zmq" in name}


def openssl(pid: int) -> set[str]:
    return {name for name in mapped(pid) if name.startswith(("_hashlib", "_ssl", "libcrypto"))}


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_no_process_of_a_run_without_remote_workers_loads_libzmq(serving: Serving) -> None:
    modules = loaded(serving)
    assert {name: libzmq(pid) for name, pid in processes(serving).items()} == {
        "supervisor": set(), "gateway": set(), "worker": set(),
    }  # fmt: skip
    assert "zmq" not in modules
    assert serving.status()["gateway"]["answers"]


def test_a_plain_worker_imports_neither_asyncio_nor_ssl(serving: Serving, kind: str) -> None:
    modules = loaded(serving)
    assert ("asyncio" in modules) == (kind == "asyncio")
    assert ("ssl" in modules) <= (kind == "asyncio")
    assert not {"click", "websockets"} & modules


def test_no_process_of_a_run_without_tls_loads_openssl(serving: Serving, kind: str) -> None:
    """OpenSSL takes 5 MiB in each process. Python has its own SHA-1 for handshakes; only asyncio
    loads ssl.
    """
    loaded(serving)
    found = {name: openssl(pid) for name, pid in processes(serving).items()}
    if kind == "asyncio":
        assert found.pop("worker")
    assert not set().union(*found.values()), found


LIGHT = {
    "wsraw.gateway.gateway": ("ssl", "tempfile", "shutil", "websockets", "click"),
    "wsraw.workers.process": ("ssl", "tempfile", "shutil", "websockets", "click", "asyncio"),
    "wsraw.supervisor.supervisor": ("ssl", "websockets", "click", "asyncio"),
    "wsraw.supervisor.control.client": ("ssl", "websockets", "click", "logging"),
}
"""Modules that load with a run, or with a command about a run, and the imports that they avoid."""


@pytest.mark.parametrize("module", LIGHT)
def test_a_process_starts_without_what_it_does_not_need(module: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"],
        env=environment(),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    modules = set(told.stdout.split())
    assert not modules & {*LIGHT[module], "importlib.metadata", "hashlib", "dataclasses", "email"}


def test_each_process_has_only_the_threads_that_wait_for_it(serving: Serving, kind: str) -> None:
    """The supervisor has its loop, the writer of the log, and two threads for each of two
    children (for their output and their end; Windows cannot select on pipes). The gateway has
    only its loop and, where there are no signals, a thread that waits for the end of stdin. A
    worker has its handlers, a thread that waits for the end of stdin and, with plain handlers,
    one that sends acks while a handler takes long.
    """
    loaded(serving)
    gateway = 1 if HAS_SIGNALS else 2
    want = {"supervisor": 6, "gateway": gateway, "worker": 3 if kind == "plain" else 2}
    assert {name: threads(pid) for name, pid in processes(serving).items()} == want


EMBEDDED = """
import sys
from wsraw.workers.embedded_threads import Worker
with Worker(run_dir=sys.argv[1]) as worker:
    worker.ready(float(sys.argv[2]))
    print(*sys.modules)
"""


def test_a_program_with_an_embedded_worker_loads_no_libzmq(handlers: Write) -> None:
    with serve(handlers(LOADED.format(kind="def"))) as serving:
        told = subprocess.run(
            [sys.executable, "-c", EMBEDDED, str(serving.folder), str(DEADLINE)],
            env=environment(),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=2 * DEADLINE,
            check=True,
        )
    modules = set(told.stdout.split())
    assert "wsraw.workers.shells.local_dealer" in modules
    assert "zmq" not in modules


def test_a_worker_that_is_started_by_hand_on_this_machine_loads_no_libzmq(handlers: Write) -> None:
    file = handlers(LOADED.format(kind="def"))
    with serve(None, "--workers=none", workers=0) as serving:
        assert serving.folder is not None
        with RemoteWorker(f"--run-dir={serving.folder}", handlers=file) as worker:
            modules = loaded(serving)
            assert "zmq" not in modules
            assert not libzmq(worker.process.pid)


def test_a_gateway_with_remote_workers_loads_libzmq(handlers: Write) -> None:
    """The counterpart: libzmq is found in this gateway, and in no other process of the run."""
    file = handlers(LOADED.format(kind="def"))
    with serve(file, "--worker-listen=tcp://127.0.0.1:0") as serving:
        loaded(serving)
        assert libzmq(serving.gateway)
        assert threads(serving.gateway) > 1
        found = {name for name, pid in processes(serving).items() if libzmq(pid)}
        assert found == {"gateway"}


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_command_to_a_run_loads_no_libzmq(command: str, handlers: Write) -> None:
    listing = ["env", "PYTHONPROFILEIMPORTTIME=1"]
    with serve(handlers(LOADED.format(kind="def"))) as serving:
        told = wsraw(command, f"--run-dir={serving.folder}", before=listing)
        assert told.returncode == 0, told.stderr
        modules = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
        assert "wsraw.supervisor.control.client" in modules
        assert not {name for name in modules if name.split(".")[0] in ("zmq", "asyncio", "ssl")}


def test_libzmq_and_threads_of_a_process_are_found_where_they_are() -> None:
    """The counterpart of the tests above: this process has libzmq, and so more than one thread."""
    before = threads(os.getpid())
    with zmq.Context() as context, context.socket(zmq.DEALER):
        assert libzmq(os.getpid())
        assert threads(os.getpid()) > before
