"""Sans-I/O. One end of a TLS connection: ciphertext in, plaintext out, and the other way round.

OpenSSL works on two memory buffers. No input of a peer raises: `error` says what is wrong with it,
and `data_to_send` has the alert for the peer.

Bytes pass through OpenSSL in pieces of one record: its buffers never shrink, and an idle connection
must not keep the size of its largest read.

OpenSSL is loaded with the first context or connection: it takes 5 MiB, and most gateways have no
TLS. This module itself is loaded by all gateways, because the file on disk may later be another
version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import ssl

    Context: TypeAlias = ssl.SSLContext

PIECE: Final = 16 * 1024
"""Bytes of plaintext in the largest record (RFC 8446, section 5.1)."""

MOST_NAMES: Final = 100
"""Alternative names in a client's certificate that handlers see; `sha256` covers all of them."""

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""Short names of attributes (RFC 4514, section 3)."""


class TlsEngine:
    """A TLS connection; call `handshake` until it is `established`."""

    __slots__ = ("_incoming", "_object", "_outgoing", "ended", "error", "established")

    def __init__(
        self, context: Context, *, server_side: bool, server_name: str | None = None
    ) -> None:
        """Raises ValueError for a server name that is not valid."""
        global ssl
        import ssl

        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self.established = False
        self.ended = False
        """The peer has announced that it sends no more (close_notify)."""
        self.error = ""

    def handshake(self, data: bytes) -> None:
        """Take bytes of the peer, and go as far as they allow. Only this step is expensive."""
        try:
            self._incoming.write(data)
            self._object.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = explain(error)

    @property
    def has_more(self) -> bool:
        """Whether the bytes at the end of the handshake included some that `receive_data` has not
        returned."""
        return self._incoming.pending > 0

    def receive_data(self, data: bytes) -> bytes:
        """Take ciphertext, return all plaintext that is complete. Check `ended` and `error`."""
        if self.ended or self.error:
            return b""
        parts: list[bytes] = []
        if len(data) <= PIECE:
            self._incoming.write(data)
            self._read(parts)
        else:
            view = memoryview(data)
            for start in range(0, len(data), PIECE):
                self._incoming.write(view[start : start + PIECE])
                self._read(parts)
                if self.ended or self.error:
                    break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, parts: list[bytes]) -> None:
        incoming, read = self._incoming, self._object.read
        try:
            while incoming.pending:
                # One record at a time, and each is read whole.
                part = read(PIECE)
                if not part:
                    self.ended = True
                    return
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            # The peer has answered our close_notify.
            self.ended = True
        except ssl.SSLError as error:
            self.error = explain(error)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Take plaintext, and return its ciphertext after everything else that waits to be sent."""
        view = memoryview(data)
        parts = [self._outgoing.read()] if self._outgoing.pending else []
        try:
            for start in range(0, len(view), PIECE):
                self._object.write(view[start : start + PIECE])
                parts.append(self._outgoing.read())
        except ssl.SSLError as error:
            self.error = explain(error)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def data_to_send(self) -> bytes:
        """The bytes that TLS itself has to send: its handshake, alerts, answers to key updates."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Queue close_notify: without it, the peer cannot distinguish an end from a lost
        connection."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            # The peer has not sent its own; we do not wait for it.
            pass

    def about(self, server_name: str) -> dict[str, Any]:
        """The TLS facts for handlers, once it is established."""
        cipher = self._object.cipher()
        about: dict[str, Any] = {
            "version": self._object.version() or "",
            "cipher": cipher[0] if cipher else "",
            "server_name": server_name,
        }
        alpn = self._object.selected_alpn_protocol()
        if alpn:
            about["alpn"] = alpn
        if self._object.server_side:
            der = self._object.getpeercert(binary_form=True)
            if der:
                about["client"] = describe(self._read_certificate(), der)
        return about

    def _read_certificate(self) -> dict[str, Any]:
        """The peer's certificate as Python reads it; empty if that fails: an authority may have
        signed names that are not text."""
        try:
            return dict(self._object.getpeercert() or {})
        except (ValueError, ssl.SSLError):
            return {}


def explain(error: ssl.SSLError) -> str:
    """An error of OpenSSL as a phrase for people."""
    why = getattr(error, "verify_message", "")
    if why:
        return f"the certificate was not accepted: {why}"
    return (error.reason or str(error)).replace("_", " ").lower()


def describe(parsed: dict[str, Any], der: bytes) -> dict[str, Any]:
    """A peer's verified certificate, as `con.tls["client"]`, from what `getpeercert` returns."""
    import hashlib

    names = parsed.get("subjectAltName", ())
    return {
        "subject": _distinguished(parsed.get("subject", ())),
        "issuer": _distinguished(parsed.get("issuer", ())),
        "serial": parsed.get("serialNumber", ""),
        "sha256": hashlib.sha256(der).hexdigest(),
        "not_after": parsed.get("notAfter", ""),
        "names": [f"{kind}:{name}" for kind, name in names[:MOST_NAMES]],
    }


def _distinguished(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """A name in the notation of RFC 4514: the most specific part first."""
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in reversed(name)
    )


def _escaped(value: str) -> str:
    """Escape a value (RFC 4514, section 2.4), so that it cannot contain another attribute."""
    text = "".join(f"\\{c}" if c in '"+,;<>\\' else c for c in value).replace("\0", "\\00")
    if text.startswith((" ", "#")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(value) > 1 else text
