"""Sans-I/O. This gateway's part in a cluster: what its agent is told, and what comes from it.

The agent is a process beside the gateway, which speaks NATS (wsraw/cluster/). Here it has a session
like a worker's, with a token of its own. Nothing waits for it: what it cannot take at once is
counted as not sent. What the agent brings from other nodes is applied like a worker's commands, a
share in each turn; while much of that waits, its link is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsraw.gateway.cluster.absent import Absent
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.delivery.entry import Entry, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.websocket.websocket import close_refusal
from wsraw.link.batches import RECORD_COST
from wsraw.link.gateway_end import MOST_OWED
from wsraw.link.records import (
    AGENT,
    Answer,
    Close,
    CloseRef,
    Figures,
    FromGateway,
    Kill,
    OnJoin,
    OnLeave,
    Publish,
    Query,
    Relay,
    Send,
    SendRef,
    SendToUser,
    Watch,
)
from wsraw.link.states import GONE

MOST_QUEUED: Final = 8 * 1024 * 1024
"""Bytes for the agent in one turn; one message is always allowed."""

MOST_QUESTIONS: Final = 1000
"""Questions to the cluster at a time; further ones are answered with what is known here."""

ANSWER_WITHIN: Final = 3.0
"""Seconds after which a question is answered with what is known here. The agent gives up
earlier."""

MOST_MEMBERS: Final = MOST_OWED
"""Members of a group that one node names."""

SILENT_FOR: Final = 15.0
"""Seconds without a message from the agent after which it is killed. It sends one each second."""


class PendingQuery:
    """A worker's query that is passed on to other nodes, too."""

    __slots__ = ("answer", "query", "until", "worker")

    def __init__(self, worker: Worker, query: Query, answer: Answer, until: float) -> None:
        self.worker = worker
        self.query = query
        self.answer = answer
        self.until = until


class Cluster:
    """The other gateways, as this one sees them."""

    def __init__(
        self, registry: Registry, node: str, tell_supervisor: Callable[[FromGateway], object]
    ) -> None:
        self.node = node
        """This gateway's name: the first part of the references of its connections."""
        self.agent: Worker | None = None
        self._registry = registry
        self._tell_supervisor = tell_supervisor
        self._not_sent = 0
        """Messages for other nodes that the agent could not take."""
        self._queued = 0
        self._queued_at = 0.0
        """Bytes that were queued for the agent in the turn of that time."""
        self._questions: dict[int, PendingQuery] = {}
        self._next = 1
        self._figures: dict[str, Any] = {}
        """The figures that the agent has sent last; those of earlier agents are in `_before`."""
        self._before: dict[str, int] = {}
        self._heard_at = 0.0
        self._is_killed = False
        """Whether the supervisor was asked to kill the present agent."""
        self.absent = Absent(registry)
        self._is_behind = False
        """The agent could not be told who has joined and left: it will be sent all members."""
        groups = registry.groups
        groups.cluster = self
        groups.relay = self.pass_on
        groups.table.watcher = self._watch
        groups.users.watcher = self._watch_user
        if registry.settings.presence:
            groups.presence_watcher = self._watch_member

    # --- the agent ---

    def begin(self, agent: Worker) -> None:
        """The agent has sent its hello."""
        self.agent = agent
        self._heard_at = self._registry.flow.now
        self._is_killed = False
        for group in self._registry.groups.table.names():
            agent.session.notice(Watch(group))
        for user in self._registry.groups.users.names():
            agent.session.notice(Watch(user, kind="user"))
        self._tell_members(agent)
        self._registry.dispatcher.with_output.add(agent)

    def end(self, agent: Worker) -> None:
        """The session of the agent has ended."""
        if agent is not self.agent:
            return
        self.agent = None
        for key, count in self._counted().items():
            self._before[key] = self._before.get(key, 0) + count
        self._figures = {}
        for ref in list(self._questions):
            self._answer(ref, {})

    def tick(self, now: float) -> None:
        """Once a second: end questions that get no answer, and have a silent agent killed."""
        for ref, question in list(self._questions.items()):
            if now > question.until:
                self._answer(ref, {})
        self.absent.tick()
        agent = self.agent
        if self._is_behind and agent is not None and not agent.window.choked:
            self._tell_members(agent)
        if self.agent is not None and now - self._heard_at > SILENT_FOR and not self._is_killed:
            self._is_killed = True
            self._tell_supervisor(Kill(AGENT, f"it has said nothing for {SILENT_FOR:g} s"))

    def _watch(self, group: str, on: bool) -> None:
        if self.agent is not None:
            self._notice(self.agent, Watch(group, on))

    def _watch_user(self, user: str, on: bool) -> None:
        if self.agent is not None:
            self._notice(self.agent, Watch(user, on, "user"))

    def _watch_member(self, group: str, entry: Entry, is_in: bool) -> None:
        named: list[Any] = [_named(entry)] if is_in else [entry.id]
        relay = Relay("presence", group, options={"in" if is_in else "out": named})
        if self.agent is not None and not self._tell(relay):
            self._is_behind = True

    def _tell_members(self, agent: Worker) -> None:
        """Tell the agent about all members of groups with presence."""
        self._is_behind = False
        groups = self._registry.groups
        if groups.presence_watcher is None:
            return
        names = [group for group in groups.table.names() if groups.is_told(group)]
        self._notice(agent, Relay("presence", "", options={"groups": names, "all": True}))
        for group in names:
            named = [_named(entry) for entry in groups.members(group)]
            options = {"in": named, "all": True}
            self._notice(agent, Relay("presence", group, options=options))

    def _notice(self, agent: Worker, record: Watch | Relay) -> None:
        agent.session.notice(record)
        self._registry.dispatcher.with_output.add(agent)

    def _tell(self, relay: Relay) -> bool:
        """Send the agent a record, if it can take it now."""
        agent, now = self.agent, self._registry.flow.now
        if agent is None or agent.window.choked:
            return False
        if now != self._queued_at:
            self._queued, self._queued_at = 0, now
        if self._queued > MOST_QUEUED:
            return False
        self._queued += len(relay.data) + RECORD_COST
        self._notice(agent, relay)
        return True

    # --- to other nodes ---

    def pass_on(self, message: Publish | SendToUser) -> None:
        """Tell other nodes what was published here."""
        if isinstance(message, Publish):
            relay = Relay("publish", message.group, message.data, message.type)
        else:
            relay = Relay("user", message.user, message.data, message.type)
        if not self._tell(relay):
            self._not_sent += 1

    def reach(self, command: SendRef | CloseRef) -> Send | Close | str | None:
        """The command for a connection of this gateway, or why it is refused. A command for a
        connection of another node is passed on, and the result is None."""
        node, _, number = command.ref.partition("/")
        con = parse_number(number)
        if not node or con is None:
            return f"{command.ref[:100]!r} is not the reference of a connection, node/id"
        if isinstance(command, SendRef):
            if command.type not in ("text", "binary"):
                return f"type {command.type!r} is neither text nor binary"
            if node == self.node:
                return Send(con, command.data, command.type)
            relay = Relay("send", command.ref, command.data, command.type)
        elif node == self.node:
            return Close(con, command.code, command.reason)
        else:
            options = {"code": command.code, "reason": command.reason}
            relay = Relay("close", command.ref, options=options)
        if not self._tell(relay):
            self._not_sent += 1
        return None

    def kick(self, ref: str, code: int, reason: str) -> str:
        """Have another node close a connection for an operator; return why that is not possible."""
        return self._kick("kick", ref, code, reason)

    def kick_user(self, user: str, code: int, reason: str) -> str:
        """Have the other nodes close all connections of a user; return why that is not possible."""
        return self._kick("kick_user", user, code, reason)

    def _kick(self, kind: str, name: str, code: int, reason: str) -> str:
        if not self._figures.get("nodes"):
            return "there is no other gateway now; see the cluster in `wsraw status`"
        relay = Relay(kind, name, options={"code": code, "reason": reason})
        return "" if self._tell(relay) else "the agent of the cluster is away, or too slow"

    # --- from other nodes ---

    def receive(self, relay: Relay) -> Publish | SendToUser | Send | Close | None:
        """Carry out what another node asks for, or return the command that does so. The record may
        be anything, as it came over a network."""
        self._heard_at = self._registry.flow.now
        if relay.kind == "publish":
            return Publish(relay.name, relay.data, relay.type)
        if relay.kind == "user":
            return SendToUser(relay.name, relay.data, relay.type)
        if relay.kind == "send":
            con = parse_number(relay.name)
            return None if con is None else Send(con, relay.data, relay.type)
        if relay.kind in ("close", "kick", "kick_user"):
            return self._close(relay)
        if relay.kind in ("gone", "back"):
            kind = OnLeave if relay.kind == "gone" else OnJoin
            self.absent.tell(kind, relay.name, relay.options.get("in"))
        elif relay.kind == "ask":
            self._answer_node(relay)
        elif relay.kind == "answer":
            ref, answers = relay.options.get("ref"), relay.options.get("answers")
            if isinstance(ref, int) and isinstance(answers, dict):
                self._answer(ref, answers)
        return None

    def _close(self, relay: Relay) -> Close | None:
        code, reason = relay.options.get("code"), relay.options.get("reason", "")
        if not isinstance(code, int) or not isinstance(reason, str) or close_refusal(code):
            return None
        registry = self._registry
        if relay.kind == "kick_user":
            for each in list(registry.groups.users.of(relay.name)):
                registry.kick(each.con, code, reason)
            return None
        con = parse_number(relay.name)
        if con is None:
            return None
        if relay.kind == "close":
            return Close(con, code, reason)
        entry = registry.entries.get(con)
        if entry is not None and entry.con.state is not CLOSED:
            registry.kick(entry.con, code, reason)
        return None

    def take_figures(self, figures: Figures) -> None:
        """Take the agent's counters."""
        self._heard_at = self._registry.flow.now
        self._figures = figures.data

    # --- questions ---

    def ask(self, worker: Worker, query: Query, answer: Answer) -> Answer | None:
        """Ask the other nodes, too. None: the worker gets the answer later."""
        if len(self._questions) >= MOST_QUESTIONS or not self._figures.get("nodes"):
            return answer
        ref, now = self._next, self._registry.flow.now
        if not self._tell(Relay("ask", query.arg, type=query.what, options={"ref": ref})):
            return answer
        self._next = ref + 1
        self._questions[ref] = PendingQuery(worker, query, answer, now + ANSWER_WITHIN)
        return None

    def _answer(self, ref: int, answers: dict[Any, Any]) -> None:
        """Answer a worker's query, with the answers of other nodes by node."""
        question = self._questions.pop(ref, None)
        if question is None or question.worker.session.state is GONE:
            return
        answer = question.answer
        for node, value in answers.items():
            if isinstance(answer.value, int) and isinstance(value, int):
                answer.value += value
            elif isinstance(answer.value, dict) and isinstance(value, dict):
                for user, many in value.items():
                    if isinstance(user, str) and isinstance(many, int):
                        answer.value[user] = answer.value.get(user, 0) + many
            elif isinstance(answer.value, list) and isinstance(value, list):
                answer.value += [f"{node}/{con}" for con in value]
        question.worker.session.notice(answer)
        self._registry.dispatcher.with_output.add(question.worker)

    def _answer_node(self, ask: Relay) -> None:
        """Tell another node what is known here."""
        groups = self._registry.groups
        value: Any = None
        if ask.type == "count":
            value = len(groups.members(ask.name))
        elif ask.type == "users":
            value = groups.users_in(ask.name, MOST_MEMBERS)
        elif ask.type in ("members", "user_connections"):
            table = groups.table if ask.type == "members" else groups.users
            value = table.page(ask.name, 0, MOST_MEMBERS)[0]
        self._tell(Relay("answer", ask.name, options={**ask.options, "value": value}))

    # --- status ---

    def _counted(self) -> dict[str, int]:
        found = self._figures.get("counts", {})
        return {key: count for key, count in found.items() if isinstance(count, int)}

    def report(self) -> dict[str, Any]:
        """For `wsraw status` and the metrics. Counters never fall while the gateway lives."""
        counts = dict(self._before)
        for key, count in self._counted().items():
            counts[key] = counts.get(key, 0) + count
        counts["not_sent"] = counts.get("not_sent", 0) + self._not_sent
        known = self._figures
        return {
            "node": self.node,
            "state": known.get("state", "starting") if self.agent is not None else "no agent",
            "server": known.get("server", ""),
            "why": known.get("why", ""),
            "nodes": known.get("nodes", []),
            "subscriptions": known.get("subscriptions", 0),
            "counts": counts,
        }


def _named(entry: Entry) -> list[Any]:
    """A member as other nodes know it."""
    return [entry.id, entry.user, entry.pool.name]


def parse_number(text: str) -> int | None:
    """The id of a connection; None if the text is not one."""
    return int(text) if len(text) < 20 and text.isascii() and text.isdigit() else None
