"""I/O. Whether the files that TLS needs can be read: looked at before anything starts, so that
what is said of them begins with where they were named. What is in them is for the gateway to judge,
which reads them anew for each reload.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsraw.config.addresses import Listen, parse_listen, tls_pairs
from wsraw.config.sources import Configuration, ConfigurationError, at


def check(found: Configuration) -> None:
    """Raises ConfigurationError for the first one that cannot be read."""
    settings = found.settings
    for text in settings.listen:
        listen = parse_listen(text, settings)
        for name, file in _files(listen) if listen.tls != "off" else ():
            why = _why_not(file)
            if not why:
                continue
            setting, message = name, f"{name}: {file}: {why}"
            if getattr(listen, name) != getattr(settings, name):
                # It stands behind the address.
                setting, message = "listen", f"listen: {text!r}: {message}"
            raise ConfigurationError(at(found.sources.get(setting, setting), setting, message))


def _files(listen: Listen) -> Iterator[tuple[str, str]]:
    """Each with the setting that names it."""
    for pair in tls_pairs(listen):
        yield "tls_cert", pair.cert
        if pair.key:
            yield "tls_key", pair.key
    if listen.tls_client_ca:
        yield "tls_client_ca", listen.tls_client_ca


def _why_not(file: str) -> str:
    try:
        with open(file, "rb"):
            return ""
    except OSError as error:
        return error.strerror or str(error)
