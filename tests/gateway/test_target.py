from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.link.open_options import parse_target


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
