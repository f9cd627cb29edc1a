from __future__ import annotations

import random
import ssl
import struct
from pathlib import Path

import pytest
from authority import server_file
from hypothesis import example, given
from hypothesis import strategies as st

from wsraw.gateway.hello import (
    ALERT_DECODE_ERROR,
    ALERT_HANDSHAKE_FAILURE,
    MAX_HELLO,
    MAX_RECORD,
    Hello,
    HelloReader,
)

X25519, P256, FFDHE2048, FFDHE8192 = 0x1D, 0x17, 0x100, 0x104
GREASE, UNKNOWN = 0x2A2A, 0x9999


def vector(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(data, 2)


def shares(*groups: int) -> bytes:
    entries = b"".join(struct.pack("!H", group) + vector(b"key", 2) for group in groups)
    return extension(51, vector(entries, 2))


def supported(*groups: int) -> bytes:
    return extension(10, vector(struct.pack(f"!{len(groups)}H", *groups), 2))


def named(name: bytes) -> bytes:
    return extension(0, vector(b"\0" + vector(name, 2), 2))


def message(*extensions: bytes, size: int = 0) -> bytes:
    body = b"\3\3" + bytes(32) + vector(b"", 1) + vector(b"\x13\1", 2) + vector(b"\0", 1)
    body += vector(b"".join(extensions) + extension(21, bytes(size)), 2)
    return b"\1" + vector(body, 3)


def records(data: bytes, size: int = MAX_RECORD) -> bytes:
    return b"".join(
        b"\x16\3\1" + vector(data[at : at + size], 2) for at in range(0, len(data), size)
    )


def read(data: bytes) -> Hello | None:
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
def test_what_openssl_says_is_read(name: str | None) -> None:
    assert read(real(name)) == Hello((name or "").lower())


@pytest.mark.parametrize("size", [1, 5, 100, MAX_RECORD])
def test_any_cut_and_any_records_are_the_same(size: int) -> None:
    data = records(message(named(b"a.b"), shares(X25519)), size)
    for seed in range(20):
        rng, reader, rest = random.Random(seed), HelloReader(), data
        while rest:
            cut = rng.randint(1, len(rest)) if seed else 1
            hello = reader.receive_data(rest[:cut])
            rest = rest[cut:]
            assert hello is None or not rest
        assert hello == Hello("a.b")
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
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    hello = read(data)
    if hello is None:
        # The last record is cut off there; more of it settles the matter.
        reader = HelloReader()
        reader.receive_data(data)
        hello = reader.receive_data(bytes(1000))
    assert hello is not None
    assert hello.error
    assert hello.alert == ALERT_DECODE_ERROR


def test_a_hello_has_a_longest_size() -> None:
    assert read(records(message(size=MAX_HELLO - 200))) == Hello("")
    for data in (records(message(size=MAX_HELLO)), records(bytes((1, 0, 0x70)) + bytes(28000), 1)):
        hello = read(data)
        assert hello is not None
        assert "too long" in hello.error


@given(st.binary(max_size=200), st.integers(0, 400), st.binary(max_size=3))
@example(b"", 0, b"\x16")
def test_no_bytes_make_it_raise(data: bytes, at: int, change: bytes) -> None:
    read(data)
    read(b"\x16\3\1" + vector(data, 2))
    read(records(b"\1" + vector(data, 3)))
    whole = records(message(named(b"a.b"), supported(X25519), shares(X25519)))
    read(whole[:at] + change + whole[at + len(change) :])


@pytest.mark.parametrize("curve", [0x17, 0x18, 0x19, X25519, 0x1E])
def test_openssl_takes_a_curve_where_one_is_on_offer(curve: int, tmp_path: Path) -> None:
    """Why a hello is let in that names a costly group beside a curve, and shows a key for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file(tmp_path))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    versions = extension(43, vector(b"\3\4", 1))
    signatures = extension(13, vector(b"\4\3\10\4", 2))
    groups = supported(GREASE, FFDHE8192, curve)
    data = records(message(versions, signatures, groups, shares()))
    assert read(data) == Hello()
    incoming.write(data)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    # HelloRetryRequest: the group that it asks for stands in its key_share.
    assert extension(51, struct.pack("!H", curve)) in outgoing.read()
