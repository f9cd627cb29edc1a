"""I/O, by its targets. Bridges: each client of a bridge is spliced with a connection to a target.

A bridge is a pool without workers: this module does what handlers do in other pools. The handshake
of a WebSocket waits for the target, so that a client whose target is down gets an HTTP status (502,
or 504 if the target has not answered in time) instead of a connection that ends at once. A raw
client is reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from wsraw.config.addresses import parse_address
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.counters import CLIENTS
from wsraw.gateway.delivery.dispatcher import Bridged
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.splices.passing import answered, client_of, refused
from wsraw.gateway.splices.proxy_header import Place, header
from wsraw.gateway.splices.splices import Splices
from wsraw.gateway.splices.targets import NoTargetError, Targets
from wsraw.link.records import Event, OnConnect, OnError, Reject
from wsraw.runtime.printable import without_secrets

MOST_BEGUN: Final = 50
"""Waiting clients whose targets are opened in a turn."""


class Bridges(Bridged):
    """The bridges of a gateway."""

    def __init__(
        self,
        registry: Registry,
        splices: Splices,
        settings: Settings,
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        """`later`: calls a function after this many seconds; 0: in the next turn."""
        self._registry = registry
        self._splices = splices
        self._later = later
        registry.dispatcher.bridged = self
        self._targets = {each.pool: Targets(each) for each in settings.bridges}
        self._waiting: dict[str, deque[Entry]] = {}
        """By pool, clients that wait for the token file to be read."""
        self._is_called = False

    def tell(self, entry: Entry, event: Event, now: float) -> None:
        """Handle an event of a client, or of the connection to its target."""
        if type(event) is OnConnect and entry.con.opened:
            self._opened(entry, now)
        elif type(event) is OnConnect:
            self._begin(entry, now)
        elif type(event) is OnError and entry.con.opened:
            self._failed(entry, event.message, now)

    def begin_again(self, entry: Entry, now: float) -> None:
        """Open a target for a client that was taken over from another process without one."""
        self._begin(entry, now)

    def _begin(self, entry: Entry, now: float) -> None:
        """Open the target for a client, once it is known."""
        entry.closed_by_handler = True
        pool = entry.pool.name
        if not self._targets[pool].look(now) and pool not in self._waiting:
            self._open(entry, now)
            return
        self._waiting.setdefault(pool, deque()).append(entry)
        self._go_on_later()

    def _go_on_later(self) -> None:
        if self._waiting and not self._is_called:
            self._is_called = True
            self._later(0.0, self._go_on)

    def _go_on(self) -> None:
        """Read on, then open the targets of waiting clients, some in each turn."""
        self._is_called = False
        for pool, waiting in list(self._waiting.items()):
            if self._targets[pool].go_on():
                continue
            for _ in range(min(MOST_BEGUN, len(waiting))):
                self._open_late(waiting.popleft(), self._registry.flow.now)
            if not waiting:
                del self._waiting[pool]
        self._go_on_later()

    def _open_late(self, entry: Entry, now: float) -> None:
        if entry.con.undecided and entry.con.state is not CLOSED and not entry.gone:
            try:
                self._open(entry, now)
            except Exception as error:
                # An error of one client must not affect those behind it.
                self._registry.fault(entry.con, error, now)

    def _open(self, entry: Entry, now: float) -> None:
        registry, con = self._registry, entry.con
        targets = self._targets[entry.pool.name]
        bridge = targets.bridge
        try:
            opening = targets.find(con)
        except NoTargetError as error:
            self._refuse(entry, error.status, str(error), now)
            return
        if bridge.send_proxy != "off":
            has_tls = con.about.get("scheme") in ("wss", "tls")
            place = _place_of(con)
            preface = header(bridge.send_proxy, client_of(con.about), place, has_tls)
            opening = opening._replace(preface=preface)
        target = dialed(registry.ids.new(), opening, con.settings, {}, now)
        other = registry.add(target, entry.pool, now)
        other.closed_by_handler = True
        options = {"framing": bridge.framing, "type": bridge.type or ""}
        why = self._splices.join(entry, other, (0, 0), None, options)
        assert why is None, why
        registry.to_dial.append(other)

    def _opened(self, other: Entry, now: float) -> None:
        """The target is connected: accept the client."""
        entry = self._splices.partner(other)
        if entry is None or not entry.con.undecided:
            return
        ws = other.con.websocket
        subprotocol = None if ws is None or entry.con.websocket is None else ws.subprotocol or ""
        headers = answered(other.con) if ws is not None else []
        events, _ = entry.con.accept(subprotocol, headers, now)
        self._decided(entry, events, now)

    def _failed(self, other: Entry, message: str, now: float) -> None:
        """The target cannot be reached, or was lost."""
        entry = self._splices.partner(other)
        if entry is None or not entry.con.undecided or entry.con.state is CLOSED:
            return
        target = without_secrets(other.con.target)
        is_late = message.startswith("timed out")
        why = f"{target}: {message}"
        ws = other.con.websocket
        reject = refused(entry.id, ws.response if ws is not None else None)
        if reject is not None:
            self._reject(entry, reject, why, now)
        else:
            self._refuse(entry, 504 if is_late else 502, "the target cannot be reached", now, why)

    def _refuse(self, entry: Entry, status: int, told: str, now: float, why: str = "") -> None:
        body = f"{told}\n".encode()
        self._reject(entry, Reject(entry.id, status, body=body), why or told, now)

    def _reject(self, entry: Entry, reject: Reject, why: str, now: float) -> None:
        """Tell a client that it is not connected, and log the reason."""
        con, counters = entry.con, self._registry.counters
        counters.say("warning", "%s cannot be bridged: %s", con.label, why, of=CLIENTS)
        events, _ = con.reject(reject, now)
        if con.websocket is None:
            con.output.drop()
            con.output.reset = True
        self._decided(entry, events, now)

    def _decided(self, entry: Entry, events: list[Event], now: float) -> None:
        registry = self._registry
        registry.take(entry.con, events, now)
        registry.flow.output_changed(entry)
        # The client is read again, and data that came too early is parsed.
        registry.flow.changed[entry] = None
        registry.dirty[entry.con] = None


def _place_of(con: Connection) -> Place:
    """The address to which a client has connected: our end of its socket."""
    sock = getattr(con.endpoint, "sock", None)
    try:
        address = sock.getsockname() if sock is not None else ""
    except OSError:
        address = ""
    if not isinstance(address, tuple):
        return None, 0
    return parse_address(address[0]), address[1]
