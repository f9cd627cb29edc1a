from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tests.authority import ca, leaf
from wsraw.gateway.tls.x509 import MOST_NAMES, describe, validity


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.mark.parametrize("rsa", [False, True])
def test_the_dates_of_a_certificate_are_read(rsa: bool) -> None:
    pem = leaf("a.b", rsa=rsa).cert_chain_pems[0].bytes()
    cert = x509.load_pem_x509_certificate(pem)
    assert validity(der(pem)) == (cert.not_valid_before_utc, cert.not_valid_after_utc)


def test_dates_after_2049_are_read() -> None:
    late = datetime(2999, 12, 31, 23, 59, 59, tzinfo=UTC)
    cert = ca().issue_cert("late", not_before=late - timedelta(1), not_after=late)
    assert validity(der(cert.cert_chain_pems[0].bytes())) == (late - timedelta(1), late)


@given(st.binary(max_size=60), st.integers(0, 600))
def test_bytes_that_are_not_a_certificate_raise_value_error(data: bytes, cut: int) -> None:
    whole = der(leaf("a.b").cert_chain_pems[0].bytes())
    for text in (data, whole[:cut], b"0" + bytes((len(data),)) + data):
        try:
            validity(text)
        except ValueError:
            pass


def test_a_name_cannot_imitate_a_second_one() -> None:
    parsed = {
        "subject": ((("organizationName", "O, Inc+=\\"),), (("commonName", "a,CN=root"),)),
        "issuer": ((("commonName", " #x "),), (("unknownKind", "v"), ("localityName", "#l"))),
        "serialNumber": "01",
        "notAfter": "later",
        "subjectAltName": tuple(("DNS", str(n)) for n in range(MOST_NAMES + 1)),
    }
    told = describe(parsed, b"der")
    assert told["subject"] == "CN=a\\,CN=root,O=O\\, Inc\\+=\\\\"
    assert told["issuer"] == "unknownKind=v+L=\\#l,CN=\\ #x\\ "
    assert told["names"][:2] == ["DNS:0", "DNS:1"]
    assert len(told["names"]) == MOST_NAMES
    assert len(told["sha256"]) == 64


def test_an_empty_certificate_name_is_read() -> None:
    assert describe({}, b"")["names"] == []
