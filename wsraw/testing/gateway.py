"""I/O. The gateway of an App: everything except the sockets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.http import answer
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import Kill
from wsraw.testing.memory import MemoryDealer
from wsraw.testing.peers import Peer, PeerOwner, server
from wsraw.testing.pipe import Pipe
from wsraw.testing.worker import TOKEN

MEMORY: Final = 1 << 30
TICK: Final = 1.0


class MemoryGateway:
    """A gateway whose connections end in pipes, with peers at the other end, and whose link is a
    dealer in memory."""

    def __init__(self, app: PeerOwner, settings: Settings, errors: list[BaseException]) -> None:
        self.opened: list[Peer] = []
        self.refused: set[str] = set()
        self.rejected: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self.dealer: MemoryDealer | None = None
        """The worker's end of the link; None while there is no worker."""
        self.registry = Registry(settings, 1, settings.memory_limit or MEMORY)
        self.sessions = Sessions(self.registry)
        self.sessions.tokens.add(TOKEN, 1)
        self._deadlines = Deadlines(self.registry)
        self._app = app
        self._errors = errors
        self._listen = parse_listen(settings.listen[0], settings)
        self._peers: list[Peer] = []
        self._pipes: list[Pipe] = []
        self._dial_later: list[Entry] = []
        self._ports = itertools.count(50000)

    # --- connections ---

    def accept(self, peer: str) -> Pipe:
        """Accept a client with this address, or with an address of its own."""
        registry, listen, now = self.registry, self._listen, self._app.now
        con = accepted(
            registry.ids.new(),
            listen,
            registry.settings,
            {"peer": peer or f"127.0.0.1:{next(self._ports)}", "listener": listen.name},
            now,
            registry.policy,
        )
        pipe = self._pipe(con)
        registry.take(con, con.first_events(now), now)
        return pipe

    def _pipe(self, con: Connection) -> Pipe:
        pipe = Pipe(self.registry, con)
        self._pipes.append(pipe)
        return pipe

    def add(self, peer: Peer) -> None:
        self._peers.append(peer)

    def _dial(self) -> bool:
        """Connect the connections that handlers have opened; return whether there were any."""
        registry, now = self.registry, self._app.now
        entries = self._dial_later + registry.to_dial
        registry.to_dial.clear()
        due = [entry for entry in entries if entry.dial_at <= now]
        self._dial_later = [entry for entry in entries if entry.dial_at > now]
        for entry in due:
            con = entry.con
            if con.target in self.refused:
                registry.take(con, con.connect_failed("refused by the test", now), now)
            elif con.target in self.rejected and con.kind == "websocket":
                status, headers, body = self.rejected[con.target]
                con.connected(now)
                events = con.receive_data(answer(status, "", headers, body), now)
                registry.take(con, events, now)
            else:
                peer = server(self._app, self._pipe(con))
                self.add(peer)
                self.opened.append(peer)
                registry.take(con, con.connected(now), now)
        return bool(due)

    # --- time ---

    def deadlines(self) -> Iterator[float]:
        """When `pass_time` must be called at the latest: future times, in any order."""
        now = self._app.now
        yield (now // TICK + 1) * TICK
        yield from (pipe.deadline for pipe in self._pipes if pipe.deadline > now)
        yield from (entry.dial_at for entry in self._dial_later)

    def pass_time(self) -> None:
        """Do what is due now."""
        now = self._app.now
        self.registry.flow.now = now
        for pipe in self._pipes:
            pipe.handle_timeout(now)
        if now % TICK == 0:
            self.sessions.tick(now)
            self._deadlines.tick(now)

    def turn(self) -> bool:
        """Run one turn, in the order of gateway/gateway.py; return whether anything has moved."""
        registry, sessions, now = self.registry, self.sessions, self._app.now
        registry.flow.now = now
        moved = self._receive()
        moved |= self._dial()
        if registry.flow.is_check_due:
            self._deadlines.check_memory(now)
        for pipe in self._pipes:
            moved |= pipe.step(now)
        for peer in self._peers:
            moved |= peer.step()
        for entry in list(registry.flow.changed):
            registry.flow.changed.pop(entry, None)
            if isinstance(entry.con.endpoint, Pipe):
                entry.con.endpoint.apply_pause(now)
        for con in sessions.splices.take_shut():
            if isinstance(con.endpoint, Pipe):
                con.endpoint.shut = moved = True
        sessions.backlog.go_on(now)
        registry.outgoing.close_overflowing(now)
        moved |= self._send()
        registry.dirty.clear()
        self._take_kills()
        self._pipes = [pipe for pipe in self._pipes if not pipe.closed]
        self._peers = [peer for peer in self._peers if not peer.is_done]
        return moved

    def _receive(self) -> bool:
        dealer, moved = self.dealer, False
        while dealer is not None and dealer.sent:
            moved = True
            self.sessions.receive(dealer.identity, dealer.sent.popleft(), self._app.now)
        return moved

    def _send(self) -> bool:
        sessions, dealer = self.sessions, self.dealer
        batches = [
            (worker.session.identity, batch) for worker, batch in sessions.batches(self._app.now)
        ]
        batches += sessions.replies
        batches += [(cut.identity, cut.last) for cut in sessions.cuts if cut.last]
        sessions.replies = []
        sessions.cuts = []
        for identity, batch in batches:
            if dealer is not None and identity == dealer.identity:
                dealer.put(batch)
        return bool(batches)

    def _take_kills(self) -> None:
        self._errors += [
            AssertionError(f"the gateway asked for this worker to be killed: {record.why}")
            for record in self.sessions.to_supervisor
            if isinstance(record, Kill)
        ]
        self.sessions.to_supervisor = []
