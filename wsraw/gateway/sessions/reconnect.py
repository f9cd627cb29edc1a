"""Sans-I/O. Successors of connections that were opened with `reconnect`.

A successor is a new connection with a new id: the old one has had its on_close, and its peer has
forgotten it. The successor takes over the name and the worker. Data sent to it waits until it is
open; then its on_connect comes, even if it is raw. An attempt that fails is reported like any other
end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.delivery.accounts import size_of
from wsraw.gateway.delivery.entry import Entry, Reopening
from wsraw.gateway.delivery.registry import Registry
from wsraw.link.states import GONE, READY

FIRST_DELAY: Final = 0.5
"""Seconds before the first attempt; doubled after each failed one."""

LONGEST_DELAY: Final = 30.0

MOST_DOUBLINGS: Final = 10
"""More than enough to reach LONGEST_DELAY."""

STABLE_AFTER: Final = 10.0
"""Seconds for which a connection must have been open for the count of attempts to start again."""

WANTED: Final = {"handler", "going-away", "owner-left"}
"""Causes of a wanted end, after which there is no successor."""


def reopen_ended(registry: Registry, random: Callable[[], float], now: float) -> None:
    """Once a turn: open successors of connections that have ended, with backoff, and with jitter so
    that thousands do not come back at once."""
    ended, registry.ended = registry.ended, []
    for entry in ended:
        try:
            _reopen(registry, entry, random, now)
        except Exception as error:
            registry.fault(entry.con, error, now)


def _reopen(registry: Registry, entry: Entry, random: Callable[[], float], now: float) -> None:
    reopening, entry.reopening = entry.reopening, None
    if reopening is None or registry.stopping or entry.con.ending.cause in WANTED:
        return
    attempts = 0 if now - entry.con.keepalive.opened_at > STABLE_AFTER else reopening.attempts
    # Without this bound, a night without the server would overflow a float.
    doubled = FIRST_DELAY * 2.0 ** min(attempts, MOST_DOUBLINGS)
    delay = min(LONGEST_DELAY, doubled) * (0.5 + random() / 2)
    about = {"reconnects": attempts + 1}
    con = dialed(registry.ids.new(), reopening.asked, registry.settings, about, now + delay)
    holder = entry.holder
    pool = registry.pool_of(holder) if holder is not None else registry.pool(entry.pool.name)
    successor = registry.add(con, pool, now)
    successor.reopening = Reopening(reopening.asked, attempts + 1)
    registry.flow.keep(successor, size_of(reopening.asked))
    successor.dial_at = now + delay
    successor.name = entry.name
    if entry.owner is not None and entry.owner.session.state is not GONE:
        successor.owner = entry.owner
        entry.owner.ties.add(successor)
    if holder is not None and holder.session.state is READY:
        registry.dispatcher.hold(successor, holder)
    successor.heard = True
    registry.succeed(entry, successor)
    registry.to_dial.append(successor)
