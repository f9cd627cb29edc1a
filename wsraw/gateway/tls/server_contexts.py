"""I/O. The TLS contexts of listeners, made from the files that the settings name.

If something is wrong with a file, the error is one line that says what to do. `reload` loads all
files again, or none; open connections keep their context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsraw.config.addresses import Listen, TlsPair, tls_pairs
from wsraw.gateway.tls.validity import not_after

if TYPE_CHECKING:
    import ssl

VERSIONS: Final = {"1.2": "TLSv1_2", "1.3": "TLSv1_3"}
CLIENTS: Final = {"none": "CERT_NONE", "optional": "CERT_OPTIONAL", "required": "CERT_REQUIRED"}


class _EncryptedError(Exception):
    """OpenSSL asks for a password, and there is no terminal to type it."""


class ServerContexts:
    """The contexts of a listener: a default one, and those for the names that clients ask for."""

    def __init__(self, listen: Listen) -> None:
        """Raises ValueError, with advice."""
        self.is_required = listen.tls == "required"
        """Connections without TLS are refused."""
        pairs = tls_pairs(listen)
        contexts = [_context(listen, pair) for pair in pairs]
        self.ends = {pair.cert: not_after(_read(pair.cert, "tls_cert")) for pair in pairs}
        """When the certificate in each file ends, in seconds since 1970; None: unknown."""
        self._default = contexts[0]
        self._of_names = {
            name: context
            for pair, context in zip(pairs, contexts, strict=True)
            for name in pair.names
        }

    def context_for(self, server_name: str) -> ssl.SSLContext:
        """The context for a server name in lower case; in settings a star matches one label."""
        found = self._of_names.get(server_name)
        if found is None:
            found = self._of_names.get("*." + server_name.partition(".")[2])
        return found or self._default


def _context(listen: Listen, pair: TlsPair) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion[VERSIONS[listen.tls_min_version]]
    # Renegotiation is expensive for the server alone, and no client needs it (RFC 9325, section
    # 3.5).
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    pem = _read(pair.cert, "tls_cert")
    if pair.key:
        _read(pair.key, "tls_key")
    elif b"-----BEGIN CERTIFICATE-----" in pem and b"PRIVATE KEY-----" not in pem:
        raise ValueError(f"tls_cert: {pair.cert} contains no key; set tls_key to the key's file")
    try:
        context.load_cert_chain(pair.cert, pair.key or None, _refuse_password)
    except _EncryptedError:
        raise ValueError(
            f"tls_key: {pair.key or pair.cert}: the key is encrypted; store it without a "
            "passphrase, readable for this user only (openssl pkey -in KEY -out NEW)"
        ) from None
    except ssl.SSLError as error:
        raise ValueError(_explain(pair, error)) from error
    except OSError as error:
        # It could be read a moment ago: it is being replaced just now.
        raise ValueError(f"tls_cert: {pair.cert}: {error.strerror or error}") from error
    context.verify_mode = ssl.VerifyMode[CLIENTS[listen.tls_client_auth]]
    if listen.tls_client_ca:
        # There may be comments between the certificates, in any script.
        pem = _read(listen.tls_client_ca, "tls_client_ca")
        try:
            context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"tls_client_ca: {listen.tls_client_ca} contains no certificates in PEM form"
            ) from error
    return context


def _read(path: str, setting: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise ValueError(f"{setting}: {path}: {error.strerror or error}") from error


def _refuse_password() -> str:
    # Without this callback OpenSSL would ask at the terminal, and wait.
    raise _EncryptedError


def _explain(pair: TlsPair, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {pair.key or pair.cert}: this key does not belong to {pair.cert}"
    if error.reason in ("NO_CERTIFICATE_ASSIGNED", "NO_START_LINE", "PEM lib", None):
        where = pair.key or "a key in the same file"
        return (
            f"tls_cert: {pair.cert}: with {where} this is not a certificate and its key in PEM "
            "form; set tls_cert to the chain, the server's own certificate first, and tls_key to "
            "the key"
        )
    return f"tls_cert: {pair.cert}: {error.reason.replace('_', ' ').lower()}"
