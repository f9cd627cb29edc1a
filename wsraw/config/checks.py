"""Sans-I/O. Whether settings fit each other; else there is a line that says what to write."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Final

from wsraw.config import pools
from wsraw.config.addresses import Listen, is_count, parse_listen
from wsraw.config.networks import Networks
from wsraw.config.origins import Hosts, Origins
from wsraw.config.settings import KIB, LARGEST_MESSAGE, MIB, Settings, convert

LEAST_MEMORY: Final = MIB
"""Bytes. A number without its unit (512 for 512MiB) would let nobody in."""

ONE_READ: Final = 64 * KIB
"""The most that is read from a connection in a turn."""

LARGEST: Final = 1e15
"""Of seconds, and of what a client may do in a second: clocks overflow long before 1e308."""

LONGEST_HEARTBEAT: Final = 60.0
"""Seconds; beyond that nobody would call it one."""


def from_options(options: Mapping[str, Any]) -> Settings:
    """Settings from names and values, all checked. Raises ValueError with a line for the user,
    which begins with the name of a setting."""
    settings: Settings = convert(options)
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, float) and not value <= LARGEST:
            raise ValueError(f"{name}: {value} is not a usable number; 0 switches the setting off")
    if settings.low_water_mark > settings.high_water_mark:
        raise ValueError(
            f"low_water_mark ({settings.low_water_mark}) must not be above "
            f"high_water_mark ({settings.high_water_mark})"
        )
    least = settings.high_water_mark + ONE_READ
    if settings.output_limit < least:
        raise ValueError(
            f"output_limit ({settings.output_limit}) must be at least {least}: high_water_mark and "
            f"one read of {ONE_READ}; else a connection is closed before its peer is paused"
        )
    if 0 < settings.memory_limit < LEAST_MEMORY:
        raise ValueError(
            f"memory_limit ({settings.memory_limit}) is in bytes and must be at least "
            f"{LEAST_MEMORY} (1MiB), as fewer hold no clients; write units, such as 512MiB"
        )
    if settings.max_frame_size > settings.max_message_size:
        raise ValueError(
            f"max_frame_size ({settings.max_frame_size}) must not be above max_message_size "
            f"({settings.max_message_size}): a frame is no larger than its message"
        )
    if settings.max_message_size > LARGEST_MESSAGE:
        raise ValueError(
            f"max_message_size ({settings.max_message_size}) must not be above {LARGEST_MESSAGE} "
            f"({LARGEST_MESSAGE // MIB}MiB): a larger message does not reach a worker in one "
            "piece; let clients send it in fragments, which are handled one by one"
        )
    if not settings.listen:
        raise ValueError("listen: at least one HOST:PORT is needed")
    if settings.tls_key and not settings.tls_cert:
        raise ValueError("tls_key needs a tls_cert; they may stand in the same file")
    for text in settings.listen:
        _check_proxies(parse_listen(text, settings), settings)
    _check("origins", Origins, settings.origins)
    _check("hosts", Hosts, settings.hosts)
    _check("trusted_proxies", Networks, settings.trusted_proxies)
    pools.check(settings)
    _check_link(settings)
    return settings


def _check_link(settings: Settings) -> None:
    """Whoever reaches the link can be every handler: on a network it needs keys."""
    for text in settings.worker_listen:
        if parse_worker_listen(text) or settings.link_key or settings.insecure_link:
            continue
        raise ValueError(
            f"worker_listen: {text!r} is open to the network: make keys with `wsraw keygen` and "
            "give --link-key and --worker-keys (or --insecure-link, if nobody can read along)"
        )
    if bool(settings.link_key) != bool(settings.worker_keys):
        given, missing = "link_key", "worker_keys"
        if settings.worker_keys:
            given, missing = missing, given
        raise ValueError(f"{given}: {missing} is needed, too: both sides of a link have a key")
    if settings.link_key and not settings.worker_listen:
        raise ValueError(
            "link_key: nobody listens for workers elsewhere: give --worker-listen "
            "tcp://ADDRESS:PORT, too"
        )
    if settings.worker_heartbeat > LONGEST_HEARTBEAT:
        raise ValueError(f"worker_heartbeat: at most {LONGEST_HEARTBEAT:g} seconds; 0 sends none")


def _check_proxies(listen: Listen, settings: Settings) -> None:
    if listen.proxy_protocol != "off" and not settings.trusted_proxies:
        raise ValueError(
            f"listen: {listen.name!r}: proxy_protocol needs trusted_proxies, the networks that "
            "proxies connect from; with a header anybody could take any address"
        )
    if listen.proxy_protocol == "optional" and (
        listen.protocol == "raw" or listen.first_byte_timeout
    ):
        raise ValueError(
            f"listen: {listen.name!r}: proxy_protocol=optional does not go with raw:// and "
            "first_byte_timeout; of a client that says nothing nobody can know. Use required"
        )


def _check(name: str, kind: Callable[[tuple[str, ...]], object], values: tuple[str, ...]) -> None:
    try:
        kind(values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def parse_worker_listen(text: str) -> bool:
    """Whether a `worker_listen` value can be reached from this machine alone.

    Raises ValueError with a line that says what to write instead.
    """
    wrong = ValueError(
        f"worker_listen: {text!r}: write tcp://ADDRESS:PORT with an IP address of this machine, as "
        "in tcp://10.0.0.1:7788 or tcp://[::1]:7788 (0.0.0.0 or [::] for every network)"
    )
    address = text.removeprefix("tcp://")
    host, colon, port = address.rpartition(":")
    if address == text or not colon or not is_count(port):
        raise wrong
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        raise wrong from None
    if int(port) > 65535 or (ip.version == 6) != (bare != host):
        raise wrong
    return ip.is_loopback
