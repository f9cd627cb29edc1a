"""I/O. All client sockets of the gateway: listening, connecting, and open."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any, Final

from wsraw.config.addresses import UNIX, Listen, parse_address
from wsraw.config.settings import Settings
from wsraw.gateway.admission.per_address import (
    FULL,
    MOST_REFUSED,
    OVER_LIMIT,
    AddressLimits,
    address_key,
)
from wsraw.gateway.connection.accepting import accepted, refused
from wsraw.gateway.connection.connection import CLOSED, CONNECTING, OPEN, Connection
from wsraw.gateway.connection.rate_limit import RateLimit
from wsraw.gateway.delivery.entry import PAUSED_RATE, Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sockets.descriptors import Descriptors
from wsraw.gateway.sockets.dialer import Dialer
from wsraw.gateway.sockets.endpoint import Endpoint, Shared
from wsraw.gateway.sockets.handshake import TlsHandshake
from wsraw.gateway.sockets.listener import Listener
from wsraw.gateway.sockets.transport import reset
from wsraw.gateway.tls.client_contexts import OpenTls
from wsraw.gateway.tls.server_contexts import ServerContexts
from wsraw.runtime.log.line import Subject
from wsraw.runtime.loop import Loop
from wsraw.runtime.printable import without_secrets
from wsraw.runtime.sockets import INHERITED, printable, tune, undelivered

WRITE_BUDGET: Final = 512
"""Connections that are written to in a turn, in the order in which they became dirty."""

WRITE_TIME: Final = 0.002
"""Seconds of a turn for writing, and at least half as many for closing; the rest waits for the next
turn."""

MEASURED: Final = 8
"""Writes in a turn that are timed to find out how long one takes."""

READ_TIME: Final = 0.0015
"""Seconds of a turn for pauses and the read queue."""


class Sockets:
    """Endpoints and listeners, and their steps in a turn."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        settings: Settings,
        descriptors: Descriptors | None = None,
    ) -> None:
        self.descriptors = descriptors or Descriptors()
        self.loop = loop
        self.registry = registry
        self.settings = settings
        self.shared = Shared(loop, registry, settings)
        self.handshakes = self.shared.handshakes
        self.endpoints: set[Endpoint] = set()
        self.total = 0
        """Connections since the start, accepted or opened."""
        self.listeners: list[Listener] = []
        self.admission = AddressLimits(
            settings.max_connections, settings.max_connections_per_address
        )
        registry.policy.address_limits = self.admission
        self._refused: set[Endpoint] = set()
        """Endpoints of clients above a limit, whose first bytes decide how they are refused."""
        self.overdrawn: dict[int, None] = {}
        """The ids of connections that have sent more than their rate allows."""
        self.holds_off = False
        """No client is accepted for a moment, because the gateway is about to be replaced."""
        self._contexts: dict[str, ServerContexts] = {}
        """By name, the contexts of each listener with TLS."""
        self._dialer = Dialer(
            loop,
            self._connected,
            self._failed,
            self._fault,
            self.descriptors,
            settings.connect_proxy,
        )

    # --- listeners ---

    def listen(self, listen: Listen, given: socket.socket | None) -> None:
        """Accept from a socket that our parent has given, or open one. Raises OSError, or
        ValueError for its certificates, with advice."""
        if listen.tls != "off":
            self._contexts[listen.name] = ServerContexts(listen)
        self.listeners.append(Listener(self.loop, listen, self._accepted, given, self.descriptors))

    def reload_certificates(self) -> str:
        """Read all certificates again, for new connections. If one is wrong, all stay as they are,
        and the reason is returned."""
        listens = [each.listen for each in self.listeners if each.listen.tls != "off"]
        try:
            fresh = {listen.name: ServerContexts(listen) for listen in listens}
        except ValueError as error:
            return str(error)
        self._contexts = fresh
        return ""

    def certificates(self) -> list[dict[str, Any]]:
        """The certificates in use, and when they expire, as far as that is known."""
        return [
            {"listener": name, "cert": cert, "not_after": end}
            for name, contexts in self._contexts.items()
            for cert, end in contexts.ends.items()
            if end is not None
        ]

    def update_listeners(self) -> None:
        room = not self.registry.flow.crowded and not self.holds_off
        for listener in self.listeners:
            if listener.accepting is not room or listener.exhausted_until:
                listener.update(room)

    def close_listeners(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners = []

    # --- connections ---

    def _fault(self, con: Connection, error: BaseException) -> None:
        """A bug in wsraw has raised while this connection was handled: end the connection."""
        endpoint = con.endpoint
        if isinstance(endpoint, Endpoint) and endpoint in self.endpoints:
            endpoint.handle_fault(error)
        else:
            self.registry.fault(con, error, self.loop.now)

    def _accepted(self, listen: Listen, sock: socket.socket, address: object) -> None:
        try:
            self._accept(listen, sock, address)
        except Exception as error:
            for endpoint in self.endpoints:
                if endpoint.sock is sock:
                    endpoint.handle_fault(error)
                    return
            self.registry.counters.fault(f"a client of {listen.name}", error)
            self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        """Reset a socket that has not become an endpoint."""
        try:
            self.loop.unwatch(sock)
        finally:
            reset(sock)

    def _accept(self, listen: Listen, sock: socket.socket, address: object) -> None:
        now = self.loop.now
        host = parse_address(address[0]) if isinstance(address, tuple) else UNIX
        key = None if self.registry.policy.trusts(host) else address_key(host)
        limit = self.admission.refusal(key, len(self.endpoints) - len(self._refused))
        if limit:
            self._refuse(listen, sock, printable(address), limit)
            return
        try:
            tune(sock, inherited=INHERITED)
        except OSError:
            sock.close()
            return
        policy = self.registry.policy
        about = {"peer": printable(address), "listener": listen.name}
        if policy.refuses_at_once(listen, host):
            policy.refuse("proxy_protocol", about, "it is not a trusted proxy", now)
            reset(sock)
            return
        settings = self.settings
        con_id = self.registry.ids.new()
        con = accepted(con_id, listen, settings, about, now, policy, host, key)
        if settings.message_rate or settings.byte_rate:
            con.rate_limit = RateLimit(settings, self.overdrawn, now)
        endpoint = Endpoint(self.shared, sock, con)
        if listen.tls != "off":
            endpoint.handshake = TlsHandshake(endpoint, self._contexts[listen.name])
        self._add(endpoint)
        self.shared.newcomer(con)
        self.registry.take(con, con.first_events(now), now)

    def _refuse(self, listen: Listen, sock: socket.socket, peer: str, limit: str) -> None:
        """Answer a client above a limit if it speaks HTTP, and reset others: all but a few at once,
        so that a storm of them costs little."""
        now = self.loop.now
        self.registry.counters.hit(limit, now, Subject(peer=peer))
        is_full = len(self._refused) >= MOST_REFUSED or self.descriptors.is_last(sock.fileno())
        if listen.protocol == "raw" or is_full:
            reset(sock)
            return
        sock.setblocking(False)
        answer = FULL if limit == "max_connections" else OVER_LIMIT
        con = refused(self.registry.ids.new(), self.settings, {"peer": peer}, answer, now)
        endpoint = Endpoint(self.shared, sock, con)
        self._refused.add(endpoint)
        self._add(endpoint)

    def dial(self) -> None:
        """Begin to connect the connections that workers have opened."""
        entries, self.registry.to_dial = self.registry.to_dial, []
        for entry in entries:
            if entry.dial_at > self.loop.now:
                self.loop.call_at(entry.dial_at, partial(self._dial, entry.con))
            else:
                self._dial(entry.con)

    def _dial(self, con: Connection) -> None:
        try:
            if self.registry.flow.full and con.state is CONNECTING:
                now = self.loop.now
                self.registry.counters.hit("memory_limit", now, con.subject)
                self._failed(con, "the gateway holds as much as memory_limit allows")
                return
            self._dialer.dial(con)
        except Exception as error:
            self._dialer.give_up(con)
            self._fault(con, error)

    def _connected(self, con: Connection, sock: socket.socket, terms: OpenTls | None) -> None:
        try:
            self._begin(con, sock, terms)
        except Exception as error:
            if con.endpoint not in self.endpoints:
                con.endpoint = None
                self._drop(sock)
            self._fault(con, error)

    def _begin(self, con: Connection, sock: socket.socket, terms: OpenTls | None) -> None:
        now = self.loop.now
        endpoint = Endpoint(self.shared, sock, con)
        if terms is not None:
            try:
                endpoint.handshake = TlsHandshake(endpoint, terms)
            except ValueError as error:
                sock.close()
                con.endpoint = None
                self._failed(con, f"TLS to {without_secrets(con.target)}: {error}")
                return
        self._add(endpoint)
        if terms is None:
            self.registry.take(con, con.connected(now), now)
            endpoint.after_opening(now)

    def _failed(self, con: Connection, why: str) -> None:
        now = self.loop.now
        self.registry.take(con, con.connect_failed(why, now), now)

    def _add(self, endpoint: Endpoint) -> None:
        self.endpoints.add(endpoint)
        self.admission.enter(endpoint.con.address_key)
        self.registry.flow.weigh(endpoint.con)
        self.total += 1
        endpoint.update_reading()
        self.shared.dirty[endpoint.con] = None

    # --- steps of a turn ---

    def apply_pauses(self) -> None:
        """Pause and resume reading as decided since the last turn, and work on the read queue,
        within this turn's share."""
        if self.overdrawn:
            self._pause_overdrawn()
        changed, read_queue = self.registry.flow.changed, self.shared.read_queue
        until = self.loop.clock() + READ_TIME
        now = self.loop.now
        for entry in list(changed):
            del changed[entry]
            con = entry.con
            endpoint = con.endpoint
            if not isinstance(endpoint, Endpoint) or endpoint.lingering:
                continue
            if not entry.pauses:
                read_queue[endpoint] = None
                continue
            try:
                con.pause(now)
                endpoint.update_reading()
            except Exception as error:
                endpoint.handle_fault(error)
            if self.loop.clock() > until:
                break
        flow = self.registry.flow
        for endpoint in list(read_queue):
            if flow.total > flow.check_above:
                # Parsed, the data would take more memory.
                break
            # An endpoint that queues again meanwhile comes after the others.
            del read_queue[endpoint]
            try:
                endpoint.read_in_turn()
            except Exception as error:
                endpoint.handle_fault(error)
            if self.loop.clock() > until:
                break

    def _pause_overdrawn(self) -> None:
        """Pause or close connections that have sent more than their rate allows."""
        overdrawn, now = list(self.overdrawn), self.loop.now
        self.overdrawn.clear()
        for con_id in overdrawn:
            entry = self.registry.entries.get(con_id)
            if entry is None or entry.gone:
                continue
            con = entry.con
            if con.rate_limit is None or con.state is not OPEN:
                continue
            try:
                self._limit_rate(con, entry, con.rate_limit, now)
            except Exception as error:
                self._fault(con, error)

    def _limit_rate(self, con: Connection, entry: Entry, limit: RateLimit, now: float) -> None:
        # A pause that is longer than any other may last is useless.
        too_long = 0 < self.settings.pause_timeout < limit.owes
        if self.settings.rate_action == "close" or too_long:
            message = f"the peer sends more than {limit.setting} allows"
            self.registry.end_for_limit(entry, limit.setting, "rate", message, now)
        else:
            self.registry.counters.hit(limit.setting, now, con.subject)
            self.registry.flow.pause(entry, PAUSED_RATE)
            self.loop.call_at(now + limit.owes, partial(self._resume, entry))

    def _resume(self, entry: Entry) -> None:
        if not entry.gone:
            try:
                self.registry.flow.resume(entry, PAUSED_RATE)
            except Exception as error:
                self._fault(entry.con, error)

    @property
    def is_busy(self) -> bool:
        """Whether there is more work than fits into a turn."""
        shared = self.shared
        return bool(shared.dirty or shared.ended or shared.read_queue or shared.handshakes.waiting)

    def write_over_limit(self) -> None:
        """Close connections with too much output, unless the kernel takes enough of it now."""
        for entry in self.registry.outgoing.over_limit:
            endpoint = entry.con.endpoint
            if isinstance(endpoint, Endpoint):
                try:
                    endpoint.write_out()
                except Exception as error:
                    endpoint.handle_fault(error)
        self.registry.outgoing.close_overflowing(self.loop.now)

    def flush(self) -> None:
        """Write each dirty connection once, then close endpoints that have ended: never inside a
        callback.

        After a message to a large group, or a flood of answers, the rest waits for the next turns,
        so that it does not hold up other connections.
        """
        dirty = self.shared.dirty
        if not dirty and not self.shared.ended:
            return
        began = self.loop.clock()
        until = began + WRITE_TIME
        if dirty:
            waiting = len(dirty)
            for con in list(islice(dirty, WRITE_BUDGET)):
                del dirty[con]
                endpoint = con.endpoint
                if isinstance(endpoint, Endpoint):
                    try:
                        endpoint.flush()
                    except Exception as error:
                        endpoint.handle_fault(error)
                    if self.loop.clock() > until:
                        break
            written = waiting - len(dirty)
            if written >= MEASURED and self.registry.outgoing.broadcasts:
                self.registry.outgoing.pace((self.loop.clock() - began) / written)
        if self.shared.ended:
            self._close_ended(max(until, self.loop.clock() + WRITE_TIME / 2))

    def shut(self, cons: Iterable[Connection]) -> None:
        """Shut the sockets of connections that send nothing more."""
        for con in cons:
            endpoint = con.endpoint
            if isinstance(endpoint, Endpoint):
                try:
                    endpoint.shut()
                except Exception as error:
                    endpoint.handle_fault(error)

    def _close_ended(self, until: float) -> None:
        ended, self.shared.ended = self.shared.ended, []
        for index, endpoint in enumerate(ended, 1):
            # An endpoint can be in the list twice.
            if endpoint in self.endpoints:
                self.endpoints.discard(endpoint)
                self._refused.discard(endpoint)
                try:
                    self.admission.leave(endpoint.con.address_key)
                    endpoint.close()
                except Exception as error:
                    endpoint.free(error)
                if self.loop.clock() > until:
                    self.shared.ended = ended[index:]
                    break

    # --- stop ---

    def close_unannounced(self) -> None:
        """Close connections that no handler knows, because they have not shown their protocol."""
        now = self.loop.now
        for endpoint in self.endpoints:
            if endpoint.con.entry is None:
                try:
                    endpoint.con.close(1001, "the server is going away", "going-away", now)
                    self.shared.dirty[endpoint.con] = None
                except Exception as error:
                    endpoint.handle_fault(error)

    @staticmethod
    def undelivered(con: Connection) -> int | None:
        """How many bytes of a connection's output the kernel has and the peer does not have yet."""
        endpoint = con.endpoint
        return undelivered(endpoint.sock) if isinstance(endpoint, Endpoint) else None

    def unwritten(self) -> bool:
        """Whether a connection has not ended, or has output left."""
        return any(e.con.output.size or e.con.state is not CLOSED for e in self.endpoints)

    def close(self) -> None:
        self.close_listeners()
        for endpoint in self.endpoints:
            try:
                endpoint.close()
            except Exception as error:
                endpoint.free(error)
        self.endpoints.clear()
