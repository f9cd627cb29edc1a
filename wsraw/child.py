"""I/O. The start of a child of the supervisor: `python wsraw gateway`, or `worker [FILE]`, `admin`
or `agent`; and of `wsraw check`: `check FILE`, or `check-tls`.

The first line of stdin has the settings, the second one of a gateway its listening sockets, and the
environment everything else; launch.py says what may follow on stdin. Variables that are secret, or
would mislead a process that a handler starts, are removed.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys

from wsraw.config import settings as settings_module
from wsraw.runtime.launch import Parent, die_with
from wsraw.runtime.log.formatters import ToSupervisor


def main() -> int:
    """Run the gateway or a worker as the environment says; returns the exit code."""
    parent = int(os.environ.pop("WSRAW_PARENT"))
    lock = os.environ.pop("WSRAW_LOCK", "")
    if lock and sys.platform != "win32":
        # The gateway holds the lock; programs that it starts must not inherit it.
        os.set_inheritable(int(lock), False)
    supervisor = Parent(0)
    line = supervisor.line()
    if line is None:
        # The supervisor has ended.
        return 1
    settings = settings_module.from_json(line.decode())
    kind, *rest = sys.argv[1:]
    if kind in ("gateway", "worker", "admin", "agent"):
        _log_to_supervisor(settings.log_level)
        # SIGABRT makes a process that hangs log its stack.
        faulthandler.enable()
    if kind == "gateway":
        from wsraw.gateway import gateway

        return gateway.main(
            settings,
            os.environ.pop("WSRAW_CONTROL"),
            os.environ.pop("WSRAW_CONTROL_TOKEN"),
            int(os.environ.pop("WSRAW_EPOCH")),
            (supervisor.line() or b"").decode().split(),
            os.environ.pop("WSRAW_LINK_FOLDER", ""),
            int(os.environ.pop("WSRAW_EXPECTED", "0")),
            supervisor,
            os.environ.pop("WSRAW_OFFERS", ""),
            os.environ.pop("WSRAW_PREDECESSOR", "").split(),
        )
    die_with(parent)
    if kind == "admin":
        from wsraw.admin import process as admin

        return admin.main(settings, (supervisor.line() or b"").decode(), supervisor)
    if kind == "agent":
        from wsraw.cluster import process as agent

        endpoint, token = os.environ.pop("WSRAW_ENDPOINT"), os.environ.pop("WSRAW_TOKEN")
        return agent.main(settings, endpoint, token, supervisor)
    if kind == "check-tls":
        from wsraw.gateway.tls import check

        return check.main(settings)
    from wsraw.workers import process

    if kind == "check":
        return process.check(rest[0], settings)
    return process.main(
        rest[0] if rest else None,
        os.environ.pop("WSRAW_ENDPOINT"),
        os.environ.pop("WSRAW_TOKEN"),
        os.environ.pop("WSRAW_POOL"),
        settings,
        supervisor=supervisor,
    )


def _log_to_supervisor(level: str) -> None:
    """Set up wsraw's logger so that it works whatever logging a handlers file configures."""
    handler = logging.StreamHandler()
    handler.setFormatter(ToSupervisor())
    ours = logging.getLogger("wsraw")
    ours.setLevel(level.upper())
    ours.addHandler(handler)
    ours.propagate = False
