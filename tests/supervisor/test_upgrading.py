"""What an upgrade does with changed settings, and what it reports."""

from __future__ import annotations

from typing import Any

import pytest

from wsraw.config.settings import PoolSettings, Settings, replaced
from wsraw.supervisor import upgrading


def changed(old: Settings | None = None, **values: Any) -> upgrading.Change:
    old = old or Settings()
    return upgrading.Change(old, replaced(old, **values))


def test_the_answer_says_how_each_setting_takes_effect() -> None:
    change = changed(
        max_message_size=5000,
        handler_timeout=9.0,
        stop_timeout=9.0,
        run_dir="elsewhere",
        tls_cert=("cert.pem",),
        admin_token="file",
        workers=("chat.py:3",),
        node="here",
    )
    text = change.in_words()
    assert text.startswith("settings have changed: ")
    assert set(text.removeprefix("settings have changed: ").split("; ")) == {
        "workers: by starting and stopping workers",
        "tls_cert, max_message_size: by the upgrade of the gateway",
        "handler_timeout: by the upgrade of the gateway and new workers",
        "node: by the upgrade of the gateway and a new agent",
        "stop_timeout: at once",
        "admin_token: by a new admin process",
        "run_dir: at the next start of the run",
    }
    assert change.new.run_dir == ""
    assert change.new.node == "here"


@pytest.mark.parametrize(
    ("values", "needs_gateway", "needs_workers"),
    [
        ({"tls_cert": ("cert.pem",)}, True, False),
        ({"concurrency": 7}, True, True),
        ({"run_dir": "there", "stop_timeout": 9.0}, False, False),
        ({"max_memory": 1000, "log_format": "json", "admin": "127.0.0.1:9"}, False, False),
        ({"workers": ("chat.py:3",)}, False, False),
        ({"pools": (PoolSettings(name="chat"),)}, True, False),
    ],
)
def test_a_changed_setting_replaces_only_the_processes_that_use_it(
    values: dict[str, Any], needs_gateway: bool, needs_workers: bool
) -> None:
    change = changed(**values)
    assert change.needs_gateway is needs_gateway
    assert change.needs_workers is needs_workers


def test_other_workers_of_a_pool_need_no_gateway() -> None:
    old = Settings(pools=(PoolSettings(name="chat", workers=("chat.py",)),))
    more = PoolSettings(name="chat", workers=("chat.py:3",))
    assert not changed(old, pools=(more,)).needs_gateway
    assert changed(old, pools=(replaced(more, dispatch="any"),)).needs_gateway


def test_where_no_gateway_can_be_upgraded_its_settings_wait() -> None:
    old = Settings()
    change = upgrading.Change(old, Settings(max_message_size=5000, stop_timeout=9.0), False)
    assert not change.needs_gateway
    assert change.new == Settings(stop_timeout=9.0)
    assert "max_message_size: at the next start of the run" in change.in_words()


def test_every_name_is_a_setting() -> None:
    of_workers, of_admin = upgrading.OF_WORKERS, upgrading.OF_ADMIN
    groups = (upgrading.OF_SUPERVISOR, of_workers, of_admin, upgrading.OF_AGENT)
    assert set(Settings.__struct_fields__) >= frozenset((upgrading.OF_RUN,)).union(*groups)
    assert not upgrading.OF_SUPERVISOR & (of_workers | of_admin | upgrading.OF_AGENT)


def test_the_settings_that_differ_are_named() -> None:
    assert changed(stop_timeout=1.0, max_message_size=5000).names == [
        "max_message_size",
        "stop_timeout",
    ]
    assert changed().names == []
    assert changed().in_words() == ""


def test_an_upgrade_is_told_in_words() -> None:
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
        "now; process 11 keeps encrypting for 3 TLS connections, for 1.0 h at most; 2 "
        "connections could not be moved and are closed"
    )
