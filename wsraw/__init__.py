"""wsraw: WebSocket and raw TCP clients on one port, their handlers in worker processes.

These are the names that a handlers file imports; docs/handlers.md explains them. Each is loaded
when it is first used, because the gateway and the supervisor do not need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsraw.workers.api import (
        call_soon,
        connection,
        connections,
        count,
        flush,
        join,
        leave,
        members,
        open_client_connection,
        publish,
        send_message,
        send_to_user,
        user_connections,
        users,
    )
    from wsraw.workers.connection import (
        BinaryMsg,
        Connection,
        Message,
        Msg,
        RawMsg,
        RemoteConnection,
        TextMsg,
    )
    from wsraw.workers.loading.handlers import every
    from wsraw.workers.questions import Joined
    from wsraw.workers.request import Inf, Request

__all__ = [
    "BinaryMsg",
    "Connection",
    "Inf",
    "Joined",
    "Message",
    "Msg",
    "RawMsg",
    "RemoteConnection",
    "Request",
    "TextMsg",
    "call_soon",
    "connection",
    "connections",
    "count",
    "every",
    "flush",
    "join",
    "leave",
    "members",
    "open_client_connection",
    "publish",
    "send_message",
    "send_to_user",
    "user_connections",
    "users",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsraw.workers import api, connection, questions, request
    from wsraw.workers.loading import handlers

    homes = (api, connection, questions, request, handlers)
    home = next(each for each in homes if name in vars(each))
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
