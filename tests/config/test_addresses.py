from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.addresses import (
    UNIX,
    Listen,
    Networks,
    TlsPair,
    parse_address,
    parse_listen,
    tls_pairs,
)
from wsraw.config.settings import Settings


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
        ("fd:3", Listen(name="", fd="3")),
        ("fd:web", Listen(name="", fd="web")),
        ("raw://fd:wsraw.socket", Listen(name="", fd="wsraw.socket", protocol="raw")),
        (
            "ws://fd:3?plain_http=health",
            Listen(name="", fd="3", protocol="websocket", plain_http="health"),
        ),
        ("unix:x?mode=0666", Listen(name="", path="x", mode=0o666)),
        ("unix:x?group=www-data", Listen(name="", path="x", mode=0o660, group="www-data")),
        (
            "ws://unix:x?mode=770&group=33&plain_http=health",
            Listen(
                name="", path="x", protocol="websocket", mode=0o770, group="33", plain_http="health"
            ),
        ),
        ("h:1?first_byte_timeout=500ms", Listen(name="", host="h", port=1, first_byte_timeout=0.5)),
        (
            "h:1?first_byte_timeout=0.5&plain_http=health",
            Listen(name="", host="h", port=1, first_byte_timeout=0.5, plain_http="health"),
        ),
    ],
)
def test_a_listener_is_parsed_with_all_its_options(text: str, expected: Listen) -> None:
    listen = parse_listen(text)
    for field in Listen.__struct_fields__:
        assert getattr(listen, field) == (text if field == "name" else getattr(expected, field))


def test_a_listener_without_options_of_its_own_takes_them_from_the_settings() -> None:
    settings = Settings(first_byte_timeout=2.0, plain_http="reject")
    assert parse_listen("h:1", settings).first_byte_timeout == 2.0
    assert parse_listen("h:1?plain_http=raw", settings).plain_http == "raw"
    assert parse_listen("h:1?plain_http=raw", settings).first_byte_timeout == 2.0


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
def test_prefix_certificate_and_option_decide_about_tls(text: str, tls: str, protocol: str) -> None:
    listen = parse_listen(text, Settings(tls_cert=("cert.pem",)))
    assert (listen.tls, listen.protocol) == (tls, protocol)
    assert listen.tls_cert == ("cert.pem",)


def test_without_a_certificate_a_listener_does_not_speak_tls() -> None:
    assert parse_listen("h:1").tls == "off"
    for tls in ("optional", "required"):
        with pytest.raises(ValueError, match="TLS needs a certificate"):
            parse_listen("h:1", Settings(tls=tls))


def test_a_listener_with_its_own_certificates_ignores_the_keys_of_the_settings() -> None:
    settings = Settings(tls_cert=("a", "b"), tls_key=("c", "d"))
    assert tls_pairs(parse_listen("h:1?tls_cert=x", settings)) == [TlsPair((), "x", "")]
    own = parse_listen("h:1?tls_cert=x&tls_key=y", settings)
    assert tls_pairs(own) == [TlsPair((), "x", "y")]


def test_a_listener_may_ask_its_clients_for_no_certificate() -> None:
    """No client is asked for a certificate here, so authorities in the settings would be an
    error.
    """
    settings = Settings(tls_cert=("a",), tls_client_ca="ca", tls_client_auth="required")
    listen = parse_listen("h:1?tls_client_auth=none", settings)
    assert (listen.tls_client_auth, listen.tls_client_ca) == ("none", "")
    for text in ("h:1", "h:1?tls_client_auth=optional"):
        assert parse_listen(text, settings).tls_client_ca == "ca"
    for text in ("h:1?tls_client_auth=none&tls_client_ca=own", "h:1?tls_client_ca=own"):
        with pytest.raises(ValueError, match="tls_client_ca needs tls_client_auth"):
            parse_listen(text, Settings(tls_cert=("a",)))


def test_certificates_are_paired_with_the_names_in_front_of_them() -> None:
    certs = ("a=b/c.pem", "Example.org,*.example.org=d.pem", "x.y=./z=.pem")
    listen = parse_listen("h:1", Settings(tls_cert=certs, tls_key=("1", "2", "3")))
    assert tls_pairs(listen) == [
        TlsPair(("a",), "b/c.pem", "1"),
        TlsPair(("example.org", "*.example.org"), "d.pem", "2"),
        TlsPair(("x.y",), "./z=.pem", "3"),
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
        "h:1?mode=660",
        "h:1?group=www-data",
        "fd:",
        "fd:2",
        "fd:a b",
        "fd:3?mode=660",
        "unix:/a?mode=",
        "unix:/a?mode=8",
        "unix:/a?mode=668",
        "unix:/a?mode=1777",
        "unix:/a?mode=0o660",
        "unix:/a?mode=u+rw",
        "unix:/a?group=",
        "h:1?plain_http=maybe",
        "h:1?first_byte_timeout=soon",
        "h:1?first_byte_timeout=-1",
        "h:1?first_byte_timeout=inf",
        "h:1?first_byte_timeout=",
    ],
)
def test_a_wrong_listen_address_is_quoted_in_its_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_listen(text)
    assert str(caught.value).startswith(f"listen: {text!r}: ")


@given(st.text())
def test_any_listen_address_is_parsed_or_refused(text: str) -> None:
    try:
        assert parse_listen(text).name == text
    except ValueError as error:
        assert str(error).startswith("listen: ")


# --- clients and proxies ---


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_every_spelling_of_an_address_is_parsed_as_the_same_one(text: str, address: str) -> None:
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text", ["", "unix", "localhost", "1.2.3", "1.2.3.4:5", "[::1]", "01.2.3.4"]
)
def test_other_texts_are_not_addresses(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("networks", "address", "trusted"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.7"], "10.0.0.7", True),
        (["10.0.0.7"], "10.0.0.8", False),
        (["fd00::/8", "10.0.0.0/8"], "fd12::1", True),
        (["fd00::/8"], "10.0.0.1", False),
        (["0.0.0.0/0"], "203.0.113.9", True),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        ([], "127.0.0.1", False),
        (["unix"], "127.0.0.1", False),
    ],
)
def test_networks_contain_their_addresses(networks: list[str], address: str, trusted: bool) -> None:
    assert (parse_address(address) in Networks(networks)) is trusted


def test_peers_on_unix_sockets_are_trusted_as_unix() -> None:
    assert UNIX in Networks(["10.0.0.0/8", "unix"])
    assert UNIX not in Networks(["0.0.0.0/0", "::/0"])
    assert "anything" not in Networks(["unix"])
    assert None not in Networks(["unix", "0.0.0.0/0", "::/0"])
    assert Networks(["unix"])
    assert not Networks([])


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("10.0.0.1/8", "10.0.0.0/8, or 10.0.0.1"),
        ("localhost", "write an address"),
        ("10.0.0.0/33", "write an address"),
        ("", "write an address"),
    ],
)
def test_wrong_networks_are_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        Networks([text])


@given(st.text())
def test_any_text_is_parsed_as_an_address_or_none(text: str) -> None:
    address = parse_address(text)
    assert address is None or ip_address(str(address)) == address
