"""Settings that cannot be tested in memory are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.running import ROOT
from wsraw.config.checks import from_options
from wsraw.config.settings import Settings
from wsraw.testing import App
from wsraw.testing.checks import UNTESTED, check

REFUSED: list[tuple[str, dict[str, object]]] = [
    ("bridges", {"workers": "h.py", "bridges": ["/vnc=tcp://127.0.0.1:5900"]}),
    ("static", {"static": "public"}),
    ("trusted_proxies", {"trusted_proxies": ["127.0.0.1"]}),
    ("trusted_proxies", {"trusted_proxies": ["unix"], "proxy_protocol": "required"}),
    ("connect_proxy", {"connect_proxy": "http://127.0.0.1:3128"}),
    ("max_connections", {"max_connections": 1}),
    ("max_connections_per_address", {"max_connections_per_address": 5}),
    ("message_rate", {"message_rate": 1, "rate_action": "close"}),
    ("byte_rate", {"byte_rate": "1KiB"}),
    ("max_events", {"max_events": 10}),
    ("max_memory", {"max_memory": "1GiB"}),
    ("cluster", {"cluster": ["nats://127.0.0.1:4222"]}),
    ("listen", {"listen": ["127.0.0.1:8000", "127.0.0.1:8001"]}),
    ("tls", {"tls_cert": ["cert.pem"]}),
    ("tls", {"listen": ["wss://127.0.0.1:8000"], "tls_cert": ["cert.pem"]}),
    ("tls", {"listen": ["127.0.0.1:8000?tls_cert=cert.pem&tls=optional"]}),
]


@pytest.mark.parametrize(("name", "given"), REFUSED)
def test_what_an_app_cannot_do_is_refused(name: str, given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*wsraw_server"):
        check(from_options(given))


def test_all_of_them_are_tried() -> None:
    assert set(UNTESTED) < {name for name, _ in REFUSED}


@pytest.mark.parametrize(
    "given",
    [
        {name: getattr(Settings(), name) for name in UNTESTED if name != "bridges"},
        {"max_connections_per_address": 0, "rate_burst": "2s", "tls_min_version": "1.3"},
        {"tls_cert": ["cert.pem"], "tls": "off"},
        {"listen": ["raw://127.0.0.1:9000"], "log_level": "debug", "admin": "127.0.0.1:0"},
    ],
)
def test_what_no_handler_can_tell_is_taken(given: dict[str, object]) -> None:
    check(from_options(given))


def test_an_app_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "handlers.py"
    file.write_text("def on_message(msg, con): pass\n")
    with pytest.raises(ValueError, match="message_rate: an App does nothing with it"):
        App(file, message_rate=1.0)
    App(file).close()


def test_the_page_names_them() -> None:
    text = (ROOT / "docs/testing.md").read_text("utf-8")
    section = text.partition("cannot show:")[2].partition("\n\nTo check")[0]
    assert set(re.findall(r"`([a-z_]+)`", section)) >= set(UNTESTED)
