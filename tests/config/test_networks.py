from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.networks import UNIX, Networks, parse_address


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
def test_text_that_is_not_an_address_is_parsed_as_none(text: str) -> None:
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
def test_an_address_belongs_to_the_networks_that_cover_it(
    networks: list[str], address: str, trusted: bool
) -> None:
    assert (parse_address(address) in Networks(networks)) is trusted


def test_unix_sockets_belong_only_to_the_network_named_unix() -> None:
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
