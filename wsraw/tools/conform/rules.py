"""Sans-I/O. The rules by name, each with its number or heading in docs/worker-protocol.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wsraw.tools.conform.played_gateway import PlayedGateway


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the report."""

    name: str
    section: str
    meaning: str
    check: Callable[[PlayedGateway], None] | None = None
    """The check; None for a continuous rule."""
    common: bool = False
    """It needs the common behaviour, which the examples in all languages have."""


CONTINUOUS: Final = (
    Rule("probe", "Socket options", "A new link begins with the empty message of PROBE_ROUTER."),
    Rule("routing-id", "Socket options", "The worker lets libzmq choose its routing id."),
    Rule(
        "batch",
        "Shape",
        "A message is one frame and one array, which begins with the session's number.",
    ),
    Rule("records", "16", "Each record is in the tables, and its fields have their types."),
    Rule("hello-asked", "The dialog", "`hello` answers a `who`, once each time."),
    Rule("hello-fields", "Fields", "`hello` has version, pool, token, and an instance that stays."),
    Rule(
        "hello-held",
        "14",
        "`held` lists only open connections that the worker was given.",
    ),
    Rule("session", "2", "Each batch has the number of the session; only `hello` has 0."),
    Rule("ack-once", "2", "Only events in flight are acked, and each once."),
    Rule("ack-order", "4", "The events of one connection are acked in their order."),
    Rule("ids", "16", "Commands are for connections that the worker knows."),
    Rule("state-taken", "13", "`state` is sent before the ack of an event of its connection."),
    Rule("bye-last", "12", "Nothing comes after `bye`."),
)
"""Rules for everything that a worker sends (continuous_rules.py)."""
