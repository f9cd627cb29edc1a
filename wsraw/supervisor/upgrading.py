"""I/O. An upgrade of the gateway, as far as it is the supervisor's: new settings, the listening
sockets that these need, and what is said of it. Who takes over, the gateways decide themselves."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from wsraw.config.addresses import Listen, parse_listen
from wsraw.config.settings import Settings, replaced
from wsraw.config.units import human_time
from wsraw.link.records import Exited
from wsraw.runtime import sockets as listening
from wsraw.supervisor.processes.process import Installation

Bound = list[tuple[socket.socket, Listen]]


class Plan:
    """The next gateway's part of an upgrade."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        """Those that it has."""
        self.sockets: Bound = []
        """Those that it listens on."""
        self.new_sockets: Bound = []
        """Those of them that no gateway has listened on before."""
        self.exited: list[Exited] = []
        """Workers that have ended meanwhile."""
        self.installation: Installation | None = None
        """The wsraw that it runs, if that is another one."""
        self.reload: list[str] = []
        """Pools whose workers are to be reloaded after the upgrade."""
        self.text = ""
        """Which settings have changed, and how each takes effect."""
        self.node = secrets.token_hex(4)
        """The name in a cluster, where the settings give none: the same for each gateway."""


OF_RUN: Final = frozenset(
    (
        "admin",
        "admin_token",
        "bridges",
        "cluster",
        "log_format",
        "max_memory",
        "node",
        "pools",
        "reload",
        "restart_intensity",
        "run_dir",
        "workers",
    )
)
"""Settings that only a new start of the run changes."""

OF_SUPERVISOR: Final = frozenset(
    (
        "canary_percent",
        "canary_time",
        "drain_timeout",
        "gateway_timeout",
        "log_rate",
        "start_timeout",
        "stop_timeout",
    )
)
"""Settings that the supervisor alone knows."""

OF_WORKERS: Final = frozenset(
    ("concurrency", "handler_timeout", "listen", "log_level", "on_exception", "static")
)
"""Settings that workers are told at their start."""


def changed(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ, in their order."""
    return [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def fixed(old: Settings) -> dict[str, Any]:
    """The values of what only a new start changes."""
    return {name: getattr(old, name) for name in OF_RUN}


def without_gateway(old: Settings, new: Settings) -> Settings:
    """The settings in force where the gateway keeps its own: `old`, with what the supervisor alone
    changes."""
    return replaced(old, **{name: getattr(new, name) for name in OF_SUPERVISOR})


def effects(names: Iterable[str], can_upgrade: bool = True) -> str:
    """How each of these settings takes effect, in words."""
    parts: dict[str, list[str]] = {}
    for name in names:
        if name in OF_RUN or not (can_upgrade or name in OF_SUPERVISOR):
            how = "at the next start of the run"
        elif name in OF_SUPERVISOR:
            how = "at once"
        elif name in OF_WORKERS:
            how = "by the upgrade of the gateway and new workers"
        else:
            how = "by the upgrade of the gateway"
        parts.setdefault(how, []).append(name)
    return "; ".join(f"{', '.join(those)}: {how}" for how, those in parts.items())


def needs_gateway(names: Iterable[str]) -> bool:
    """Whether one of these settings needs a new gateway."""
    return any(name not in OF_RUN | OF_SUPERVISOR for name in names)


def needs_workers(names: Iterable[str]) -> bool:
    return any(name in OF_WORKERS for name in names)


def in_words(data: Mapping[str, Any], pid: int | None, linger: float) -> str:
    """What a gateway says of the upgrade that has made it one, for people."""
    left = data["connections"] - data["moved"]
    text = (
        f"upgraded: {_count(data['moved'], 'connection')} and {_count(data['workers'], 'worker')} "
        f"moved, pause {1000 * data['pause']:.0f} ms; the gateway is process {pid or '-'} now"
    )
    if data["pumped"]:
        text += (
            f"; process {data['pid']} goes on encrypting for "
            f"{_count(data['pumped'], 'TLS connection')}, for {human_time(linger)} at most"
        )
    if left > 0:
        are = "is" if left == 1 else "are"
        text += f"; {_count(left, 'connection')} could not be moved and {are} closed"
    return text


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def sockets_for(settings: Settings, bound: Bound) -> tuple[Bound, Bound]:
    """The listening socket of each listener, and those of them that are new. Raises OSError, with
    advice, and then leaves nothing open."""
    free = {_place(listen): sock for sock, listen in bound}
    found: Bound = []
    new: Bound = []
    try:
        for text in settings.listen:
            listen = parse_listen(text, settings)
            sock = free.pop(_place(listen), None)
            if sock is None:
                sock = listening.bind(listen)
                new.append((sock, listen))
            found.append((sock, listen))
    except BaseException:
        close(new)
        raise
    return found, new


def _place(listen: Listen) -> tuple[object, ...]:
    return (listen.fd, listen.path, listen.host, listen.port)


def close(bound: Bound) -> None:
    """Stop listening there."""
    for sock, listen in bound:
        listening.close(sock, listen)


Reread = Callable[[], Settings]
"""Reads the settings anew. Raises ValueError, with advice."""
