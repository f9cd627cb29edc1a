from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.link.open_options import Opening, check, parse_target
from wsraw.link.records import Open
from wsraw.link.rules import OF_REQUESTS


def asked(target: str = "h:1", protocol: str = "websocket", **fields: Any) -> Opening:
    return check(Open(1, target, protocol, **fields))


# --- the request ---


@pytest.mark.parametrize(
    ("target", "fields", "path", "headers"),
    [
        # The default port is left out (RFC 9110, section 4.2).
        ("example.com:80", {}, "/", {"Host": "example.com"}),
        ("example.com:443", {}, "/", {"Host": "example.com:443"}),
        ("tls://example.com:443", {}, "/", {"Host": "example.com"}),
        ("tls://example.com:80", {}, "/", {"Host": "example.com:80"}),
        ("ws://h/p?q", {}, "/p?q", {"Host": "h"}),
        ("ws://h:80", {}, "/", {"Host": "h"}),
        ("ws://h:443", {}, "/", {"Host": "h:443"}),
        ("wss://h:443/", {}, "/", {"Host": "h"}),
        ("wss://h?q#f", {}, "/?q", {"Host": "h"}),
        ("ws://[::1]:81#f", {}, "/", {"Host": "[::1]:81"}),
        ("[fe80::1%lo]:81", {}, "/", {"Host": "[fe80::1]:81"}),
        ("ü.example:81", {}, "/", {"Host": "xn--tda.example:81"}),
        ("unix:/run/x", {}, "/", {"Host": "localhost"}),
        ("ws://h/p", {"url": "/u", "host": "other:80"}, "/u", {"Host": "other:80"}),
        ("h:1", {"orig": "http://o"}, "/", {"Host": "h:1", "Origin": "http://o"}),
        ("ws://ann@h", {}, "/", {"Host": "h", "Authorization": "Basic YW5uOg=="}),
        (
            "wss://a%40b:p:%C3%BC@h/@x",
            {},
            "/@x",
            {"Host": "h", "Authorization": "Basic YUBiOnA6w7w="},
        ),
        (
            "ann:secret@h:1",
            {"options": {"headers": {"Host": "mine", "Authorization": "Bearer x"}}},
            "/",
            {"Host": "mine", "Authorization": "Bearer x"},
        ),
    ],
)
def test_the_request_of_an_opened_websocket_has_its_options(
    target: str, fields: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    found = asked(target, **fields)
    assert (found.url, dict(found.headers)) == (path, headers)


@pytest.mark.parametrize("url", ["/a b", "/a\r\nX: y", "no-slash", "/é", "*", "/\0"])
def test_a_target_that_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a url"):
        asked(url=url)


@pytest.mark.parametrize(
    "target",
    ["ws://ann:secret@h:1/", "ann:secret@h:1", "ws://secret@h", "wss://a:b@secret@h/x?y@z"],
)
def test_a_login_in_a_url_is_not_shown(target: str) -> None:
    found = asked(target)
    assert "secret" not in found.shown
    assert "secret" not in str(found.target)


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        ("ann:secret@h:1", "raw"),
        ("tls://ann:secret@h:1", "raw"),
        ("ws://ann:secret@h:x", "raw"),
        ("ws://ann:secret@", "raw"),
        ("ws://ann:sec/secret@h", "raw"),
        ("http://ann:secret@h/", "websocket"),
        ("ann:secret@h", "websocket"),
        ("http://h/?token=secret", "websocket"),
        ("h/x?token=secret", "raw"),
        ("ws://h:x?secret@secret", "raw"),
        ("ann:secret@ü\u0308..:1", "websocket"),
    ],
)
def test_a_login_in_a_url_is_not_shown_in_an_error(target: str, protocol: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        asked(target, protocol)
    assert "secret" not in str(error.value)


# --- unusual options ---

SECRET = "se\ncret"
ODD: list[tuple[str, Any]] = [
    *(("connect_timeout", value) for value in (-1, 1e308, 1e10, math.inf, math.nan, 10**400)),
    *(("connect_timeout", value) for value in ("1", True, b"", [])),
    *((flag, value) for flag in ("reconnect", "deflate", "verify") for value in (1, 0, "yes", [])),
    *((con, value) for con in ("during", "couple") for value in (-1, 1 << 64, "1", True, 1.5, [])),
    *(("name", value) for value in (5, b"x", "x" * 2000, "\ud83d", [], True)),
    *(("headers", value) for value in ("X: y", ["X"], {"X": 1}, {1: "x"}, {"X": b"y"})),
    *(("headers", {name: "x"}) for name in ("X Y", "", "ü", "Upgrade", "sec-websocket-KEY")),
    *(("headers", {"X": value}) for value in (SECRET, "a\rb", "\0", "€", "\ud83d", "x" * 70_000)),
    *(("subprotocols", value) for value in ("chat", ["a b"], [1], 1, [""], ["x" * 70_000])),
    *((pem, value) for pem in ("ca", "cert", "key") for value in (b"x", 1, "x" * (1 << 21))),
    *((pem, value) for pem in ("ca", "cert", "key") for value in ("\ud83d", True)),
    ("key", "x"),
    *(("server_name", value) for value in (1, "a\0b", "a b", ".x", "a..b", "x" * 260)),
    *(("server_name", value) for value in ("ü" * 70, "€\n", "...", "-\ud83d")),
]  # fmt: skip


# The id is in an environment variable meanwhile, which has a limit on Windows.
@pytest.mark.parametrize(("option", "value"), ODD, ids=lambda part: str(part)[:100])
def test_a_wrong_option_is_named_in_the_error(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"option|header|server") as error:
        asked("wss://h:1", options={option: value})
    assert "\n" not in str(error.value)
    assert "cret" not in str(error.value)


def test_nil_options_count_as_missing_and_unknown_ones_are_ignored() -> None:
    names = ("connect_timeout", "reconnect", "deflate", "verify", "name", "headers", "ca", "during")
    options: dict[str, Any] = dict.fromkeys(names)
    found = asked(options={**options, "couple": None, "later": [object]})
    assert found == asked()._replace(couple=0)
    # PHP has one type for lists and maps.
    assert asked(options={"headers": []}) == asked()
    assert asked(options={"connect_timeout": 0, "couple": 7}).couple == 7


@pytest.mark.parametrize(
    "target",
    [
        "localhost\0x:80", "\0:80", "a\0.b.c:80", "unix:a\0b", "unix:\0abc", "x" * 300 + ":80",
        "a b:80", "h\n:80", "tls://.x:1", "h\ud83d:1", "ws://h\ud83d/", "<x>:80",
        "ws://h/\ud83d", "h/x:80", "h?x:80", "[::1:80", "ws://[::1", "h\u00a0:80", "a@b:80",
    ],
)  # fmt: skip
def test_a_wrong_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        asked(target, "raw")
    assert "\n" not in str(error.value)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner),
)
NAMES = sorted({name for name, _ in ODD})


@given(
    st.sampled_from(["h:1", "ws://h/", "tls://h:1", "unix:x"]) | st.text(),
    st.sampled_from(["raw", "websocket"]) | st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.dictionaries(st.sampled_from(NAMES), ANYTHING),
)
def test_any_options_are_accepted_or_raise_value_error(
    target: str, protocol: str, url: str, host: str, orig: str, options: dict[str, Any]
) -> None:
    try:
        found = check(Open(1, target, protocol, url, host, orig, options))
    except ValueError:
        return
    assert found.kind in ("raw", "websocket")
    assert found.connect_timeout is None or 0 <= found.connect_timeout <= 1e9
    assert "\0" not in found.shown
    for name, value in found.headers:
        assert f"{name}: {value}".encode("latin-1").isascii() or value
        assert not {"\r", "\n"} & {*name, *value}


@pytest.mark.parametrize("name", [name.title() for name in sorted(OF_REQUESTS)])
def test_headers_that_the_gateway_writes_itself_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the header {name} is set by the gateway"):
        asked("ws://h/", options={"headers": {name: "1"}})


# --- targets ---


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.org:80", ("example.org", 80, "", False)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535, "", False)),
        ("[::1]:8000", ("::1", 8000, "", False)),
        ("tcp://h:1", ("h", 1, "", False)),
        ("tcp://[fe80::1%lo]:1", ("fe80::1%lo", 1, "", False)),
        ("tls://h:1", ("h", 1, "", True)),
        ("wss://h:9/chat", ("h", 9, "", True)),
        ("wss://h/chat", ("h", 443, "", True)),
        ("wss://[::1]", ("::1", 443, "", True)),
        ("ws://h:9/chat?room=1", ("h", 9, "", False)),
        ("ws://h", ("h", 80, "", False)),
        ("ws://h/chat", ("h", 80, "", False)),
        ("ws://h?room=a:b", ("h", 80, "", False)),
        ("ws://[::1]:9/", ("::1", 9, "", False)),
        ("ws://[::1]/chat", ("::1", 80, "", False)),
        ("ws://[::1]", ("::1", 80, "", False)),
        ("unix:/tmp/s", ("", 0, "/tmp/s", False)),
        ("unix:s", ("", 0, "s", False)),
        ("unix:///tmp/s", ("", 0, "/tmp/s", False)),
        ("unix://s", ("", 0, "s", False)),
    ],
)
def test_a_valid_target_is_parsed(text: str, target: tuple[str, int, str, bool]) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "host:port"),
        ("h", "host:port"),
        (":80", "host:port"),
        ("h:", "host:port"),
        ("h:0", "host:port"),
        ("h:65536", "host:port"),
        ("h:-1", "host:port"),
        ("h:+1", "host:port"),
        ("h:1x", "host:port"),
        ("h: 1", "host:port"),
        ("h:²", "host:port"),
        ("h:٣", "host:port"),
        ("[]:80", "host:port"),
        ("tcp://h", "host:port"),
        ("tcp://:80", "host:port"),
        ("ws://", "host:port"),
        ("ws:///chat", "host:port"),
        ("ws://h:x/", "host:port"),
        ("unix:", "unix:"),
        ("unix://", "unix:"),
        ("tls://h", "host:port"),
        ("wss://h:x/", "host:port"),
        ("http://h/", "ws://"),
        ("udp://h:1", "tcp://"),
        ("://h:1", "tcp://"),
    ],
)
def test_an_invalid_target_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"cannot open {text!r}")) as error:
        parse_target(text)
    assert advice in str(error.value)


@given(st.text() | st.builds("{}{}:{}".format, st.sampled_from(["", "tcp://", "ws://"]), st.text(),
                             st.text("0123456789", max_size=7)))  # fmt: skip
def test_any_text_is_a_target_or_raises_value_error(text: str) -> None:
    try:
        host, port, path, _ = parse_target(text)
    except ValueError:
        return
    assert bool(path) != bool(host and 0 < port < 65536)
