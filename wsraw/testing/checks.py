"""Sans-I/O. Settings that an App cannot apply: a test with them would show nothing."""

from __future__ import annotations

from typing import Final

from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings

UNTESTED: Final = (
    "bridges",
    "static",
    "trusted_proxies",
    "connect_proxy",
    "max_connections",
    "max_connections_per_address",
    "message_rate",
    "byte_rate",
    "max_events",
    "max_memory",
    "cluster",
)
"""Settings that clients or handlers would notice in a run. Settings that neither can notice, such
as `log_level`, may be set and have no effect. 0 switches off each of the numbers, as in an App."""


def check(settings: Settings) -> None:
    """Raises ValueError, which says what to do instead, for a setting that an App would ignore."""
    for name in UNTESTED:
        value = getattr(settings, name)
        if value and value != getattr(Settings(), name):
            raise ValueError(_advice(name))
    if len(settings.listen) > 1:
        raise ValueError(_advice("listen", "an App has one listener"))
    if parse_listen(settings.listen[0], settings).tls != "off":
        raise ValueError(_advice("tls", "an App has no TLS"))


def _advice(name: str, why: str = "an App does nothing with it") -> str:
    return (
        f"{name}: {why}; leave it out, and test it with a real run: wsraw_server, or "
        "wsraw.testing.Server"
    )
