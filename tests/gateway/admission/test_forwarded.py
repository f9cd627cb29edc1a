from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.addresses import Networks, parse_address
from wsraw.gateway.admission.forwarded import MAX_HOPS, Forwarded, forwarded, x_forwarded_for

TRUSTED = Networks(["10.0.0.0/8", "fd00::/8"])


def xff(value: str, **others: str) -> Forwarded | None:
    headers = {f"x-forwarded-{name}": text for name, text in others.items()}
    return x_forwarded_for({"x-forwarded-for": value, **headers}, TRUSTED)


@pytest.mark.parametrize(
    ("value", "peer"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9:4711"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:DB8::1]:4711", "[2001:db8::1]:4711"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        # Entries are read from the right: those that the client has invented are on the left.
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("1.1.1.1,203.0.113.9 ,\t10.0.0.3,10.0.0.2,", "203.0.113.9"),
        # All addresses are proxies of ours: the farthest one counts.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # An entry that is not an address, or a hidden one, ends the search.
        ("1.1.1.1, garbage, 10.0.0.2", "10.0.0.2"),
        ("1.1.1.1, unknown, 10.0.0.2", "unknown"),
        ("1.1.1.1, _secret", "_secret"),
        ("10.0.0.9, 203.0.113.9:99999, 10.0.0.2", "10.0.0.2"),
        # A quote that the client has opened must not hide the entries of the proxies.
        ('", 203.0.113.9', "203.0.113.9"),
        ('1.1.1.1, "203.0.113.9, 10.0.0.2', "10.0.0.2"),
    ],
)
def test_the_client_in_x_forwarded_for_is_the_last_address_that_is_not_trusted(
    value: str, peer: str
) -> None:
    client = xff(value)
    assert client is not None
    assert client.peer == peer
    if peer[0] in "u_":
        assert client.address is None
    else:
        assert str(client.address) in peer


@pytest.mark.parametrize("value", ["", ",", "garbage", "1.2.3.4, x"])
def test_an_x_forwarded_for_without_an_address_names_no_client(value: str) -> None:
    assert xff(value) is None


@pytest.mark.parametrize(
    ("value", "proto", "scheme"),
    [
        ("203.0.113.9", "https", "https"),
        ("203.0.113.9", "HTTPS", "https"),
        ("203.0.113.9", "wss", "https"),
        ("203.0.113.9", "ws", "http"),
        ("203.0.113.9", "gopher", ""),
        ("203.0.113.9, 10.0.0.2", "https, http", "https"),
        ("1.1.1.1, 203.0.113.9, 10.0.0.2", "http, https, http", "https"),
        ("203.0.113.9, 10.0.0.2", "https", "https"),
        ("1.1.1.1, 203.0.113.9, 10.0.0.2", "https, http", "http"),
        ("", "https", "https"),
    ],
)
def test_the_scheme_is_taken_from_x_forwarded_proto(value: str, proto: str, scheme: str) -> None:
    client = xff(value, proto=proto)
    assert client is not None
    assert client.scheme == scheme


def test_the_host_is_taken_from_x_forwarded_host() -> None:
    assert xff("203.0.113.9", host="example.org") == Forwarded(
        parse_address("203.0.113.9"), "203.0.113.9", "", "example.org"
    )
    assert xff("", host="example.org") == Forwarded(None, "", "", "example.org")


@pytest.mark.parametrize(
    ("value", "peer", "scheme", "host"),
    [
        ("for=203.0.113.9", "203.0.113.9", "", ""),
        ("For=203.0.113.9;Proto=HTTPS;Host=example.org", "203.0.113.9", "https", "example.org"),
        ('for="203.0.113.9:4711"', "203.0.113.9:4711", "", ""),
        ('for="[2001:db8::1]"', "2001:db8::1", "", ""),
        ('for="[2001:db8:cafe::17]:4711"', "[2001:db8:cafe::17]:4711", "", ""),
        ('for="[2001:db8::1]:_port"', "[2001:db8::1]:_port", "", ""),
        (r'for="\203.0.113.9"', "203.0.113.9", "", ""),
        ("for=unknown", "unknown", "", ""),
        ("for=_hidden, for=10.0.0.2", "_hidden", "", ""),
        ("for=1.1.1.1, for=203.0.113.9;by=10.0.0.1, for=10.0.0.2", "203.0.113.9", "", ""),
        ("for=203.0.113.9;proto=https, for=10.0.0.2;proto=http", "203.0.113.9", "https", ""),
        ('for=203.0.113.9;host="a,b;c", for=10.0.0.2', "203.0.113.9", "", "a,b;c"),
        ("for=203.0.113.9;secret=x;proto=https", "203.0.113.9", "https", ""),
        ("for=203.0.113.9;", "203.0.113.9", "", ""),
        (" for=203.0.113.9 ; proto=http ,", "203.0.113.9", "http", ""),
        ("for=10.0.0.3, for=10.0.0.2", "10.0.0.3", "", ""),
        ("for=203.0.113.9;proto=ftp", "203.0.113.9", "", ""),
        # An entry that cannot be read ends the search; the last trusted entry before it counts.
        ("for=1.1.1.1, proto=https, for=10.0.0.2", "10.0.0.2", "", ""),
        ("for=1.1.1.1, for=2001:db8::1, for=10.0.0.2", "10.0.0.2", "", ""),
        ("for=1.1.1.1, for=2.2.2.2;for=3.3.3.3, for=10.0.0.2", "10.0.0.2", "", ""),
        ("for=1.1.1.1, for=[::1]x, for=10.0.0.2", "10.0.0.2", "", ""),
    ],
)
def test_the_client_in_forwarded_is_the_last_address_that_is_not_trusted(
    value: str, peer: str, scheme: str, host: str
) -> None:
    client = forwarded({"forwarded": value}, TRUSTED)
    assert client is not None
    assert (client.peer, client.scheme, client.host) == (peer, scheme, host)
    assert (client.address is None) is (peer[0] in "u_")


@pytest.mark.parametrize(
    "value",
    ["", "for", "for=", "proto=https", "for=1.1.1.1 proto=http", 'for="1.1.1.1', "for=[1.2.3.4]",
     "for=1.2.3.4.5", "203.0.113.9", "for=_", "for=unknown!"],
)  # fmt: skip
def test_a_forwarded_header_without_an_address_names_no_client(value: str) -> None:
    assert forwarded({"forwarded": value}, TRUSTED) is None


def test_each_reader_reads_its_own_header_only() -> None:
    """A proxy that writes X-Forwarded-For passes a client's own Forwarded unchanged."""
    headers = {"forwarded": "for=1.1.1.1", "x-forwarded-for": "2.2.2.2"}
    assert str(x_forwarded_for(headers, TRUSTED)) != str(forwarded(headers, TRUSTED))
    found = x_forwarded_for(headers, TRUSTED), forwarded(headers, TRUSTED)
    assert [client.peer for client in found if client] == ["2.2.2.2", "1.1.1.1"]


def test_hops_are_bounded() -> None:
    client = xff(", ".join(["203.0.113.9"] + ["10.0.0.1"] * MAX_HOPS))
    assert client is not None
    assert client.peer == "10.0.0.1"
    assert xff(", ".join(["203.0.113.9"] + ["10.0.0.1"] * (MAX_HOPS - 1))) == Forwarded(
        parse_address("203.0.113.9"), "203.0.113.9"
    )


@given(st.text(alphabet='for=byproto;,"\\[]:. 0123456789abcdef_\t', max_size=60))
def test_no_header_value_raises(value: str) -> None:
    for client in (forwarded({"forwarded": value}, TRUSTED), xff(value)):
        assert client is None or client.peer or client.address is None


@pytest.mark.parametrize(
    "part", ['"', "for=", "\\", '\\"', "a=b;", 'for="\\', ",", "for=1.1.1.1,"], ids=repr
)
def test_a_header_of_eight_times_the_length_takes_about_eight_times_as_long(part: str) -> None:
    def seconds(length: int, times: int) -> float:
        value = part * (length // len(part))
        spent = []
        for _ in range(3):
            began = time.thread_time()
            for _ in range(times):
                forwarded({"forwarded": value}, TRUSTED)
                xff(value)
            spent.append(time.thread_time() - began)
        return min(spent)

    # Both headers have the same size in all; on Windows that clock has steps of 16 ms.
    assert seconds(80_000, 3) < 3 * seconds(10_000, 24) + 0.05
