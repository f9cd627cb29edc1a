"""Messages to a service manager, which is a datagram socket here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import unix_sockets
from wsraw.supervisor.service_manager.notifier import Notifier, ServiceState

pytestmark = unix_sockets


class Manager:
    """A service manager that keeps its messages."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        """The messages so far; on one machine they arrive without delay."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.fixture
def log() -> list[str]:
    return []


def notifier(manager: Manager, log: list[str], **variables: str) -> Notifier:
    environ = {"NOTIFY_SOCKET": manager.socket.getsockname(), **variables}
    return Notifier(environ, lambda level, text: log.append(f"{level}: {text}"))


def test_each_state_is_told_once(manager: Manager, log: list[str]) -> None:
    told = notifier(manager, log)
    told.enter(ServiceState.STARTING)
    assert manager.heard() == []
    told.enter(ServiceState.READY)
    told.enter(ServiceState.READY)
    assert manager.heard() == ["READY=1"]
    before = time.monotonic_ns() // 1000
    told.enter(ServiceState.RELOADING)
    told.enter(ServiceState.READY)
    told.enter(ServiceState.STOPPING)
    reloading, ready, stopping = manager.heard()
    word, stamp = reloading.split("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before <= int(stamp) <= time.monotonic_ns() // 1000
    assert (ready, stopping) == ("READY=1", "STOPPING=1")
    assert not log


def test_the_status_is_told_when_it_changes(manager: Manager, log: list[str]) -> None:
    told = notifier(manager, log)
    told.enter(ServiceState.READY)
    told.describe("4 of 4")
    told.describe("4 of 4")
    told.describe("3 of 4")
    assert manager.heard() == ["READY=1", "STATUS=4 of 4", "STATUS=3 of 4"]


def test_a_long_start_or_stop_asks_for_more_time_again_and_again(
    manager: Manager, log: list[str]
) -> None:
    told = notifier(manager, log)
    told.describe("0 of 4")
    told.describe("0 of 4")
    assert manager.heard() == [
        "STATUS=0 of 4\nEXTEND_TIMEOUT_USEC=15000000", "EXTEND_TIMEOUT_USEC=15000000"
    ]  # fmt: skip
    told.enter(ServiceState.READY)
    told.describe("0 of 4")
    told.enter(ServiceState.STOPPING)
    told.describe("0 of 4")
    assert manager.heard() == ["READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"]


@pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="no abstract sockets here")
def test_an_abstract_socket_is_written_with_an_at_sign(log: list[str]) -> None:
    name = f"wsraw-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    try:
        told = Notifier({"NOTIFY_SOCKET": f"@{name}"}, lambda level, text: log.append(text))
        told.enter(ServiceState.READY)
        assert manager.heard() == ["READY=1"]
    finally:
        manager.socket.close()


def test_programs_of_handlers_do_not_get_the_variables(tmp_path: Path, log: list[str]) -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"
    }  # fmt: skip
    Notifier(environ, lambda level, text: None)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [("3000000", "", 1.5), ("3000000", "ours", 1.5), ("3000000", "1", 0.0),
     ("", "", 0.0), ("x", "", 0.0)],
)  # fmt: skip
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(
    manager: Manager, log: list[str], usec: str, pid: str, interval: float
) -> None:
    pid = pid.replace("ours", str(os.getpid()))
    told = notifier(manager, log, WATCHDOG_USEC=usec, WATCHDOG_PID=pid)
    assert told.watchdog_interval == interval
    told.keep_alive()
    assert manager.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize("path", ["", "vsock:2:9999", "relative"])
def test_without_a_socket_nothing_is_told(path: str, log: list[str]) -> None:
    told = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}, lambda *_: log.append(""))
    assert told.watchdog_interval == 0
    told.enter(ServiceState.READY)
    told.describe("x")
    assert not log


def test_a_state_that_could_not_be_told_is_told_later(tmp_path: Path, log: list[str]) -> None:
    path = str(tmp_path / "notify")
    told = Notifier({"NOTIFY_SOCKET": path}, lambda level, text: log.append(f"{level}: {text}"))
    told.enter(ServiceState.READY)
    told.enter(ServiceState.READY)
    assert len(log) == 1, "it is logged once"
    assert log[0].startswith("warning: cannot report to the service manager: No such")
    manager = Manager(path)
    try:
        told.enter(ServiceState.READY)
        assert manager.heard() == ["READY=1"]
    finally:
        manager.socket.close()


def test_a_service_manager_that_does_not_read_delays_nothing(
    manager: Manager, log: list[str]
) -> None:
    told = notifier(manager, log)
    for number in range(10_000):
        told.describe(f"{number} workers")
    told.enter(ServiceState.READY)
    assert 0 < len(manager.heard()) < 10_000
    told.enter(ServiceState.READY)
    assert manager.heard() == ["READY=1"]
    assert not log
