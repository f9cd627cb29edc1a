"""I/O, by its targets. Bridges: each client of theirs is spliced with a connection to a target.

A bridge is a pool without workers: what handlers do in other pools is done here. The handshake of a
WebSocket waits for the target, so that a client whose target is down gets an HTTP status (502, or
504 if it has not answered in time) and no connection that ends at once. A raw client is reset.
"""

from __future__ import annotations

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.delivery.dispatcher import Bridged
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.splices.splices import Splices
from wsraw.gateway.splices.targets import NoTargetError, Targets
from wsraw.link.records import Event, OnConnect, OnError, Reject
from wsraw.runtime.printable import without_secrets


class Bridges(Bridged):
    """The bridges of a gateway."""

    def __init__(self, registry: Registry, splices: Splices, settings: Settings) -> None:
        self._registry = registry
        self._splices = splices
        registry.dispatcher.bridged = self
        self._bridges = {each.pool: (each, Targets(each)) for each in settings.bridges}

    def tell(self, entry: Entry, event: Event, now: float) -> None:
        """An event of a client, or of the connection to its target."""
        if type(event) is OnConnect and entry.con.opened:
            self._opened(entry, now)
        elif type(event) is OnConnect:
            self._begin(entry, now)
        elif type(event) is OnError and entry.con.opened:
            self._failed(entry, event.message, now)

    def _begin(self, entry: Entry, now: float) -> None:
        """Open the target for a client."""
        registry, con = self._registry, entry.con
        entry.closed_by_handler = True
        bridge, targets = self._bridges[entry.pool.name]
        offered = con.websocket.offered if con.websocket is not None else []
        try:
            opening = targets.find(con, offered, now)
        except NoTargetError as error:
            self._refuse(entry, error.status, str(error), now)
            return
        target = dialed(registry.ids.new(), opening, con.settings, {}, now)
        other = registry.add(target, entry.pool, now)
        other.closed_by_handler = True
        options = {"framing": bridge.framing, "type": bridge.type or ""}
        why = self._splices.join(entry, other, (0, 0), None, options)
        assert why is None, why
        registry.to_dial.append(other)

    def _opened(self, other: Entry, now: float) -> None:
        """The target is there: let the client in."""
        entry = self._splices.partner(other)
        if entry is None or not entry.con.undecided:
            return
        ws = other.con.websocket
        subprotocol = None if ws is None or entry.con.websocket is None else ws.subprotocol or ""
        events, _ = entry.con.accept(subprotocol, {}, now)
        self._decided(entry, events, now)

    def _failed(self, other: Entry, message: str, now: float) -> None:
        """The target cannot be reached, or was lost."""
        entry = self._splices.partner(other)
        if entry is None or not entry.con.undecided or entry.con.state is CLOSED:
            return
        target = without_secrets(other.con.target)
        is_late = message.startswith("timed out")
        why = f"{target}: {message}"
        self._refuse(entry, 504 if is_late else 502, "the target cannot be reached", now, why)

    def _refuse(self, entry: Entry, status: int, told: str, now: float, why: str = "") -> None:
        """Tell a client that it is not connected, and the log the reason."""
        con, counters = entry.con, self._registry.counters
        counters.say("warning", "%s is not bridged: %s", con.label, why or told)
        events, _ = con.reject(Reject(con.id, status, body=f"{told}\n".encode()), now)
        if con.websocket is None:
            con.output.drop()
            con.output.reset = True
        self._decided(entry, events, now)

    def _decided(self, entry: Entry, events: list[Event], now: float) -> None:
        registry = self._registry
        registry.take(entry.con, events, now)
        registry.flow.output_changed(entry)
        # It reads again, and what came too early is parsed.
        registry.flow.changed[entry] = None
        registry.dirty[entry.con] = None
