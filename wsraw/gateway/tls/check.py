"""I/O. Check the certificates of listeners without serving clients, for `wsraw check`."""

from __future__ import annotations

import json
import ssl
import time
from typing import Final

from wsraw.config.addresses import Listen, parse_listen, tls_pairs
from wsraw.config.settings import Settings
from wsraw.gateway.tls.server_contexts import ServerContexts

SOON: Final = 14
"""Days before its end by which a certificate should have been renewed: ACME clients renew it 30
days before."""

DAY: Final = 86400


def main(settings: Settings) -> int:
    """Print a line of JSON with present and imminent problems; return 1 if there are present
    ones."""
    problems: list[str] = []
    warnings: list[str] = []
    for text in settings.listen:
        listen = parse_listen(text, settings)
        if listen.tls == "off":
            continue
        try:
            ServerContexts(listen)
        except ValueError as error:
            problems.append(f"{text}: {error}")
            continue
        _look_at_times(listen, problems, warnings)
    print(json.dumps({"problems": problems, "warnings": warnings}))
    return 1 if problems else 0


def _look_at_times(listen: Listen, problems: list[str], warnings: list[str]) -> None:
    for pair in tls_pairs(listen):
        where = f"{listen.name}: tls_cert: {pair.cert}"
        try:
            days = (end_of(pair.cert, pair.key) - time.time()) / DAY
        except ssl.SSLCertVerificationError as error:
            problems.append(f"{where}: {error.verify_message}")
        except ssl.SSLError:
            # Other oddities of the certificate are a matter for its clients.
            continue
        else:
            if days < SOON:
                warnings.append(f"{where}: the certificate expires in {days:.0f} days")


def end_of(cert: str, key: str) -> float:
    """When a certificate ends, in seconds since 1970, found by a handshake in memory with a client
    that trusts this certificate. Raises SSLCertVerificationError if it is not valid today, and
    SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key or None)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    with open(cert, encoding="ascii", errors="ignore") as stream:
        client.load_verify_locations(cadata=stream.read())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    found = ends[0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))
