"""What an upgrade does with settings and listening sockets, and what it says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.needs import unix_sockets
from wsraw.config.settings import Settings
from wsraw.supervisor import upgrading


def test_how_each_setting_takes_effect() -> None:
    names = ["max_message_size", "handler_timeout", "stop_timeout", "run_dir", "tls_cert"]
    assert upgrading.effects(names) == (
        "max_message_size, tls_cert: by the upgrade of the gateway; "
        "handler_timeout: by the upgrade of the gateway and new workers; "
        "stop_timeout: at once; run_dir: at the next start of the run"
    )
    assert upgrading.needs_gateway(["tls_cert"])
    assert not upgrading.needs_gateway(["run_dir", "stop_timeout"])
    assert upgrading.needs_workers(["concurrency"])
    assert not upgrading.needs_workers(["tls_cert"])


def test_every_name_is_a_setting() -> None:
    known = set(Settings.__struct_fields__)
    assert known >= upgrading.OF_RUN | upgrading.OF_SUPERVISOR | upgrading.OF_WORKERS


def test_what_has_changed() -> None:
    old, new = Settings(), Settings(stop_timeout=1.0, max_message_size=5000)
    assert upgrading.changed(old, new) == ["max_message_size", "stop_timeout"]
    assert upgrading.changed(old, old) == []


def test_in_words() -> None:
    data = {
        "pause": 0.0123,
        "connections": 1005,
        "moved": 1003,
        "workers": 4,
        "pumped": 3,
        "pid": 11,
    }
    assert upgrading.in_words(data, 12, 3600.0) == (
        "upgraded: 1,003 connections and 4 workers moved, pause 12 ms; the gateway is process 12 "
        "now; process 11 goes on encrypting for 3 TLS connections, for 1.0 h at most; 2 "
        "connections could not be moved and are closed"
    )


def test_sockets_stay_and_new_addresses_are_opened() -> None:
    first = Settings(listen=("127.0.0.1:0",))
    bound, new = upgrading.sockets_for(first, [])
    try:
        assert bound == new
        again, more = upgrading.sockets_for(Settings(listen=("127.0.0.1:0", "[::1]:0")), bound)
        assert again[0][0] is bound[0][0]
        assert [sock.family for sock, _ in more] == [socket.AF_INET6]
        upgrading.close(more)
    finally:
        upgrading.close(bound)


@unix_sockets
def test_an_address_that_is_in_use_leaves_nothing_open(tmp_path: Path) -> None:
    free = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            upgrading.sockets_for(Settings(listen=(f"unix:{free}", f"127.0.0.1:{port}")), [])
    assert not free.exists()
