"""Sans-I/O. What requests about connections are made of: generators that work in small steps.

A request yields None after a step, or a full page; it returns its last page. So a request about
100,000 connections takes many turns, and no client waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.registry import Registry

COMPARED: Final = 128
"""Connections whose ids are compared in a step."""

Row: TypeAlias = dict[str, Any]


class InspectionResult(NamedTuple):
    """The last page of a request, or why it cannot be answered."""

    ok: bool
    text: str = ""
    data: Any = None


Steps: TypeAlias = Generator[list[Row] | None, None, InspectionResult]
"""Pages of rows, and None between two steps."""

Look: TypeAlias = Callable[[Connection], dict[str, Any]]
"""The kernel's figures of a connection."""


def id_of(options: Mapping[str, Any]) -> int:
    """The value of the option `id`. Raises ValueError."""
    con_id = options.get("id")
    if not isinstance(con_id, int) or isinstance(con_id, bool):
        raise ValueError(f"id: {con_id!r} is not the id of a connection")
    return con_id


def find(registry: Registry, con_id: int) -> Generator[None, None, Connection | str]:
    """The connection with that id, or why there is none."""
    entry = registry.entries.get(con_id)
    if entry is not None:
        return entry.con
    # Connections that have sent nothing are otherwise never looked up by their ids.
    silent = list(registry.flow.without_entry)
    for start in range(0, len(silent), COMPARED):
        for con in silent[start : start + COMPARED]:
            if con.id == con_id and con.entry is None and con.state is not CLOSED:
                return con
        yield None
    if registry.ids.was_given(con_id):
        return f"connection {con_id} has ended"
    return f"there is no connection {con_id}"
