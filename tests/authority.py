"""Certificates for tests, from an authority that only tests trust."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

_authorities: dict[str, trustme.CA] = {}


def ca(name: str = "ours") -> trustme.CA:
    """An authority; each name has one of its own."""
    if name not in _authorities:
        _authorities[name] = trustme.CA(organization_name=name)
    return _authorities[name]


@functools.cache
def leaf(*names: str, of: str = "ours", rsa: bool = False, days: int = 1) -> trustme.LeafCert:
    """A certificate for these names; negative `days` mean that it has expired."""
    end = datetime.now(UTC) + timedelta(days=days)
    return ca(of).issue_cert(
        *(names or ("localhost", "127.0.0.1")),
        common_name=(names or ("localhost",))[0],
        not_before=end - timedelta(days=30),
        not_after=end,
        key_type=trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA,
    )


def odd_file(folder: Path, name: bytes) -> str:
    """A file with a client's certificate and key; the certificate has these bytes as a DNS name."""
    issuer = x509.load_pem_x509_certificate(ca().cert_pem.bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(ca().private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    names = bytes((0x30, len(name) + 2, 0x82, len(name))) + name
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names), False
        )
        .sign(signer, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    return write(
        folder,
        "odd.pem",
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()),
    )


def pem(cert: trustme.LeafCert) -> bytes:
    """The key and the chain as one text."""
    return cert.private_key_and_cert_chain_pem.bytes()


def write(folder: Path, name: str, data: bytes) -> str:
    """Write a file of that name; returns its path."""
    (folder / name).write_bytes(data)
    return str(folder / name)


def server_file(folder: Path, *names: str, **how: Any) -> str:
    """A file with a server's certificate and key."""
    return write(
        folder, f"{'-'.join(names) or 'server'}.pem".replace("*", "_"), pem(leaf(*names, **how))
    )


def ca_file(folder: Path, of: str = "ours") -> str:
    return write(folder, f"ca-{of}.pem", ca(of).cert_pem.bytes())


def client_context(
    cert: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A context that trusts our authority, and shows `cert`."""
    context = ssl.create_default_context()
    ca().configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def server_context(cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (cert or leaf()).configure_cert(context)
    return context
