"""Sans-I/O. Groups and users: who belongs to them, and messages to all of them.

All published messages pass here: those of handlers, the command line, the admin address and other
gateways. Messages of this gateway use `publish` and `send_to_user`, which pass them to `relay`;
those of other gateways use `deliver` and `deliver_to_user`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, Protocol

from wsraw.config.patterns import GroupPattern
from wsraw.config.settings import Settings
from wsraw.gateway.delivery.accounts import MEMBER, Flow
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.delivery.groups.history import History
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.delivery.groups.table import Table
from wsraw.link.records import (
    GROUP_LIMIT,
    Answer,
    Close,
    CloseRef,
    Event,
    Figures,
    OnJoin,
    OnLeave,
    Publish,
    Query,
    Relay,
    Send,
    SendRef,
    SendToUser,
)

MOST_GROUPS: Final = 1000
"""Groups that one connection may be in."""


MOST_PARKED: Final = 2000
"""Events that may wait for a connection that joins a group with presence: otherwise a handler could
create any number of them."""


class Publisher(Protocol):
    """What groups need of the `Outgoing` of outgoing.py."""

    def publish(
        self, members: Collection[Entry], excluded: set[int], message: PublishedMessage, now: float
    ) -> str | None: ...
    def room(self, entry: Entry) -> int: ...
    def replay(self, entry: Entry, messages: Collection[PublishedMessage], now: float) -> None: ...


class JoinAnswer(NamedTuple):
    """What a member that joins from a position is told; a list in the record `answer`."""

    epoch: str
    offset: int
    """Offset of the last message that was published before the member joined."""
    recovered: bool
    """The member was sent all messages that were published since the position."""
    replayed: int
    """How many messages the member was sent."""


class ClusterView(Protocol):
    """What the sessions of workers need of the `Cluster` of gateway/cluster/."""

    node: str
    agent: Worker | None

    def begin(self, agent: Worker) -> None: ...
    def end(self, agent: Worker) -> None: ...
    def reach(self, command: SendRef | CloseRef) -> Send | Close | str | None: ...
    def receive(self, relay: Relay) -> Publish | SendToUser | Send | Close | None: ...
    def take_figures(self, figures: Figures) -> None: ...
    def kick(self, ref: str, code: int, reason: str) -> str: ...
    def kick_user(self, user: str, code: int, reason: str) -> str: ...
    def ask(self, worker: Worker, query: Query, answer: Answer) -> Answer | None: ...


class Groups:
    """The members of groups, and the connections of users."""

    def __init__(
        self, flow: Flow, outgoing: Publisher, settings: Settings, instance: str = ""
    ) -> None:
        """`instance`: a text that no other gateway uses."""
        self._flow = flow
        self._outgoing = outgoing
        self.table = Table()
        self.users = Table()
        self._presence = [GroupPattern(text) for text in settings.presence]
        self.tell: Callable[[Entry, Event, float], object] = _nobody_hears
        """Dispatches an on_join or an on_leave."""
        self.history = History(flow, settings.history, instance, self.table.__contains__)
        self.relay: Callable[[Publish | SendToUser], object] | None = None
        """Called with each message that was published at this gateway, in order."""
        self.presence_watcher: Callable[[str, Entry, bool], object] | None = None
        """Called with a connection that has joined a group with presence, or whose user has changed
        while in one; with False when it has left."""
        self.cluster: ClusterView | None = None
        """Set if there are other gateways."""

    # --- members ---

    def join(self, entry: Entry, group: str) -> str | None:
        """Add a connection; return why it cannot join. Joining twice does nothing."""
        if len(group) > GROUP_LIMIT:
            return f"the name of a group has at most {GROUP_LIMIT} characters"
        if entry.groups is None:
            entry.groups = set()
        if group in entry.groups:
            return None
        if len(entry.groups) >= MOST_GROUPS:
            return f"connection {entry.id} is in {MOST_GROUPS} groups already"
        is_told = self._presence and self._is_told(entry, group)
        if is_told and len(entry.parked) >= MOST_PARKED:
            return f"{MOST_PARKED} events of connection {entry.id} wait already"
        entry.groups.add(group)
        self.table.add(group, entry)
        self._flow.keep(entry, _weight(group))
        if is_told and self.presence_watcher is not None:
            self.presence_watcher(group, entry, True)
        if is_told and OnJoin in entry.pool.hears:
            self.tell(entry, OnJoin(0, entry.id, group), self._flow.now)
        return None

    def _is_told(self, entry: Entry, group: str) -> bool:
        """Whether handlers are told who joins and leaves the group."""
        return entry.is_open and self.is_told(group)

    def is_told(self, group: str) -> bool:
        """Whether handlers are told who joins a group and leaves it."""
        return any(each.matches(group) for each in self._presence)

    def end(self, entry: Entry) -> None:
        """Before the on_close of a connection, let it leave the groups with presence."""
        if self._presence:
            for group in sorted(entry.groups or ()):
                if self._is_told(entry, group):
                    self.leave(entry, group)

    def join_since(
        self, entry: Entry, group: str, position: str | None, now: float
    ) -> JoinAnswer | str:
        """Add a connection that continues from a position, and first send it what was published
        since then; return why it cannot join. A position of None means from now on.

        Each message is either in the history now, or goes to the members later: none is lost, and
        none comes twice.
        """
        is_member = entry.groups is not None and group in entry.groups
        past = self.history.since(group, position, self._outgoing.room(entry), now)
        if past is None:
            return f"group {group!r} has no history; the setting history keeps one"
        why = self.join(entry, group)
        if why is not None:
            return why
        if is_member and position is not None:
            # It was sent the messages since it joined; whether it needs earlier ones is not known.
            return JoinAnswer(past.epoch, past.offset, False, 0)
        if past.messages:
            self._outgoing.replay(entry, past.messages, now)
        return JoinAnswer(past.epoch, past.offset, past.recovered, len(past.messages))

    def leave(self, entry: Entry, group: str) -> None:
        """Remove a connection; leaving a group that it is not in does nothing."""
        if entry.groups is None or group not in entry.groups:
            return
        entry.groups.discard(group)
        self._flow.keep(entry, -_weight(group))
        self.table.remove(group, entry)
        if group not in self.table:
            self.history.left(group, self._flow.now)
        if self.presence_watcher is not None and self.is_told(group):
            self.presence_watcher(group, entry, False)
        if self._presence and OnLeave in entry.pool.hears and self._is_told(entry, group):
            self.tell(entry, OnLeave(0, entry.id, group), self._flow.now)

    def bind(self, entry: Entry, user: str) -> str | None:
        """Bind a connection to one user; "" unbinds it. Returns why that is not possible."""
        if len(user) > GROUP_LIMIT:
            return f"the name of a user has at most {GROUP_LIMIT} characters"
        if entry.user == user:
            return None
        self._unbind(entry)
        if user:
            entry.user = user
            self.users.add(user, entry)
            self._flow.keep(entry, _weight(user))
            entry.con.about["user"] = user
        if self.presence_watcher is not None:
            for group in entry.groups or ():
                if self.is_told(group):
                    self.presence_watcher(group, entry, True)
        return None

    def _unbind(self, entry: Entry) -> None:
        user, entry.user = entry.user, ""
        if user:
            self._flow.keep(entry, -_weight(user))
            self.users.remove(user, entry)
            entry.con.about.pop("user", None)

    def forget(self, entry: Entry) -> None:
        """Remove a connection from all its groups, and from its user."""
        for group in list(entry.groups or ()):
            self.leave(entry, group)
        self._unbind(entry)

    def members(self, group: str) -> Collection[Entry]:
        """The present members: a view, not a copy."""
        return self.table.of(group)

    def users_in(self, group: str, most: int) -> dict[str, int]:
        """How many connections each user has in a group, for a limited number of users."""
        found: dict[str, int] = {}
        for entry in self.table.of(group):
            user = entry.user
            if user and (user in found or len(found) < most):
                found[user] = found.get(user, 0) + 1
        return found

    # --- messages ---

    def publish(self, publish: Publish, now: float) -> str | None:
        """Send a message to the members of a group. Returns why it is refused, or UNFINISHED if it
        has to be tried again in the next turn."""
        why = self.deliver(publish, now)
        if why is None and self.relay is not None:
            self.relay(publish)
        return why

    def deliver(self, publish: Publish, now: float) -> str | None:
        """Send a message to the members of a group at this gateway only."""
        message = PublishedMessage(publish.data, publish.type)
        why = self._send(self.table.of(publish.group), message, publish.options, now)
        if why is None:
            self.history.append(publish.group, message, now)
        return why

    def send_to_user(self, send: SendToUser, now: float) -> str | None:
        """Send a message to the connections of a user, as `publish` does."""
        why = self.deliver_to_user(send, now)
        if why is None and self.relay is not None:
            self.relay(send)
        return why

    def deliver_to_user(self, send: SendToUser, now: float) -> str | None:
        """Send a message to the connections of a user at this gateway only."""
        message = PublishedMessage(send.data, send.type)
        return self._send(self.users.of(send.user), message, send.options, now)

    def _send(
        self,
        members: Collection[Entry],
        message: PublishedMessage,
        options: dict[str, Any],
        now: float,
    ) -> str | None:
        if message.kind not in ("text", "binary"):
            return f"type {message.kind!r} is neither text nor binary"
        excluded: Any = options.get("except", ())
        if not isinstance(excluded, list | tuple) or not all(isinstance(c, int) for c in excluded):
            return "the option except must be a list of connection ids"
        return self._outgoing.publish(members, set(excluded), message, now)


def _nobody_hears(entry: Entry, event: Event, now: float) -> None:
    """The default of `tell`."""


def _weight(name: str) -> int:
    return MEMBER + sys.getsizeof(name)
