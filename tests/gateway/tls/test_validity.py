from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import authority
from wsraw.gateway.tls.validity import not_after

HEAD, TAIL = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("days", [-3, 1, 400])
@pytest.mark.parametrize("rsa", [False, True])
def test_the_end_of_a_certificate_is_read_also_if_it_has_expired(days: int, rsa: bool) -> None:
    pem = authority.pem(authority.leaf(days=days, rsa=rsa))
    first = x509.load_pem_x509_certificates(pem)[0]
    assert not_after(pem) == first.not_valid_after_utc.timestamp()


def ends(at: datetime) -> bytes:
    """A certificate that is valid until then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n" * 60)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 << 150)
        .not_valid_before(at - timedelta(days=1))
        .not_valid_after(at)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2049, 2050, 9999])
def test_both_kinds_of_times_are_read(year: int) -> None:
    at = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert not_after(b"Some text.\n" + ends(at)) == at.timestamp()


@pytest.mark.parametrize(
    "pem", [b"", b"x", HEAD, HEAD + TAIL, HEAD + b"AA\n" + TAIL, HEAD + b"\xff\n" + TAIL]
)
def test_nothing_is_known_of_what_is_not_a_certificate(pem: bytes) -> None:
    assert not_after(pem) is None


def test_nothing_raises_wherever_a_certificate_is_cut_or_changed() -> None:
    der = base64.b64decode(b"".join(ends(datetime(2030, 1, 1, tzinfo=UTC)).split(b"\n")[1:-2]))
    for at in range(len(der)):
        changed = der[:at] + bytes((der[at] ^ 0xFF,)) + der[at + 1 :]
        for data in (der[:at], changed):
            not_after(HEAD + base64.b64encode(data) + b"\n" + TAIL)
