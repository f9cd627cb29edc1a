"""Sans-I/O. Groups and users: who belongs to them, and messages to all of them.

Whatever publishes enters here: handlers, the command line, the admin address, other gateways. What
begins at this gateway comes by `publish` and `send_to_user`, which tell `relay` of it; what has
begun at another gateway comes by `deliver` and `deliver_to_user`.
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
"""Events that may wait for a connection that joins a group with presence: a handler could make any
number of them."""


class Publisher(Protocol):
    """What groups need of the `Outgoing` of outgoing.py."""

    def publish(
        self, members: Collection[Entry], excluded: set[int], message: PublishedMessage, now: float
    ) -> str | None: ...
    def room(self, entry: Entry) -> int: ...
    def replay(self, entry: Entry, messages: Collection[PublishedMessage], now: float) -> None: ...


class JoinAnswer(NamedTuple):
    """What a member is told that has joined from a position; a list in the record `answer`."""

    epoch: str
    offset: int
    """Of the last message that was published before it joined."""
    recovered: bool
    """It was sent all that was published since the position."""
    replayed: int
    """How many messages it was sent."""


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
        """`instance`: a text that no other gateway has."""
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
        """Called with a connection that has joined a group of which handlers are told, or whose
        user has changed there; with False when it has left."""
        self.cluster: ClusterView | None = None
        """Set if there are other gateways."""

    # --- members ---

    def join(self, entry: Entry, group: str) -> str | None:
        """Add a connection; give why it cannot join. Joining twice does nothing."""
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
        """Whether handlers are told who joins and leaves."""
        return entry.is_open and self.is_told(group)

    def is_told(self, group: str) -> bool:
        """Whether handlers are told who joins a group and leaves it."""
        return any(each.matches(group) for each in self._presence)

    def end(self, entry: Entry) -> None:
        """A connection ends: before its on_close it leaves the groups that handlers are told of."""
        if self._presence:
            for group in sorted(entry.groups or ()):
                if self._is_told(entry, group):
                    self.leave(entry, group)

    def join_since(
        self, entry: Entry, group: str, position: str | None, now: float
    ) -> JoinAnswer | str:
        """Add a connection that goes on from a position, and first send it what was published since
        then; give why it cannot join. None: from now on.

        A message is either in the history by now, or goes to the members from now on: none is lost,
        and none comes twice.
        """
        is_member = entry.groups is not None and group in entry.groups
        past = self.history.since(group, position, self._outgoing.room(entry), now)
        if past is None:
            return f"group {group!r} has no history; the setting history keeps one"
        why = self.join(entry, group)
        if why is not None:
            return why
        if is_member and position is not None:
            # It was sent what came since it joined; whether it needs more is not known.
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
        """Bind a connection to a user, and to no other one; "": to none. Give why it cannot be."""
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
        """The members now: a view, not a copy."""
        return self.table.of(group)

    def users_in(self, group: str, most: int) -> dict[str, int]:
        """How many connections each user has in a group, of at most so many users."""
        found: dict[str, int] = {}
        for entry in self.table.of(group):
            user = entry.user
            if user and (user in found or len(found) < most):
                found[user] = found.get(user, 0) + 1
        return found

    # --- messages ---

    def publish(self, publish: Publish, now: float) -> str | None:
        """Send a message to the members of a group. Gives why it is refused, or UNFINISHED if it is
        to be tried again in the next turn."""
        why = self.deliver(publish, now)
        if why is None and self.relay is not None:
            self.relay(publish)
        return why

    def deliver(self, publish: Publish, now: float) -> str | None:
        """The same for the members at this gateway alone."""
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
        """The same for the connections at this gateway alone."""
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
