"""Certificates for tests, of an authority that only they trust."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

_authorities: dict[str, trustme.CA] = {}


def ca(name: str = "ours") -> trustme.CA:
    """An authority; each name has one."""
    if name not in _authorities:
        _authorities[name] = trustme.CA(organization_name=name)
    return _authorities[name]


@functools.cache
def leaf(*names: str, of: str = "ours", rsa: bool = False, days: int = 1) -> trustme.LeafCert:
    """A certificate for these names; with negative `days` it has expired."""
    end = datetime.now(UTC) + timedelta(days=days)
    return ca(of).issue_cert(
        *(names or ("localhost", "127.0.0.1")),
        common_name=(names or ("localhost",))[0],
        not_before=end - timedelta(days=30),
        not_after=end,
        key_type=trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA,
    )


def pem(cert: trustme.LeafCert) -> bytes:
    """Key and chain, in one text."""
    return cert.private_key_and_cert_chain_pem.bytes()


def write(folder: Path, name: str, data: bytes) -> str:
    """A file of that name; returns its path."""
    (folder / name).write_bytes(data)
    return str(folder / name)


def server_file(folder: Path, *names: str, **how: Any) -> str:
    """A file with a server's certificate and its key."""
    return write(
        folder, f"{'-'.join(names) or 'server'}.pem".replace("*", "_"), pem(leaf(*names, **how))
    )


def ca_file(folder: Path, of: str = "ours") -> str:
    return write(folder, f"ca-{of}.pem", ca(of).cert_pem.bytes())


def client_context(
    cert: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Trusts our authority, and shows `cert`."""
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
