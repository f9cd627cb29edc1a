"""The PROXY protocol headers that targets get."""

from __future__ import annotations

from typing import Any

import pytest

from wsraw.gateway.admission.proxy_protocol import ProxyReader
from wsraw.gateway.splices.passing import client_of
from wsraw.gateway.splices.proxy_header import header


def addresses(*texts: str) -> list[tuple[Any, int]]:
    return [client_of({"peer": text}) for text in texts]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("192.0.2.7:4711", "10.0.0.1:80"),
        ("[2001:db8::1]:65535", "[::1]:80"),
        ("192.0.2.7:4711", "[::1]:80"),
        ("2001:db8::1", "10.0.0.1:80"),
    ],
)
def test_what_is_written_is_what_our_reader_reads(
    version: str, source: str, target: str, tls: bool
) -> None:
    reader = ProxyReader()
    reader.receive_data(header(version, *addresses(source, target), tls) + b"rest")
    assert (reader.state, reader.rest) == ("done", b"rest"), reader.error
    [(address, port)] = addresses(source)
    assert reader.address == address
    assert reader.peer.endswith(f":{port}")
    assert reader.tls is (tls and version == "v2")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_without_an_address_has_none_in_the_header(version: str) -> None:
    for source, target in (("unix", "10.0.0.1:80"), ("10.0.0.1:80", "unix")):
        reader = ProxyReader()
        reader.receive_data(header(version, *addresses(source, target), False) + b"rest")
        assert (reader.state, reader.rest, reader.address) == ("done", b"rest", None)


def test_version_1_is_written_as_specified() -> None:
    places = addresses("192.0.2.7:4711", "10.0.0.1:80")
    assert header("v1", *places, False) == b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n"
