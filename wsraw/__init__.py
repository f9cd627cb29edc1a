"""wsraw: WebSocket and raw TCP clients on one port, their handlers in worker processes.

These are the names that a handlers file imports; docs/handlers.md explains them. They are loaded
when they are asked for, as the gateway and the supervisor have no use for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsraw.workers.api import (
        call_soon,
        connection,
        flush,
        join,
        leave,
        open_client_connection,
        publish,
        send_message,
    )
    from wsraw.workers.connection import Connection
    from wsraw.workers.loading.handlers import every
    from wsraw.workers.request import Inf, Request

__all__ = [
    "Connection",
    "Inf",
    "Request",
    "call_soon",
    "connection",
    "every",
    "flush",
    "join",
    "leave",
    "open_client_connection",
    "publish",
    "send_message",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsraw.workers import api, connection, request
    from wsraw.workers.loading import handlers

    homes = {"Connection": connection, "Inf": request, "Request": request, "every": handlers}
    value = globals()[name] = getattr(homes.get(name, api), name)
    return value
