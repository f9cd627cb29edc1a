from __future__ import annotations

import math
import re
import sys
from typing import Any

import pytest

from wsraw.config.addresses import parse_listen
from wsraw.config.checks import from_options
from wsraw.config.settings import LARGEST_MESSAGE, LARGEST_REMOTE_MESSAGE, Settings
from wsraw.link.batches import (
    LARGEST_BATCH,
    LARGEST_REMOTE_BATCH,
    RECORD_COST,
    ROOM_FOR_ACKS,
)


def test_settings_without_options_are_the_defaults() -> None:
    assert from_options({}) == Settings()


def test_options_become_settings() -> None:
    settings = from_options({"ping_interval": 3, "listen": ["[::1]:0"], "deflate": False})
    assert settings.ping_interval == 3.0
    assert settings.listen == ("[::1]:0",)
    assert settings.deflate is False


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"ping_interval": -1}, "ping_interval: -1: write a number"),
        ({"ping_interval": math.nan}, "ping_interval"),
        ({"stop_timeout": math.inf}, "stop_timeout: inf: write a number"),
        ({"close_timeout": 1e308}, "close_timeout: 1e+308: write a number"),
        ({"max_message_size": 0}, "max_message_size: 0: write a number"),
        ({"dispatch": "some"}, "dispatch: 'some': write any or sticky"),
        ({"deflate": "maybe"}, "deflate: 'maybe': write true or false"),
        ({"memory_limit": 512}, "memory_limit (512 bytes) must be at least"),
        (
            {"max_message_size": (63 << 20) + 1},
            "max_message_size: 66060289: write",
        ),
        ({"colour": "red"}, "colour: there is no such setting"),
        ({"listen": []}, "listen: at least one"),
        ({"listen": ["8000"]}, "listen: '8000': write HOST:PORT"),
        ({"workers": ["a.py", "a.py:2"]}, "workers: 'a.py' is given twice"),
        ({"workers": ["a.py:0"]}, "workers: 'a.py:0': the number of processes"),
        ({"output_limit": 9}, "output_limit (9) must be at least"),
    ],
)
def test_wrong_options_are_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_options(values)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


# --- the link to other machines ---

KEYS = {"link_key": "gateway.key", "worker_keys": "workers"}


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:7788", "tcp://127.9.9.9:0", "tcp://[::1]:7788"])
def test_on_loopback_the_worker_link_needs_no_keys(text: str) -> None:
    assert from_options({"worker_listen": (text,)}).worker_listen == (text,)


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:7788", "tcp://[::]:7788", "tcp://10.0.0.1:1"])
def test_beyond_loopback_the_worker_link_needs_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"worker_listen: .* is open to the network: make keys"):
        from_options({"worker_listen": ("tcp://127.0.0.1:1", text)})
    assert from_options({"worker_listen": (text,), **KEYS})


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1:7788", "tcp://10.0.0.1", "tcp://gateway:7788", "tcp://*:7788", "tcp://::1:7788",
        "tcp://[10.0.0.1]:7788", "tcp://10.0.0.1:99999", "tcp://10.0.0.1:x", "ipc:///tmp/x", "",
        "tcp://[::1:7788", "tcp://10.0.0.1:" + "1" * 5000,
    ],
)  # fmt: skip
def test_a_wrong_worker_listen_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write tcp://ADDRESS:PORT"):
        from_options({"worker_listen": (text,), **KEYS})


@pytest.mark.parametrize(("given", "missing"), [tuple(KEYS), tuple(KEYS)[::-1]])
def test_half_of_the_link_keys_is_refused(given: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"{given} needs {missing}"):
        from_options({given: "x"})


@pytest.mark.parametrize("above", [0, 1])
def test_a_message_fits_into_a_batch_of_every_worker_that_may_come(above: int) -> None:
    local = {"max_message_size": LARGEST_MESSAGE}
    remote = {"max_message_size": (15 << 20) + above, "worker_listen": ["tcp://127.0.0.1:0"]}
    assert from_options(local).max_message_size == 63 << 20
    if above:
        with pytest.raises(
            ValueError, match=r"max_message_size \(15728641\) .* most 15MiB with wo"
        ):
            from_options(remote)
    else:
        assert from_options(remote).max_message_size == 15 << 20


@pytest.mark.parametrize(
    ("message", "batch"),
    [(LARGEST_MESSAGE, LARGEST_BATCH), (LARGEST_REMOTE_MESSAGE, LARGEST_REMOTE_BATCH)],
)
def test_the_largest_message_is_as_the_link_has_it(message: int, batch: int) -> None:
    assert message == batch - (1 << 20) < batch - ROOM_FOR_ACKS - RECORD_COST


def test_link_keys_without_a_worker_listener_are_refused() -> None:
    """Otherwise the run would start, and remote workers would wait for ever."""
    with pytest.raises(ValueError, match="link_key needs worker_listen"):
        from_options(dict(KEYS))


def test_a_worker_heartbeat_has_an_upper_bound() -> None:
    with pytest.raises(ValueError, match=r"worker_heartbeat: .* at most 60s"):
        from_options({"worker_heartbeat": 61.0})
    assert from_options({"worker_heartbeat": 0.0}).worker_heartbeat == 0


# --- admission ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"origins": ("example.org",)}, "origins: 'example.org': write https://example.org"),
        ({"hosts": ("http://h",)}, "hosts: 'http://h': write example.org"),
        ({"trusted_proxies": ("10.0.0.1/8",)}, "trusted_proxies: '10.0.0.1/8': "),
        ({"proxy_protocol": "required"}, "proxy_protocol needs trusted_proxies"),
        ({"listen": ("h:1?proxy_protocol=optional",)}, "proxy_protocol needs trusted_proxies"),
        (
            {"listen": ("raw://h:1?proxy_protocol=optional",), "trusted_proxies": ("unix",)},
            "does not work with raw://",
        ),
        (
            {
                "listen": ("h:1?proxy_protocol=optional",),
                "first_byte_timeout": 1.0,
                "trusted_proxies": ("unix",),
            },
            "does not work with raw://",
        ),
    ],
)
def test_wrong_admission_options_are_refused_with_advice(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        from_options(options)
    assert words in str(caught.value)


def test_a_listener_has_its_own_proxy_protocol() -> None:
    settings = from_options(
        {
            "listen": ("raw://h:1?proxy_protocol=required", "h:2"),
            "trusted_proxies": ("10.0.0.0/8", "unix"),
        }
    )
    asked = [parse_listen(text, settings).proxy_protocol for text in settings.listen]
    assert asked == ["required", "off"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"admin": "9100"}, "admin: '9100': write HOST:PORT"),
        ({"admin": ":9100"}, "admin: ':9100': write HOST:PORT"),
        ({"admin": "127.0.0.1:99999"}, "admin: '127.0.0.1:99999': write HOST:PORT"),
        ({"admin": "0.0.0.0:9100"}, "admin: '0.0.0.0:9100' can be reached from other machines"),
        ({"admin": "[::]:9100"}, "can be reached from other machines: give admin_token"),
        ({"admin": "example.org:9100"}, "can be reached from other machines"),
        ({"admin_token": "file"}, "admin_token needs the setting admin"),
    ],
)
def test_an_admin_address_is_checked(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        from_options(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_an_admin_address_of_this_machine_alone_needs_no_token(host: str) -> None:
    assert from_options({"admin": f"{host}:9100"}).admin == f"{host}:9100"


NATS = "nats://127.0.0.1:4222"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"node": "a"}, "node needs the setting cluster, as in nats://"),
        ({"cluster_ca": "x"}, "cluster_ca needs the setting cluster"),
        ({"cluster_credentials": "x"}, "cluster_credentials needs the setting cluster"),
        ({"cluster": NATS, "node": "a.b"}, "node: 'a.b': write 1 to 64 letters, digits, - and _"),
        ({"cluster": NATS, "node": "x" * 65}, "node: .*write 1 to 64"),
        ({"cluster": NATS, "cluster_name": "*"}, "cluster_name: '.': write 1 to 64"),
        ({"cluster": NATS, "cluster_name": ""}, "cluster_name: it must not be empty"),
        ({"cluster": [NATS, "tls://h:1"]}, "cluster: write nats:// or tls:// for all servers"),
    ],
    ids=str,
)
def test_wrong_settings_of_a_cluster_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        from_options(values)


@pytest.mark.parametrize(
    "url",
    ["", "h:4222", "nats://h", "nats://:4222", "nats://h:x", "http://h:1", "nats://h:1/x",
     "nats://h:70000", "nats://h:1?tls=on"],
)  # fmt: skip
def test_a_wrong_nats_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"cluster: .*: write nats://HOST:4222, or tls:"):
        from_options({"cluster": [url]})


def test_a_password_in_a_wrong_url_is_not_told() -> None:
    with pytest.raises(ValueError, match="cluster: 'h': write") as caught:
        from_options({"cluster": ["nats://ann:secret@h"]})
    assert "secret" not in str(caught.value)


def test_settings_of_a_cluster_are_taken() -> None:
    made = from_options({"cluster": ["tls://u:p@[::1]:4222", "tls://h:1"], "node": "gateway-1_a"})
    assert made.cluster_name == "wsraw"


@pytest.mark.skipif(sys.platform.startswith("linux"), reason="Linux has it")
def test_reuse_port_is_refused_where_it_does_not_work() -> None:
    with pytest.raises(ValueError, match="reuse_port works only on Linux"):
        from_options({"reuse_port": True})
