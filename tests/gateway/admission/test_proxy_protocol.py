"""The PROXY protocol as HAProxy specifies it, with the header cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.admission.proxy_protocol import (
    MAX_LINE,
    MAX_SIZE,
    SIGNATURE,
    ProxyReader,
)

V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + (4711).to_bytes(2) + (443).to_bytes(2)
V6 = bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(16) + (4711).to_bytes(2) + bytes(2)


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def header(rest: bytes, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2) + rest


SSL = tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))

GOOD = {
    "1 tcp4": (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n", "192.0.2.1:4711"),
    "1 tcp6": (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n", "[2001:db8::1]:4711"),
    "1 longest": (
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n",
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
    ),
    "1 port 0": (b"PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", "192.0.2.1:0"),
    "1 unknown": (b"PROXY UNKNOWN\r\n", ""),
    "1 unknown, longest": (b"PROXY UNKNOWN ffff:f f:f 1 2".ljust(MAX_LINE - 2, b"x") + b"\r\n", ""),
    "2 ipv4": (header(V4), "192.0.2.1:4711"),
    "2 ipv4, udp": (header(V4, 0x12), "192.0.2.1:4711"),
    "2 ipv6": (header(V6, 0x21), "[2001:db8::1]:4711"),
    "2 ipv4 in ipv6": (
        header(bytes(10) + b"\xff\xff" + V4[:4] + bytes(16) + V4[8:], 0x21),
        "192.0.2.1:4711",
    ),
    "2 unix": (header(b"/run/a".ljust(216, b"\0"), 0x31), ""),
    "2 unspecified": (header(b"", 0x00), ""),
    "2 unspecified, with bytes": (header(b"whatever", 0x00), ""),
    "2 local": (header(b"", 0x00, 0x20), ""),
    "2 local, with addresses": (header(V4 + SSL, 0x11, 0x20), ""),
    "2 tlvs": (header(V4 + tlv(1, b"h2") + tlv(2, b"example.org") + tlv(4, b"")), "192.0.2.1:4711"),
    "2 ssl": (header(V4 + SSL), "192.0.2.1:4711"),
    "2 largest": (header(V4 + tlv(4, bytes(MAX_SIZE - 31))), "192.0.2.1:4711"),
}

BAD = {
    "nothing of it": b"GET / HTTP/1.1\r\n",
    "lower case": b"proxy tcp4",
    "1 no such family": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    "1 no addresses": b"PROXY TCP4\r\n",
    "1 wrong family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "1 wrong family too": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "1 one of each": b"PROXY TCP6 ::1 1.2.3.4 1 2\r\n",
    "1 no address": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "1 zeroes in front": b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
    "1 port": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "1 port with zeroes": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "1 two spaces": b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "1 something behind": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "1 lone LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    "1 CR inside": b"PROXY UNKNOWN \r \r\n",
    "1 endless": b"PROXY UNKNOWN " + b"x" * MAX_LINE,
    "1 one byte too long": b"PROXY UNKNOWN ".ljust(MAX_LINE - 1, b"x") + b"\r\n",
    "2 version 1": header(V4, command=0x11),
    "2 version 3": header(V4, command=0x31),
    "2 command 2": header(V4, command=0x22),
    "2 family 4": header(V4, 0x41),
    "2 transport 3": header(V4, 0x13),
    "2 too short": header(V4[:11]),
    "2 ipv6 too short": header(V4, 0x21),
    "2 too large": header(bytes(MAX_SIZE)),
    "2 tlv cut in its head": header(V4 + b"\x04\0"),
    "2 tlv cut in its value": header(V4 + b"\x04\0\x09xxxx"),
}


def read(data: bytes, cuts: list[int] | None = None, optional: bool = False) -> ProxyReader:
    """Feed the bytes in pieces until the reader is done; the rest is kept in `rest`."""
    reader = ProxyReader(optional)
    last = 0
    for cut in [*sorted(cuts or []), len(data)]:
        if reader.state != "reading":
            reader.rest += data[last:cut]
        elif cut > last:
            reader.receive_data(data[last:cut])
        last = max(cut, last)
    return reader


def said(reader: ProxyReader) -> tuple[object, ...]:
    return reader.state, reader.error, str(reader.address), reader.peer, reader.tls, reader.found


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("optional", [False, True])
def test_valid_headers_are_read(name: str, optional: bool) -> None:
    data, peer = GOOD[name]
    reader = read(data + b"GET /", optional=optional)
    assert (reader.state, reader.peer, reader.rest, reader.error) == ("done", peer, b"GET /", "")
    assert reader.found
    assert (reader.address is None) is not bool(peer)
    assert reader.tls is (name == "2 ssl")
    small = len(data) < 1000
    one_by_one = read(data + b"GET /", list(range(len(data) + 5)) if small else [], optional)
    assert (said(one_by_one), one_by_one.rest) == (said(reader), b"GET /")
    # The reader is not done before the last byte of the header.
    assert read(data[:-1], optional=optional).state == "reading"


@pytest.mark.parametrize("name", BAD)
def test_invalid_headers_are_refused(name: str) -> None:
    data = BAD[name]
    reader = read(data)
    assert reader.state == "wrong"
    assert reader.error
    assert reader.address is None or name.startswith("2")
    assert read(data, list(range(len(data)))).state == "wrong"


@pytest.mark.parametrize("name", [name for name in BAD if name[0] in "12"])
def test_an_invalid_header_is_never_taken_as_data(name: str) -> None:
    reader = read(BAD[name], optional=True)
    assert (reader.state, reader.found, reader.rest) == ("wrong", True, b"")


@pytest.mark.parametrize(
    "data", [b"x", b"PROXIES", b"\r\nhello", SIGNATURE[:11] + b"x", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_bytes_without_a_header_are_data_where_it_is_optional(data: bytes) -> None:
    reader = read(data, list(range(len(data))), optional=True)
    assert (reader.state, reader.found, reader.rest) == ("done", False, data)


@pytest.mark.parametrize("data", [b"", b"P", b"PROXY", SIGNATURE[:11]])
def test_an_end_of_file_before_the_signature_is_complete_leaves_the_bytes_as_data(
    data: bytes,
) -> None:
    reader = read(data, optional=True)
    assert reader.state == "reading"
    reader.receive_eof()
    assert (reader.state, reader.rest) == ("done", data)
    reader = read(data)
    reader.receive_eof()
    assert reader.state == "wrong"


@pytest.mark.parametrize("data", [b"PROXY ", b"PROXY TCP4 1.2.3.4", SIGNATURE, header(V4)[:-1]])
def test_an_end_of_file_within_a_header_is_an_error(data: bytes) -> None:
    for optional in (False, True):
        reader = read(data, optional=optional)
        assert reader.state == "reading"
        reader.receive_eof()
        assert reader.state == "wrong"


@given(
    st.sampled_from([data for data, _ in GOOD.values()] + list(BAD.values())),
    st.lists(st.integers(0, 400), max_size=6),
    st.booleans(),
)
def test_a_header_may_be_cut_anywhere(data: bytes, cuts: list[int], optional: bool) -> None:
    whole, cut = read(data + b"rest", optional=optional), read(data + b"rest", cuts, optional)
    assert said(cut) == said(whole)
    if whole.state == "done":
        assert cut.rest == whole.rest


@given(st.one_of(st.binary(), st.binary().map(lambda b: SIGNATURE + b),
                 st.binary().map(lambda b: b"PROXY " + b)), st.booleans())  # fmt: skip
def test_any_bytes_are_received_without_an_exception(data: bytes, optional: bool) -> None:
    reader = read(data, optional=optional)
    reader.receive_eof()
    assert reader.state in ("done", "wrong")


@given(
    st.sampled_from([data for data, _ in GOOD.values()]), st.integers(0, 300), st.integers(0, 255)
)
def test_one_wrong_byte_in_a_header_does_not_raise(data: bytes, at: int, byte: int) -> None:
    at %= len(data)
    read(data[:at] + bytes([byte]) + data[at + 1 :])


@pytest.mark.parametrize("name", GOOD)
def test_a_header_of_an_untrusted_address_is_refused_unread(name: str) -> None:
    data, _ = GOOD[name]
    size = len(SIGNATURE) if data.startswith(SIGNATURE) else len(b"PROXY ")
    reader = ProxyReader(optional=True, trusted=False)
    reader.receive_data(data[: size - 1])
    assert (reader.state, reader.found) == ("reading", False)
    reader.receive_data(data[size - 1 :])
    assert (reader.state, reader.found, reader.address) == ("wrong", True, None)
    assert reader.error == "it sent a PROXY header and is not a trusted proxy"


def test_bytes_of_an_untrusted_address_without_a_header_are_data() -> None:
    reader = ProxyReader(optional=True, trusted=False)
    reader.receive_data(b"GET / HTTP/1.1")
    assert (reader.state, reader.rest) == ("done", b"GET / HTTP/1.1")
