"""The dialog with a proxy, cut anywhere; no bytes of the target are taken."""

from __future__ import annotations

import pytest

from wsraw.gateway.sockets.proxy_handshake import LONGEST_HEAD, HttpConnect, Socks5, handshake_with
from wsraw.link.open_options import Proxy, Target, parse_proxy

TARGET = Target("example.org", 5900, "")
SOCKS = Proxy("socks5", "p", 1080)
LOGIN = Proxy("socks5", "p", 1080, "ann", "pw")
HTTP = Proxy("http", "p", 3128)
FIRST = b"RFB 003.008\n"
"""The target sends this at once."""


def talk(
    said: HttpConnect | Socks5, answers: list[bytes], cut: int = 1 << 30
) -> tuple[list[bytes], bytes]:
    """The bytes that are written before each answer, and the rest of those that were received."""
    wrote = []
    rest = b""
    for answer in answers:
        wrote.append(said.output)
        said.output = b""
        for start in range(0, len(answer), cut):
            piece = answer[start : start + cut]
            if said.done or said.error:
                rest += piece
                continue
            used = said.receive_data(piece)
            rest += piece[used:]
    return wrote, rest


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1 << 30])
def test_a_socks_proxy_connects_to_the_target(cut: int) -> None:
    said = handshake_with(SOCKS, TARGET)
    wrote, rest = talk(said, [b"\5\0", b"\5\0\0\1\1\2\3\4\0\7" + FIRST], cut)
    assert wrote == [b"\5\1\0", b"\5\1\0\3\x0bexample.org\x17\x0c"]
    assert (said.done, said.error, rest) == (True, "", FIRST)


@pytest.mark.parametrize("cut", [1, 1 << 30])
def test_socks_carries_a_login(cut: int) -> None:
    said = handshake_with(LOGIN, TARGET)
    answers = [b"\5\2", b"\1\0", b"\5\0\0\3\4name\0\7" + FIRST]
    wrote, rest = talk(said, answers, cut)
    assert wrote[:2] == [b"\5\2\0\2", b"\1\3ann\2pw"]
    assert (said.done, rest) == (True, FIRST)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", b"\1\xc0\0\2\7"),
        ("::1", b"\4" + b"\0" * 15 + b"\1"),
        ("fe80::1%eth0", b"\4\xfe\x80" + b"\0" * 13 + b"\1"),
        ("bücher.example", b"\3\x15xn--bcher-kva.example"),
    ],
)
def test_a_socks_proxy_is_told_each_kind_of_address(host: str, address: bytes) -> None:
    said = handshake_with(SOCKS, Target(host, 1, ""))
    wrote, _ = talk(said, [b"\5\0", b""])
    assert wrote[1] == b"\5\1\0" + address + b"\0\1"


@pytest.mark.parametrize(
    ("proxy", "answers", "error"),
    [
        (SOCKS, [b"HT"], "does not speak SOCKS 5"),
        (SOCKS, [b"\5\xff"], "needs a login"),
        (SOCKS, [b"\5\2"], "needs a login"),
        (LOGIN, [b"\5\2", b"\1\1"], "rejects this user and password"),
        (SOCKS, [b"\5\0", b"\5\5\0\1\0\0\0\0\0\0"], "the target refused"),
        (SOCKS, [b"\5\0", b"\5\x63\0\1\0\0\0\0\0\0"], "error 99"),
        (SOCKS, [b"\5\0", b"\4\0\0\1\0"], "does not speak SOCKS 5"),
        (SOCKS, [b"\5\0", b"\5\0\0\7\0"], "an unknown kind"),
        (HTTP, [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"], "needs a login"),
        (HTTP, [b"HTTP/1.0 403 no\r\nA: b\r\n\r\n"], "does not allow this target"),
        (HTTP, [b"HTTP/1.1 500 Oops\r\n\r\n"], "answered 500 Oops"),
        (HTTP, [b"SSH-2.0-x\r\n"], "does not speak HTTP"),
        (HTTP, [b"HTTP/1.1 abc\r\n\r\n"], "does not speak HTTP"),
        (HTTP, [b"HTTP/1.1 200 ok\r\n" + b"A: b\r\n" * LONGEST_HEAD], "has no end"),
    ],
)
@pytest.mark.parametrize("cut", [1, 1 << 30])
def test_what_a_proxy_refuses_is_said_in_words(
    proxy: Proxy, answers: list[bytes], error: str, cut: int
) -> None:
    said = handshake_with(proxy, TARGET)
    talk(said, answers, cut)
    assert error in said.error
    assert not said.done


@pytest.mark.parametrize("cut", [1, 5, 1 << 30])
@pytest.mark.parametrize("status", [b"HTTP/1.1 200 Connection established", b"HTTP/1.0 200"])
def test_an_http_proxy_connects_to_the_target(cut: int, status: bytes) -> None:
    said = handshake_with(HTTP, TARGET)
    wrote, rest = talk(said, [status + b"\r\nVia: x\r\n\r\n" + FIRST], cut)
    assert wrote == [b"CONNECT example.org:5900 HTTP/1.1\r\nHost: example.org:5900\r\n\r\n"]
    assert (said.done, said.error, rest) == (True, "", FIRST)


def test_connect_carries_a_login_and_an_ipv6_address() -> None:
    said = handshake_with(Proxy("http", "p", 1, "ann", "p:w"), Target("::1", 443, ""))
    assert said.output.startswith(b"CONNECT [::1]:443 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic YW5uOnA6dw==\r\n" in said.output


def test_the_url_of_a_proxy_is_read_or_refused_with_a_reason() -> None:
    assert parse_proxy("socks5://a%40b:c%3Ad@h") == Proxy("socks5", "h", 1080, "a@b", "c:d")
    assert parse_proxy("socks5h://h:1") == Proxy("socks5", "h", 1)
    assert parse_proxy("http://[::1]:3128/").shown == "http://[::1]:3128"
    for text, why in (
        ("h:1", "write a proxy as http://HOST:PORT or socks5://"),
        ("https://h:1", "TLS to a proxy is not supported"),
        ("http://u:secret@", "write a proxy as http://HOST:PORT"),
        ("http://h:0", "write a proxy as"),
        (f"http://{'u' * 256}@h", "more than 255 bytes"),
    ):
        with pytest.raises(ValueError, match=why) as wrong:
            parse_proxy(text)
        assert "secret" not in str(wrong.value)
