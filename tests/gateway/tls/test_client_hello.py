from __future__ import annotations

import random
import ssl
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.authority import server_context, server_file
from tests.gateway.tls.handshake_messages import (
    FFDHE2048,
    FFDHE8192,
    GREASE,
    P256,
    UNKNOWN,
    X25519,
    extension,
    message,
    named,
    records,
    retry,
    server_message,
    shares,
    supported,
    vector,
)
from wsraw.gateway.tls.client_hello import (
    ALERT_DECODE_ERROR,
    ALERT_HANDSHAKE_FAILURE,
    MAX_HELLO,
    MAX_RECORD,
    MAX_WARNINGS,
    HelloReader,
    TlsHello,
)


def read(data: bytes) -> TlsHello | None:
    return HelloReader().receive_data(data)


def real(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["example.org", "EXAMPLE.org", None])
def test_a_client_hello_of_openssl_is_read(name: str | None) -> None:
    assert read(real(name)) == TlsHello((name or "").lower())


@pytest.mark.parametrize("size", [1, 5, 100, MAX_RECORD])
def test_a_client_hello_may_be_cut_and_split_into_records_anywhere(size: int) -> None:
    data = records(message(named(b"a.b"), shares(X25519)), size)
    for seed in range(20):
        rng, reader, rest = random.Random(seed), HelloReader(), data
        while rest:
            cut = rng.randint(1, len(rest)) if seed else 1
            hello = reader.receive_data(rest[:cut])
            rest = rest[cut:]
            assert hello is None or not rest
        assert hello == TlsHello("a.b")
        assert reader.buffer == data


@pytest.mark.parametrize(
    ("extensions", "costly"),
    [
        ([supported(X25519, FFDHE8192), shares(X25519)], False),
        ([supported(P256), shares()], False),
        ([supported(X25519, FFDHE8192), shares(FFDHE8192)], True),
        ([supported(X25519, FFDHE2048), shares(X25519, FFDHE2048)], True),
        ([supported(FFDHE2048, FFDHE8192), shares()], True),
        ([supported(UNKNOWN, FFDHE8192), shares()], True),
        ([supported(GREASE, FFDHE8192), shares()], True),
        ([supported(FFDHE8192, UNKNOWN), shares(UNKNOWN)], True),
        ([supported(GREASE, FFDHE8192, P256), shares()], False),
        ([supported(GREASE, UNKNOWN), shares()], False),
        ([], False),
    ],
)
def test_a_key_exchange_that_costs_too_much_is_refused(
    extensions: list[bytes], costly: bool
) -> None:
    hello = read(records(message(*extensions)))
    assert hello is not None
    assert hello.alert == (ALERT_HANDSHAKE_FAILURE if costly else b"")
    assert bool(hello.error) is costly


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\3\1\0\0",
        b"\x16\3\1\x40\1",
        b"\x16\2\1\0\5\1\0\0\1\0",
        b"\x16\3\1\0\5\2\0\0\1\0",
        b"\x15\3\1\0\2\2\0",
        records(b"\1\0\0\1\0"),
        records(message(extension(0, b"\0\xff"))),
        records(message(named("ä".encode()))),
        records(b"\1" + vector(bytes(10), 3)),
        records(message(size=10), 10)[:15] + b"\x17\3\3\0\1\0",
        records(message(supported(X25519) + b"\0")),
    ],
)
def test_bytes_that_are_not_a_client_hello_are_refused(data: bytes) -> None:
    hello = read(data)
    if hello is None:
        # The last record is cut off; more of it decides the matter.
        reader = HelloReader()
        reader.receive_data(data)
        hello = reader.receive_data(bytes(1000))
    assert hello is not None
    assert hello.error
    assert hello.alert == ALERT_DECODE_ERROR


def test_a_client_hello_has_a_longest_size() -> None:
    assert read(records(message(size=MAX_HELLO - 200))) == TlsHello("")
    # Tiny records are longer than their content, and each counts.
    for data in (records(message(size=MAX_HELLO)), records(message(size=MAX_HELLO // 2), 1)):
        for cut in (1000, len(data)):
            reader, hello = HelloReader(), None
            for at in range(0, len(data), cut):
                hello = hello or reader.receive_data(data[at : at + cut])
            assert hello is not None
            assert "too long" in hello.error


@given(st.binary(max_size=200), st.integers(0, 400), st.binary(max_size=3))
@example(b"", 0, b"\x16")
def test_any_bytes_of_a_client_are_received_without_an_exception(
    data: bytes, at: int, change: bytes
) -> None:
    read(data)
    read(b"\x16\3\1" + vector(data, 2))
    read(records(b"\1" + vector(data, 3)))
    whole = records(message(named(b"a.b"), supported(X25519), shares(X25519)))
    read(whole[:at] + change + whole[at + len(change) :])


@pytest.mark.parametrize("curve", [0x17, 0x18, 0x19, X25519, 0x1E])
def test_openssl_prefers_a_curve_where_one_is_offered(curve: int, tmp_path: Path) -> None:
    """So a client hello may list an expensive group beside a curve, if it has a key for neither."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file(tmp_path))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    versions = extension(43, vector(b"\3\4", 1))
    signatures = extension(13, vector(b"\4\3\10\4", 2))
    groups = supported(GREASE, FFDHE8192, curve)
    data = records(message(versions, signatures, groups, shares()))
    assert read(data) == TlsHello()
    incoming.write(data)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    # A HelloRetryRequest has the group that it asks for in its key_share.
    assert extension(51, struct.pack("!H", curve)) in outgoing.read()


# --- hellos of servers ---

WARNING, FATAL = b"\x15\3\3\0\2\1\x70", b"\x15\3\3\0\2\2\x28"
COSTLY = TlsHello("", "it asks for a finite-field key exchange", ALERT_HANDSHAKE_FAILURE)


def heard(data: bytes, cut: int = 1 << 20) -> TlsHello | None:
    reader = HelloReader(of_server=True)
    for at in range(0, len(data), cut):
        hello = reader.receive_data(data[at : at + cut])
        if hello is not None:
            return hello
    return None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_a_server_hello_of_openssl_is_accepted(version: ssl.TLSVersion, cut: int) -> None:
    context = server_context()
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(real("localhost"))
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    assert heard(outgoing.read(), cut) == TlsHello()


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("data", "hello"),
    [
        (retry(FFDHE8192), COSTLY),
        (retry(FFDHE2048), COSTLY),
        (retry(P256), TlsHello()),
        (records(server_message(shares=struct.pack("!H", FFDHE8192) + vector(b"key", 2))), COSTLY),
        (records(server_message(shares=struct.pack("!H", P256) + vector(b"key", 2))), TlsHello()),
        # An unknown name makes some servers send a warning, which changes nothing.
        (WARNING + retry(FFDHE8192), COSTLY),
        (WARNING * MAX_WARNINGS + retry(P256), TlsHello()),
        (FATAL, TlsHello()),
        (WARNING[:5] + b"\1", None),
    ],
)
def test_a_server_that_asks_for_an_expensive_key_exchange_is_refused(
    data: bytes, hello: TlsHello | None, cut: int
) -> None:
    assert heard(data, cut) == hello


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        records(message(supported(X25519))),
        records(server_message(shares=b""), 10)[:15] + WARNING,
        WARNING * (MAX_WARNINGS + 1),
        b"\x15\3\3\0\1\1" + retry(FFDHE8192),
        # If a change_cipher_spec comes first, OpenSSL may ignore it.
        b"\x14\3\3\0\1\1" + retry(FFDHE8192),
        records(b"\2" + vector(bytes(10), 3)),
        records(b"\2" + vector(bytes(34) + vector(bytes(32), 1), 3)),
    ],
)
def test_bytes_that_are_not_a_server_hello_are_refused(data: bytes) -> None:
    hello = heard(data + bytes(1000))
    assert hello is not None
    assert hello.alert == ALERT_DECODE_ERROR


@given(st.binary(max_size=200), st.integers(0, 400), st.binary(max_size=3))
def test_any_bytes_of_a_server_are_received_without_an_exception(
    data: bytes, at: int, change: bytes
) -> None:
    heard(data)
    heard(b"\x16\3\3" + vector(data, 2))
    heard(records(b"\2" + vector(data, 3)))
    whole = retry(P256)
    heard(whole[:at] + change + whole[at + len(change) :])
