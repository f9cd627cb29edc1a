"""I/O. The TLS contexts of opened connections: verifying, unless a handler asks for less.

Making a context reads the system's certificates, which takes tens of milliseconds. So this is done
in a thread, once for all connections with the same options. Certificates come as text: the worker
may be on another machine, whose files the gateway cannot read.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from wsraw.gateway.tls.engine import explain
from wsraw.link.open_options import Opening

if TYPE_CHECKING:
    from wsraw.gateway.tls.engine import Context

log = logging.getLogger("wsraw.gateway")

MOST_CACHED: Final = 64
"""Contexts that are kept, the newest ones. One with the system's certificates holds about 0.5
MiB."""


class TlsOptions(NamedTuple):
    """The TLS options of `open`. `ca`, `cert` and `key` are PEM texts."""

    verify: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    speaks_http: bool = False
    """The connection is a WebSocket: ALPN tells the server that it uses HTTP."""


class OpenTls(NamedTuple):
    """The TLS options and the context of an opened connection."""

    context: Context
    server_name: str


def options_of(asked: Opening) -> TlsOptions:
    """The TLS options of an `open`."""
    return TlsOptions(asked.verify, asked.ca, asked.cert, asked.key, asked.kind == "websocket")


def keep(options: TlsOptions, context: Context, made: dict[TlsOptions, Context]) -> None:
    """Keep a context among those that were made, for the next connections with these options."""
    if not options.verify and options not in made:
        log.warning("TLS connections are opened with verify=False: any server is accepted")
    made[options] = context
    if len(made) > MOST_CACHED:
        del made[next(iter(made))]


def make_context(options: TlsOptions) -> Context:
    """Make a context; slow, so call it in a thread. Raises ValueError or OSError, with what is
    wrong."""
    import ssl

    if options.verify:
        # There may be comments between the certificates, in any script.
        plain = options.ca.encode("ascii", "replace").decode()
        try:
            context = ssl.create_default_context(cadata=plain or None)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError("the option ca holds no certificates in PEM form") from error
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A server that chooses a cipher with finite-field Diffie-Hellman also chooses its group: 8192
    # bits cost us 230 ms. For TLS 1.3 see client_hello.py.
    ciphers = [cipher["name"] for cipher in context.get_ciphers() if cipher["kea"] != "kx-dhe"]
    context.set_ciphers(":".join(ciphers))
    if options.speaks_http:
        context.set_alpn_protocols(["http/1.1"])
    if options.cert:
        _load(context, options.cert + "\n" + options.key)
    return context


def _load(context: Context, pem: str) -> None:
    """Load a certificate. load_cert_chain takes only files; this one is readable only for us, and
    deleted at once."""
    import ssl
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="wsraw-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(pem)
        context.load_cert_chain(path, None, _refuse_password)
    except ssl.SSLError as error:
        raise ValueError(f"the options cert and key: {explain(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _refuse_password() -> str:
    raise ValueError("the option key is encrypted; give it without a passphrase")
