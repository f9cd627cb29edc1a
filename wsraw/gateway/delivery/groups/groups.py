"""Sans-I/O. Groups and users: who belongs to them, and messages to all of them.

Whatever publishes enters here: handlers, the command line, the admin address, other gateways. What
begins at this gateway comes by `publish` and `send_to_user`, which tell `relay` of it; what has
begun elsewhere comes by `deliver` and `deliver_to_user`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from wsraw.gateway.delivery.accounts import MEMBER, Flow
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.delivery.groups.table import Table
from wsraw.link.records import (
    GROUP_LIMIT,
    Answer,
    Close,
    CloseRef,
    Figures,
    Publish,
    Query,
    Relay,
    Send,
    SendRef,
    SendToUser,
)

MOST_GROUPS: Final = 1000
"""Groups that one connection may be in."""


class Sender(Protocol):
    """What groups need of outgoing.py."""

    def publish(
        self, members: Collection[Entry], excluded: set[int], data: bytes, kind: str, now: float
    ) -> str | None: ...


class Cluster(Protocol):
    """What the sessions of workers need of this gateway's part in a cluster."""

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

    def __init__(self, flow: Flow, outgoing: Sender) -> None:
        self._flow = flow
        self._outgoing = outgoing
        self.table = Table()
        self.users = Table()
        self.relay: Callable[[Publish | SendToUser], object] | None = None
        """Called with each message that was published at this gateway, in order."""
        self.cluster: Cluster | None = None
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
        entry.groups.add(group)
        self.table.add(group, entry)
        self._flow.keep(entry, _weight(group))
        return None

    def leave(self, entry: Entry, group: str) -> None:
        """Remove a connection; leaving a group that it is not in does nothing."""
        if entry.groups is None or group not in entry.groups:
            return
        entry.groups.discard(group)
        self._flow.keep(entry, -_weight(group))
        self.table.remove(group, entry)

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
        return self._send(self.table.of(publish.group), publish, now)

    def send_to_user(self, send: SendToUser, now: float) -> str | None:
        """Send a message to the connections of a user, as `publish` does."""
        why = self.deliver_to_user(send, now)
        if why is None and self.relay is not None:
            self.relay(send)
        return why

    def deliver_to_user(self, send: SendToUser, now: float) -> str | None:
        """The same for the connections at this gateway alone."""
        return self._send(self.users.of(send.user), send, now)

    def _send(
        self, members: Collection[Entry], message: Publish | SendToUser, now: float
    ) -> str | None:
        if message.type not in ("text", "binary"):
            return f"type {message.type!r} is neither text nor binary"
        excluded: Any = message.options.get("except", ())
        if not isinstance(excluded, list | tuple) or not all(isinstance(c, int) for c in excluded):
            return "the option except must be a list of connection ids"
        return self._outgoing.publish(members, set(excluded), message.data, message.type, now)


def _weight(name: str) -> int:
    return MEMBER + sys.getsizeof(name)
