from __future__ import annotations

import pytest

from wsraw.config.addresses import UNIX, parse_address
from wsraw.gateway.admission.per_address import AddressLimits, address_key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_addresses_of_one_ipv6_network_count_as_one(one: str, other: str, same: bool) -> None:
    keys = [address_key(parse_address(host)) for host in (one, other)]
    assert None not in keys
    assert (keys[0] == keys[1]) is same


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine_are_not_counted(host: str) -> None:
    assert address_key(parse_address(host)) is None


def test_connections_without_an_address_are_not_counted() -> None:
    assert address_key(UNIX) is None
    assert address_key(None) is None


def test_connections_are_limited_in_total() -> None:
    admission = AddressLimits(2, 0)
    assert [admission.refusal(b"a", total) for total in (0, 1, 2, 3)] == [
        "", "", "max_connections", "max_connections"
    ]  # fmt: skip
    assert AddressLimits(0, 0).refusal(b"a", 10**9) == ""


def test_connections_of_one_address_are_limited() -> None:
    admission = AddressLimits(0, 2)
    for key in (b"a", b"a", None, None, None):
        assert admission.refusal(key, 0) == ""
        admission.enter(key)
    assert admission.refusal(b"a", 0) == "max_connections_per_address"
    assert admission.refusal(b"b", 0) == ""
    assert admission.refusal(None, 0) == ""
    admission.leave(b"a")
    assert admission.refusal(b"a", 0) == ""
    for key in (b"a", None):
        admission.leave(key)
    assert admission._counts == {}
