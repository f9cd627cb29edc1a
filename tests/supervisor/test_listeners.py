"""The listening sockets stay open from one gateway to the next."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import unix_sockets
from wsraw.config.settings import Settings
from wsraw.supervisor.listeners import Listeners
from wsraw.supervisor.log import Log
from wsraw.supervisor.service_manager.passed_sockets import PassedSockets

FIRST = Settings(listen=("127.0.0.1:0",))
MORE = Settings(listen=("127.0.0.1:0", "[::1]:0"))


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    log = Log(io.StringIO(), "info")
    listeners = Listeners(FIRST, PassedSockets({}), log, None)
    listeners.open(FIRST, list)
    yield listeners
    listeners.drop_new()
    listeners.close()
    log.close()


def test_sockets_stay_and_new_addresses_are_opened(listeners: Listeners) -> None:
    [(first, _)] = listeners.bound
    listeners.prepare(MORE)
    assert [sock for sock, _ in listeners.bound] == [first]
    listeners.switch()
    assert listeners.bound[0][0] is first
    assert [sock.family for sock, _ in listeners.bound] == [socket.AF_INET, socket.AF_INET6]
    listeners.prepare(FIRST)
    listeners.switch()
    assert [sock for sock, _ in listeners.bound] == [first]


def test_the_sockets_of_an_upgrade_that_is_refused_are_closed(listeners: Listeners) -> None:
    listeners.prepare(MORE)
    new, _ = listeners.next[1]
    listeners.drop_new()
    assert new.fileno() == -1
    assert listeners.bound[0][0].fileno() >= 0


@unix_sockets
def test_an_address_that_is_in_use_leaves_nothing_open(
    listeners: Listeners, tmp_path: Path
) -> None:
    free = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listeners.prepare(Settings(listen=(f"unix:{free}", f"127.0.0.1:{port}")))
    assert not free.exists()


def test_what_is_bound_besides_and_fails_leaves_nothing_open(listeners: Listeners) -> None:
    def fail() -> None:
        raise OSError("an address of the admin process")

    [(sock, _)] = listeners.bound
    with pytest.raises(OSError, match="admin"):
        listeners.open(FIRST, fail)
    assert sock.fileno() == -1
    assert listeners.bound == []


def test_what_clients_connect_to_is_shown_as_urls(listeners: Listeners) -> None:
    listeners.addresses = ["127.0.0.1:80"]
    assert not listeners.has_tls
    assert listeners.urls(FIRST) == ["ws://127.0.0.1:80", "tcp://127.0.0.1:80"]
