from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw import settings as s
from wsraw.settings import Listen, Settings


def test_no_options_are_the_defaults() -> None:
    assert s.from_options({}) == Settings()


def test_options_are_taken() -> None:
    settings = s.from_options({"ping_interval": 3, "listen": ["[::1]:0"], "deflate": False})
    assert settings.ping_interval == 3.0
    assert settings.listen == ("[::1]:0",)
    assert settings.deflate is False


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"ping_interval": -1}, "ping_interval: Expected `float` >= 0.0"),
        ({"ping_interval": math.nan}, "ping_interval"),
        ({"stop_timeout": math.inf}, "stop_timeout: inf is no number"),
        ({"max_message_size": 0}, "max_message_size: Expected `int` >= 1"),
        ({"dispatch": "some"}, "dispatch: Invalid enum value 'some'"),
        ({"deflate": "yes"}, "deflate: Expected `bool`"),
        ({"deflate_window_bits": 8}, "deflate_window_bits: Expected `int` >= 9"),
        ({"deflate_level": 10}, "deflate_level: Expected `int` <= 9"),
        ({"max_frame_size": 2 << 20}, "max_frame_size"),
        ({"colour": "red"}, "colour: there is no such setting"),
        ({"listen": []}, "listen: at least one"),
        ({"listen": ["8000"]}, "listen: '8000': write HOST:PORT"),
        ({"workers": ["a.py", "b.py"]}, "workers: one handlers file a run"),
        ({"workers": ["a.py:0"]}, "workers: 'a.py:0': the number of processes"),
        ({"low_water_mark": 9, "high_water_mark": 8}, "low_water_mark (9) must not be above"),
    ],
)
def test_wrong_options_give_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        s.from_options(values)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_json_carries_settings_unchanged() -> None:
    settings = s.from_options({"listen": ["unix:/tmp/ä"], "stop_timeout": 0.5, "workers": ["x:2"]})
    assert s.from_json(s.to_json(settings)) == settings


@pytest.mark.parametrize("text", ["", "{", '{"ping_interval": -1}', "[]"])
def test_json_that_is_no_settings_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not settings"):
        s.from_json(text)


def test_with_run_dir_changes_that_alone() -> None:
    settings = Settings(stop_timeout=3.0)
    assert s.with_run_dir(settings, "/x") == Settings(stop_timeout=3.0, run_dir="/x")


# --- listen ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Listen(name="", host="127.0.0.1", port=8000)),
        ("localhost:0", Listen(name="", host="localhost", port=0)),
        ("[::1]:65535", Listen(name="", host="::1", port=65535)),
        ("unix:/run/x.sock", Listen(name="", path="/run/x.sock")),
        ("raw://h:1", Listen(name="", host="h", port=1, protocol="raw")),
        ("ws://h:1", Listen(name="", host="h", port=1, protocol="websocket")),
        ("websocket://h:1", Listen(name="", host="h", port=1, protocol="websocket")),
        ("raw://unix:x", Listen(name="", path="x", protocol="raw")),
        (
            "h:1?first_byte_timeout=0.5&plain_http=health",
            Listen(name="", host="h", port=1, first_byte_timeout=0.5, plain_http="health"),
        ),
    ],
)
def test_listen_is_read(text: str, expected: Listen) -> None:
    listen = s.parse_listen(text)
    for field in Listen.__struct_fields__:
        assert getattr(listen, field) == (text if field == "name" else getattr(expected, field))


def test_listen_takes_from_settings_what_it_does_not_say() -> None:
    settings = Settings(first_byte_timeout=2.0, plain_http="reject")
    assert s.parse_listen("h:1", settings).first_byte_timeout == 2.0
    assert s.parse_listen("h:1?plain_http=raw", settings).plain_http == "raw"
    assert s.parse_listen("h:1?plain_http=raw", settings).first_byte_timeout == 2.0


@pytest.mark.parametrize(
    ("text", "tls", "protocol"),
    [
        ("h:1", "required", "any"),
        ("tls://h:1", "required", "raw"),
        ("wss://h:1", "required", "websocket"),
        ("wss://h:1?tls=optional", "optional", "websocket"),
        ("ws://h:1", "off", "websocket"),
        ("raw://h:1", "off", "raw"),
        ("raw://h:1?tls=optional", "optional", "raw"),
        ("h:1?tls=off", "off", "any"),
        ("h:1?tls=optional", "optional", "any"),
    ],
)
def test_where_tls_is_spoken(text: str, tls: str, protocol: str) -> None:
    listen = s.parse_listen(text, Settings(tls_cert=("cert.pem",)))
    assert (listen.tls, listen.protocol) == (tls, protocol)
    assert listen.tls_cert == ("cert.pem",)


def test_without_a_certificate_nothing_speaks_tls_unless_it_is_asked_for() -> None:
    assert s.parse_listen("h:1").tls == "off"
    for tls in ("optional", "required"):
        with pytest.raises(ValueError, match="TLS needs a certificate"):
            s.parse_listen("h:1", Settings(tls=tls))


def test_a_listener_with_certificates_of_its_own_has_no_other_keys() -> None:
    settings = Settings(tls_cert=("a", "b"), tls_key=("c", "d"))
    assert s.tls_pairs(s.parse_listen("h:1?tls_cert=x", settings)) == [s.TlsPair((), "x", "")]
    own = s.parse_listen("h:1?tls_cert=x&tls_key=y", settings)
    assert s.tls_pairs(own) == [s.TlsPair((), "x", "y")]


def test_certificates_are_for_the_names_in_front_of_them() -> None:
    certs = ("a=b/c.pem", "Example.org,*.example.org=d.pem", "x.y=./z=.pem")
    listen = s.parse_listen("h:1", Settings(tls_cert=certs, tls_key=("1", "2", "3")))
    assert s.tls_pairs(listen) == [
        s.TlsPair(("a",), "b/c.pem", "1"),
        s.TlsPair(("example.org", "*.example.org"), "d.pem", "2"),
        s.TlsPair(("x.y",), "./z=.pem", "3"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8000",
        ":8000",
        "h:",
        "h:x",
        "h:-1",
        "h:65536",
        "h:²",
        "::1:8000",
        "[]:80",
        "unix:",
        "http://h:1",
        "wss://h:1",
        "tls://h:1?tls=required",
        "h:1?tls=maybe",
        "h:1?tls=auto&tls_cert=a&tls_key=b&tls_key=c",
        "wss://h:1?tls=off&tls_cert=a",
        "h:1?tls_cert=",
        "h:1?tls_cert=a&tls_cert=b",
        "h:1?tls_cert=a&tls_client_auth=required",
        "h:1?tls_cert=a&tls_client_ca=ca",
        "h:1?tls_cert=a&tls=optional&first_byte_timeout=1",
        "h:1?tls_cert=a&tls_min_version=1.1",
        "h:1?colour=red",
        "h:1?plain_http=maybe",
        "h:1?first_byte_timeout=soon",
        "h:1?first_byte_timeout=-1",
        "h:1?first_byte_timeout=inf",
        "h:1?first_byte_timeout=",
    ],
)
def test_a_wrong_listen_is_refused_with_its_own_words(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        s.parse_listen(text)
    assert str(caught.value).startswith(f"listen: {text!r}: ")


@given(st.text())
def test_any_listen_is_read_or_refused(text: str) -> None:
    try:
        assert s.parse_listen(text).name == text
    except ValueError as error:
        assert str(error).startswith("listen: ")


# --- workers ---


@pytest.mark.parametrize(
    ("text", "file", "count"),
    [
        ("handlers.py", "handlers.py", 1),
        ("handlers.py:4", "handlers.py", 4),
        ("dir/a:b.py", "dir/a:b.py", 1),
        (r"C:\handlers.py", r"C:\handlers.py", 1),
        (r"C:\handlers.py:12", r"C:\handlers.py", 12),
        ("x:²", "x:²", 1),
    ],
)
def test_workers_are_read(text: str, file: str, count: int) -> None:
    assert s.parse_workers(text) == (file, count)


@pytest.mark.parametrize("text", ["", ":4", "h.py:0", "h.py:1001"])
def test_wrong_workers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="workers: "):
        s.parse_workers(text)


# --- the link to other machines ---

KEYS = {"link_key": "gateway.key", "worker_keys": "workers"}


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:7788", "tcp://127.9.9.9:0", "tcp://[::1]:7788"])
def test_on_loopback_the_link_needs_no_keys(text: str) -> None:
    assert s.from_options({"worker_listen": (text,)}).worker_listen == (text,)


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:7788", "tcp://[::]:7788", "tcp://10.0.0.1:1"])
def test_beyond_it_does(text: str) -> None:
    with pytest.raises(ValueError, match=r"worker_listen: .* is open to the network: make keys"):
        s.from_options({"worker_listen": ("tcp://127.0.0.1:1", text)})
    assert s.from_options({"worker_listen": (text,), **KEYS})
    assert s.from_options({"worker_listen": (text,), "insecure_link": True})


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1:7788", "tcp://10.0.0.1", "tcp://gateway:7788", "tcp://*:7788", "tcp://::1:7788",
        "tcp://[10.0.0.1]:7788", "tcp://10.0.0.1:99999", "tcp://10.0.0.1:x", "ipc:///tmp/x", "",
        "tcp://[::1:7788",
    ],
)  # fmt: skip
def test_worker_listen_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match="write tcp://ADDRESS:PORT"):
        s.from_options({"worker_listen": (text,), **KEYS})


@pytest.mark.parametrize(("given", "missing"), [tuple(KEYS), tuple(KEYS)[::-1]])
def test_one_half_of_the_keys_is_not_enough(given: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"{given}: {missing} is needed, too"):
        s.from_options({given: "x"})


def test_keys_that_nobody_asks_for() -> None:
    """Else all seems well, and the workers elsewhere wait for ever."""
    with pytest.raises(ValueError, match=r"link_key: nobody listens .* give --worker-listen"):
        s.from_options(dict(KEYS))


def test_a_heartbeat_in_reason() -> None:
    with pytest.raises(ValueError, match="worker_heartbeat: at most"):
        s.from_options({"worker_heartbeat": 61.0})
    assert s.from_options({"worker_heartbeat": 0.0}).worker_heartbeat == 0


# --- who may come in ---


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
            "does not go with raw://",
        ),
        (
            {
                "listen": ("h:1?proxy_protocol=optional",),
                "first_byte_timeout": 1.0,
                "trusted_proxies": ("unix",),
            },
            "does not go with raw://",
        ),
    ],
)
def test_wrong_doors_are_refused_with_advice(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        s.from_options(options)
    assert words in str(caught.value)


def test_a_listener_has_its_own_proxy_protocol() -> None:
    settings = s.from_options(
        {
            "listen": ("raw://h:1?proxy_protocol=required", "h:2"),
            "trusted_proxies": ("10.0.0.0/8", "unix"),
        }
    )
    asked = [s.parse_listen(text, settings).proxy_protocol for text in settings.listen]
    assert asked == ["required", "off"]
