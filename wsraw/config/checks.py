"""Sans-I/O. Checks of settings that depend on each other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from wsraw.config import options, pools
from wsraw.config.addresses import (
    Listen,
    Networks,
    is_loopback,
    is_loopback_endpoint,
    parse_admin,
    parse_listen,
)
from wsraw.config.origins import Hosts, Origins
from wsraw.config.patterns import GroupPattern
from wsraw.config.settings import KIB, LARGEST_REMOTE_MESSAGE, MIB, Settings
from wsraw.config.units import show_size
from wsraw.link.open_options import parse_proxy

LEAST_MEMORY: Final = MIB
"""Bytes. A number whose unit was forgotten (512 for 512MiB) would refuse all clients."""

LEAST_GATEWAY_TIMEOUT: Final = 1.0
"""Seconds. On a busy machine an answer takes milliseconds, but one that is too late disconnects all
clients."""

NODE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a node or a cluster may be named: the name is part of a NATS subject and of references."""

ONE_READ: Final = 64 * KIB
"""Most bytes read from a connection in a turn."""


def from_options(values: Mapping[str, Any]) -> Settings:
    """Settings from values by name, checked. Raises ValueError like `check`."""
    settings = Settings(**{name: options.read(name, value) for name, value in values.items()})
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Raises ValueError with one line for the user, which begins with the name of a setting."""
    _check_sizes(settings)
    if not settings.listen:
        raise ValueError("listen: at least one HOST:PORT is needed")
    if settings.tls_key and not settings.tls_cert:
        raise ValueError("tls_key needs tls_cert, which may be the same file")
    for text in settings.listen:
        listen = parse_listen(text, settings)
        _check_proxies(listen, settings)
        if listen.plain_http == "static" and not settings.static:
            raise ValueError("plain_http: 'static' needs the setting static, the folder")
    _check_list("origins", Origins, settings.origins)
    _check_list("hosts", Hosts, settings.hosts)
    _check_list("trusted_proxies", Networks, settings.trusted_proxies)
    pools.check(settings)
    pools.check_subprotocols("subprotocols", settings.subprotocols)
    if 0 < settings.gateway_timeout < LEAST_GATEWAY_TIMEOUT:
        raise ValueError(
            f"gateway_timeout: {settings.gateway_timeout:g} s is too short for any gateway: write "
            f"{LEAST_GATEWAY_TIMEOUT:g}s or more, or 0 for none"
        )
    if settings.connect_proxy:
        try:
            parse_proxy(settings.connect_proxy)
        except ValueError as error:
            raise ValueError(f"connect_proxy: {error}") from error
    _check_groups(settings)
    _check_admin(settings)
    _check_link(settings)
    _check_cluster(settings)


def _check_sizes(settings: Settings) -> None:
    least = settings.high_water_mark + ONE_READ
    if settings.output_limit < least:
        raise ValueError(
            f"output_limit ({settings.output_limit}) must be at least {least}, high_water_mark "
            f"plus one read of {ONE_READ}: otherwise a slow reader is closed before the connection "
            "that is coupled with it is paused"
        )
    if 0 < settings.memory_limit < LEAST_MEMORY:
        raise ValueError(
            f"memory_limit ({settings.memory_limit} bytes) must be at least 1MiB; write a unit, as "
            "in 512MiB"
        )


def _check_groups(settings: Settings) -> None:
    patterns = [("history: groups", each.groups) for each in settings.history]
    patterns += [("presence", text) for text in settings.presence]
    for name, text in patterns:
        try:
            GroupPattern(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_admin(settings: Settings) -> None:
    """Check `admin`: all who can reach that address see what the run does."""
    if not settings.admin:
        for name in ("admin_token", "publish_token"):
            if getattr(settings, name):
                raise ValueError(f"{name} needs the setting admin, as in 127.0.0.1:9100")
        return
    if not (is_loopback(parse_admin(settings.admin).host) or settings.admin_token):
        raise ValueError(
            f"admin: {settings.admin!r} can be reached from other machines: give admin_token, a "
            "file with a secret, or write 127.0.0.1:PORT"
        )


def _check_link(settings: Settings) -> None:
    """Check the link: whoever connects to it can act as any handler, so on a network it needs keys.
    Batches from a network are also smaller."""
    for text in settings.worker_listen:
        if is_loopback_endpoint(text) or settings.link_key:
            continue
        raise ValueError(
            f"worker_listen: {text!r} is open to the network: make keys with `wsraw keygen`, and "
            "give link_key and worker_keys"
        )
    if settings.worker_listen and settings.max_message_size > LARGEST_REMOTE_MESSAGE:
        raise ValueError(
            f"max_message_size ({show_size(settings.max_message_size)}) must be at most "
            f"{show_size(LARGEST_REMOTE_MESSAGE)} with worker_listen: a worker on another machine "
            "could not send a longer message back"
        )
    if bool(settings.link_key) != bool(settings.worker_keys):
        given, missing = "link_key", "worker_keys"
        if settings.worker_keys:
            given, missing = missing, given
        raise ValueError(f"{given} needs {missing}: both sides of the link have keys")
    if settings.link_key and not settings.worker_listen:
        raise ValueError("link_key needs worker_listen, as in tcp://ADDRESS:PORT")


def _check_cluster(settings: Settings) -> None:
    if settings.reuse_port and not sys.platform.startswith("linux"):
        raise ValueError("reuse_port works only on Linux; start each run on a port of its own")
    for name in ("cluster_name", "node"):
        value = getattr(settings, name)
        if value and not NODE_NAME.fullmatch(value):
            raise ValueError(
                f"{name}: {value!r}: write 1 to 64 letters, digits, - and _, as in gateway-1"
            )
    if not settings.cluster_name:
        raise ValueError("cluster_name: it must not be empty; wsraw is the default")
    for name in ("node", "cluster_credentials", "cluster_ca"):
        if getattr(settings, name) and not settings.cluster:
            raise ValueError(f"{name} needs the setting cluster, as in nats://127.0.0.1:4222")
    for url in settings.cluster:
        check_nats(url)
    if len({url.partition("://")[0] for url in settings.cluster}) > 1:
        raise ValueError("cluster: write nats:// or tls:// for all servers: they are one cluster")


def check_nats(url: str) -> None:
    """Check the URL of a NATS server. Raises ValueError."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("nats", "tls") and parts.hostname and parts.port
    except ValueError:
        known = None
    if not known or parts.path or parts.query or parts.fragment:
        shown = url.rpartition("@")[2]
        raise ValueError(f"cluster: {shown!r}: write nats://HOST:4222, or tls://HOST:4222")


def _check_proxies(listen: Listen, settings: Settings) -> None:
    if listen.proxy_protocol != "off" and not settings.trusted_proxies:
        raise ValueError(
            f"listen: {listen.name!r}: proxy_protocol needs trusted_proxies, the networks of the "
            "proxies: otherwise any client could claim any address"
        )
    if listen.proxy_protocol == "optional" and (
        listen.protocol == "raw" or listen.first_byte_timeout
    ):
        raise ValueError(
            f"listen: {listen.name!r}: proxy_protocol=optional does not work with raw:// and "
            "first_byte_timeout, as a client may be silent; use required"
        )


def _check_list(
    name: str, kind: Callable[[tuple[str, ...]], object], values: tuple[str, ...]
) -> None:
    try:
        kind(values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
