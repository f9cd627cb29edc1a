"""I/O. The supervisor's part of a gateway upgrade: new settings, the listening sockets that they
need, and reports. The gateways decide themselves which of them serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from wsraw.config.pools import has_default
from wsraw.config.settings import Settings, replaced
from wsraw.config.units import human_time
from wsraw.link.records import Exited
from wsraw.supervisor.processes.process import Installation


class UpgradePlan:
    """The next gateway's part of an upgrade."""

    def __init__(self, settings: Settings, node: str = "") -> None:
        """`node`: the present name of the node."""
        self.settings = settings
        """The settings of the next gateway."""
        self.exited: list[Exited] = []
        """Workers that have exited meanwhile."""
        self.installation: Installation | None = None
        """The wsraw that the next gateway runs, if it is another one."""
        self.reload: list[str] | None = None
        """Pools whose workers are reloaded after the upgrade; None: no reload waits for it."""
        self.text = ""
        """Which settings have changed, and how each takes effect."""
        self.awaits_figures = False
        """Whether a new gateway must still report about its upgrade."""
        self.node = node or os.urandom(4).hex()
        """The name in a cluster, where the settings give none: the same for each gateway."""


OF_RUN: Final = "run_dir"
"""The setting that only a restart of the run changes."""

OF_SUPERVISOR: Final = frozenset(
    (
        "canary_percent",
        "canary_shield",
        "canary_time",
        "drain_timeout",
        "gateway_timeout",
        "log_format",
        "log_rate",
        "max_memory",
        "reload",
        "restart_intensity",
        "start_timeout",
        "stop_timeout",
    )
)
"""Settings that only the supervisor uses."""

OF_ADMIN: Final = frozenset(("admin", "admin_token", "publish_token"))
"""Settings of the admin process."""

OF_AGENT: Final = frozenset(
    ("cluster", "cluster_ca", "cluster_credentials", "cluster_name", "node")
)
"""Settings that the agent of a cluster gets at its start."""

OF_WORKERS: Final = frozenset(
    ("concurrency", "handler_timeout", "listen", "log_level", "on_exception", "static")
)
"""Settings that workers get at their start."""


class Change:
    """The differences between settings and those in force."""

    def __init__(self, old: Settings, new: Settings, can_upgrade: bool = True) -> None:
        self._old = old
        self._can_upgrade = can_upgrade
        fields = old.__struct_fields__
        self.names = [name for name in fields if getattr(old, name) != getattr(new, name)]
        """Names of the settings that differ, in their order."""
        self._new = new
        self.new = replaced(new, run_dir=old.run_dir)
        """The settings that are to be in force."""
        if not can_upgrade:
            here = [name for name in self.names if not self._is_of_gateway(name)]
            self.new = replaced(old, **{name: getattr(new, name) for name in here})

    def _is_of_gateway(self, name: str) -> bool:
        """Whether a changed setting needs a new gateway."""
        if name in ("workers", "pools"):
            # The pools that exist, and how they differ.
            return _without_workers(self._old) != _without_workers(self._new)
        return name != OF_RUN and name not in OF_SUPERVISOR | OF_ADMIN

    @property
    def needs_gateway(self) -> bool:
        """Whether a changed setting needs a new gateway."""
        return self._can_upgrade and any(map(self._is_of_gateway, self.names))

    @property
    def needs_workers(self) -> bool:
        """Whether workers that would stay otherwise must be replaced."""
        return any(name in OF_WORKERS for name in self.names)

    def in_words(self) -> str:
        """How each change takes effect, in words; "" if there is none."""
        parts: dict[str, list[str]] = {}
        for name in self.names:
            parts.setdefault(self._effect(name), []).append(name)
        text = "; ".join(f"{', '.join(those)}: {how}" for how, those in parts.items())
        return f"settings have changed: {text}" if text else ""

    def _effect(self, name: str) -> str:
        is_of_gateway = self._is_of_gateway(name)
        if name == OF_RUN or (is_of_gateway and not self._can_upgrade):
            return "at the next start of the run"
        if name in OF_SUPERVISOR:
            return "at once"
        if name in OF_ADMIN:
            return "by a new admin process"
        if name in ("workers", "pools") and not is_of_gateway:
            return "by starting and stopping workers"
        and_more = ""
        if name in OF_WORKERS or name in ("workers", "pools"):
            and_more = " and new workers"
        elif name in OF_AGENT:
            and_more = " and a new agent"
        return f"by the upgrade of the gateway{and_more}"


def _without_workers(settings: Settings) -> object:
    """The settings of pools as far as gateways know them."""
    return has_default(settings), [replaced(pool, workers=()) for pool in settings.pools]


def in_words(data: Mapping[str, Any], pid: int | None, linger: float) -> str:
    """A new gateway's report about its upgrade, for people."""
    left = data["connections"] - data["moved"]
    text = (
        f"upgraded: {_count(data['moved'], 'connection')} and {_count(data['workers'], 'worker')} "
        f"moved, pause {1000 * data['pause']:.0f} ms; the gateway is process {pid or '-'} now"
    )
    if data["pumped"]:
        text += (
            f"; process {data['pid']} keeps encrypting for "
            f"{_count(data['pumped'], 'TLS connection')}, for {human_time(linger)} at most"
        )
    if left > 0:
        are = "is" if left == 1 else "are"
        text += f"; {_count(left, 'connection')} could not be moved and {are} closed"
    return text


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


Reread = Callable[[], Settings]
"""Reads the settings again. Raises ValueError, with advice."""
