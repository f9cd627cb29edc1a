"""Sans-I/O. What is checked: rules by name, each with its number in docs/worker-protocol.md.

A rule is *standing* when it is watched for all the time (watch.py), else it has a check of its own,
which is a script: a generator that yields what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias


class Until(NamedTuple):
    """What a script waits for: the condition, at most so many seconds. The answer is whether it
    came true."""

    condition: Callable[[], bool]
    seconds: float


Script: TypeAlias = Generator[Until, bool, None]
Check: TypeAlias = Callable[[Any], Script]
"""Given the stage (stage.py), which knows rules itself."""


class Breach(Exception):  # noqa: N818
    """A rule is broken; `record` shows what has broken it, for people."""

    def __init__(self, why: str, record: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.record = record


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the report."""

    name: str
    section: str
    """The number of the rule, or the heading, in docs/worker-protocol.md."""
    meaning: str
    check: Check | None = None
    common: bool = False
    """Needs the common behaviour, which the examples of all languages have."""


STANDING: Final = (
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
    Rule("hello-held", "14", "`held` has no connection that was never given out, or that is gone."),
    Rule("session", "2", "Each batch has the number of the session; only `hello` has 0."),
    Rule("ack-once", "2", "Only events in flight are acked, and each once."),
    Rule("ack-order", "4", "The events of one connection are acked in their order."),
    Rule("ids", "16", "Commands are for connections that the worker knows."),
    Rule("state-taken", "13", "`state` is sent before the ack of an event of its connection."),
    Rule("bye-last", "12", "Nothing comes after `bye`."),
)
