from __future__ import annotations

import pytest

from wsraw.tools.connect.plan import Plan, PlanError, Target, check, parse_headers, parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "handshake", "shown"),
    [
        ("ws://h", "h", 80, "ws://h/", "ws://h/"),
        ("wss://h/a/b", "h", 443, "wss://h/a/b", "wss://h/a/b"),
        ("ws://h:8000/?token=7", "h", 8000, "ws://h:8000/?token=7", "ws://h:8000/?..."),
        ("ws://u:p@h/", "h", 80, "ws://u:p@h/", "ws://h/"),
        ("ws://[::1]:9/x", "::1", 9, "ws://[::1]:9/x", "ws://[::1]:9/x"),
    ],
)
def test_a_websocket_url_is_read_and_shown_without_secrets(
    url: str, host: str, port: int, handshake: str, shown: str
) -> None:
    has_tls = url.startswith("wss")
    assert parse_url(url) == Target(True, has_tls, host, port, "", handshake, shown)


@pytest.mark.parametrize("scheme", ["tcp", "raw", "tls"])
def test_the_url_of_a_stream_has_host_and_port(scheme: str) -> None:
    found = parse_url(f"{scheme}://h:7")
    assert (found.is_websocket, found.has_tls) == (False, scheme == "tls")
    assert (found.host, found.port, found.shown) == ("h", 7, f"{scheme}://h:7")


@pytest.mark.parametrize(
    ("url", "socket", "handshake", "shown"),
    [
        ("unix:/run/a.sock", "/run/a.sock", "", "unix:/run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock", "", "unix:/run/a.sock"),
        ("unix:a.sock", "a.sock", "", "unix:a.sock"),
        ("ws+unix:/a.sock", "/a.sock", "ws://localhost/", "ws+unix:/a.sock:/"),
        ("ws+unix:///a:/p?q=1", "/a", "ws://localhost/p?q=1", "ws+unix:/a:/p?..."),
        ("wss+unix:a:/p", "a", "wss://localhost/p", "wss+unix:a:/p"),
    ],
)
def test_the_url_of_a_unix_socket_may_have_a_path_for_the_handshake(
    url: str, socket: str, handshake: str, shown: str
) -> None:
    found = parse_url(url)
    assert (found.unix, found.url, found.shown) == (socket, handshake, shown)
    assert found.has_tls == url.startswith("wss")


def test_another_host_replaces_that_of_the_url_in_the_handshake_only() -> None:
    found = parse_url("wss://u:p@10.0.0.1:8443/x", "example.org")
    assert (found.host, found.port) == ("10.0.0.1", 8443)
    assert found.url == "wss://u:p@example.org/x"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("localhost:8000", "write ws://localhost:8000 for a WebSocket"),
        ("http://h/", "write ws://… instead"),
        ("https://h/", "write wss://… instead"),
        ("ftp://h/", "write ws://HOST:PORT/PATH"),
        ("", "write ws://HOST:PORT/PATH"),
        ("ws://", "no host"),
        ("ws://:80/", "no host"),
        ("ws://h:x/", "Port could not be cast"),
        ("ws://h:99999/", "out of range"),
        ("ws://[::1/", "Invalid IPv6"),
        ("ws://h/#x", "%23"),
        ("ws://u@h/", "USER:PASSWORD@HOST"),
        ("tcp://h", "tcp://h:PORT"),
        ("tls://h:1/path", "for a WebSocket write wss://"),
        ("tcp://u:p@h:1", "for a WebSocket write ws://"),
        ("unix:", "names no socket"),
        ("ws+unix::/p", "names no socket"),
        ("ws+unix:/a:p", "write ws+unix:SOCKET:/PATH"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, hint: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_url(url)
    assert hint in str(error.value)


@pytest.mark.parametrize("url", ["u:secret@h:1", "http://u:secret@h/?secret", "ws://h:x/?secret"])
def test_the_error_of_a_url_shows_no_secrets(url: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_url(url)
    assert "secret" not in str(error.value)


def test_headers_are_read_as_name_and_value() -> None:
    assert parse_headers(("A: 1", "B:x: y", "C:")) == (("A", "1"), ("B", "x: y"), ("C", ""))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("secret", "write NAME: VALUE"),
        ("a b: secret", "write NAME: VALUE"),
        ("a: secret\r\nB: c", "must be one line"),
        ("Origin: https://secret", "--origin"),
        ("Sec-WebSocket-Protocol: secret", "--subprotocol"),
    ],
)
def test_a_wrong_header_says_what_to_write_and_quotes_no_value(text: str, hint: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_headers((text,))
    assert hint in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "options", "hint"),
    [
        ("tcp://h:1", {"headers": (("A", "b"),)}, "--header is for WebSockets only"),
        ("tcp://h:1", {"origin": "https://h"}, "--origin is for WebSockets only"),
        ("unix:a", {"ping": 1.0}, "--ping is for WebSockets only"),
        ("ws://h", {"crlf": True}, "--crlf is not for WebSockets"),
        ("ws://h", {"insecure": True}, "--insecure is for TLS only"),
        ("tcp://h:1", {"ca": "file"}, "--ca is for TLS only"),
        ("ws://h", {"subprotocols": ("a b",)}, "--subprotocol"),
        ("ws://h", {"origin": "a\nb"}, "--origin"),
    ],
)
def test_options_that_do_not_fit_the_url_are_refused(
    url: str, options: dict[str, object], hint: str
) -> None:
    with pytest.raises(PlanError) as error:
        check(Plan(target=parse_url(url), **options))  # type: ignore[arg-type]
    assert hint in str(error.value)
