"""Sans-I/O. What an agent does: records of its gateway in, messages of NATS in, both out.

The shell (agent.py) calls it, and then carries out what is in `to_bus`, `wanted` and `news`.

Delivery between nodes is at most once. Messages that this node could not send are counted as
`not_sent`. Messages of other nodes that did not come are counted as `missed`, as soon as the next
one comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsraw.cluster.nodes import BEAT, Nodes
from wsraw.cluster.presence import Presence
from wsraw.cluster.streams import Heard, Numbers
from wsraw.cluster.subjects import Subjects
from wsraw.link.records import (
    Envelope,
    LinkError,
    Record,
    Relay,
    Watch,
    decode_envelope,
    encode,
)

LINGER: Final = 1.0
"""Seconds for which a group without members is still listened to: its members may come back."""

ANSWER_WITHIN: Final = 1.0
"""Seconds that other nodes have for an answer; then the answers that have come are used."""

MOST_QUESTIONS: Final = 1000
"""Questions of this gateway that may be open at a time."""

MOST_UNTAKEN: Final = 8 * 1024 * 1024
"""Bytes that may wait for a gateway that does not read; further data from NATS is dropped."""

MOST_WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait for NATS; further data is not sent."""

COUNTS: Final = (
    "sent",
    "received",
    "not_sent",
    "too_large",
    "missed",
    "repeated",
    "undelivered",
    "invalid",
)
"""What is counted. `sent`: messages handed to NATS. `received`: messages of other nodes that were
given to the gateway. `not_sent`: messages for other nodes, while NATS was unreachable or too slow.
`too_large`: messages above NATS's limit. `missed`: messages of other nodes that did not arrive.
`repeated`: messages that came twice or too late, and were dropped. `undelivered`: messages of other
nodes, while the gateway was unreachable or too slow. `invalid`: messages that were not
understood."""


class Question:
    """A question of this gateway to the other nodes."""

    __slots__ = ("answers", "until", "waiting")

    def __init__(self, waiting: set[str], until: float) -> None:
        self.waiting = waiting
        self.answers: dict[str, Any] = {}
        self.until = until


class Core:
    """The state of one agent."""

    def __init__(
        self,
        cluster: str,
        nodes: Nodes,
        place: str,
        refusal: Callable[[int], str],
        deliver: Callable[[Relay], bool],
    ) -> None:
        """`refusal`: why this many bytes cannot be sent over NATS now, as the name of a counter, or
        "". `deliver`: gives the gateway a record, if it can take it. `place`: this machine and
        process, for people."""
        self.nodes = nodes
        self.subjects = Subjects(cluster, nodes.name)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.to_bus: list[tuple[str, bytes]] = []
        """(subject, data) to be published."""
        self.wanted: dict[str, bool] = {}
        """Subjects to subscribe to (True) or to unsubscribe from (False), in order."""
        self.news: list[tuple[str, str]] = []
        """(level, text) for the log."""
        self._place = place
        self._refusal = refusal
        self._deliver = deliver
        self._numbers = Numbers()
        self._groups: dict[str, tuple[str, str]] = {}
        """Subject → what comes there, and for whom: (publish, GROUP) or (user, USER)."""
        self._heard: dict[str, Heard] = {self.subjects.own: Heard()}
        """Subject → the numbers that were heard there."""
        self._heard_presence: dict[str, Heard] = {}
        """Subject → the numbers of presence that were heard there."""
        self._leaving: dict[str, float] = {}
        """Subjects without members here, and until when they are still listened to."""
        self._questions: dict[int, Question] = {}
        self.presence = Presence(
            nodes.name,
            self._say_presence,
            self._answer_presence,
            deliver,
            nodes.others.__contains__,
        )
        self._beat_at = 0.0
        self._is_out = False
        """Whether another node has our name."""
        self._is_over = False
        """This node has left the cluster for good."""
        self.wanted[self.subjects.all] = self.wanted[self.subjects.own] = True

    @property
    def subscriptions(self) -> int:
        """How many groups and users this node listens to."""
        return len(self._groups)

    def all_subjects(self) -> list[str]:
        """All subjects to subscribe to after a new connection to NATS."""
        if self._is_out:
            return [self.subjects.all]
        return [self.subjects.all, self.subjects.own, *self._groups]

    # --- the gateway's records ---

    def receive(self, record: Record, now: float) -> None:
        """Handle a notice of the gateway."""
        if isinstance(record, Watch):
            self._watch(record.kind, record.name, record.on, now)
        elif isinstance(record, Relay):
            if record.kind in ("publish", "user"):
                subject = self._subject(record.kind, record.name)
                said = Envelope("", "", record.kind, 0, 0, "", record.data, record.type)
                self._say(subject, said)
            elif record.kind == "kick_user":
                said = Envelope("", "", "kick", options=record.options)
                self._say(self.subjects.of_user(record.name), said)
            elif record.kind in ("send", "close", "kick"):
                node, _, number = record.name.partition("/")
                subject = self.subjects.of_node(node)
                if node not in self.nodes.others:
                    # No node would hear it; and a reference may contain any name as its node.
                    self.counts["not_sent"] += 1
                    return
                said = Envelope("", "", record.kind, 0, 0, number, record.data, record.type)
                said.options = record.options
                self._say(subject, said)
            elif record.kind == "presence":
                self.presence.receive(record.name, record.options)
            elif record.kind == "ask":
                self._ask(record, now)
            elif record.kind == "answer":
                self._answer(record)

    def lost(self, now: float) -> None:
        """The gateway is gone, and with it all its members."""
        self.presence.lost()
        for subject in self._groups:
            self._leaving.setdefault(subject, now + LINGER)
        self._questions.clear()

    def _subject(self, kind: str, name: str) -> str:
        of = self.subjects.of_user if kind == "user" else self.subjects.of_group
        return of(name)

    def _watch(self, kind: str, name: str, on: bool, now: float) -> None:
        subject = self._subject(kind, name)
        if not on:
            if subject in self._groups:
                self._leaving[subject] = now + LINGER
            return
        self._leaving.pop(subject, None)
        if subject not in self._groups:
            self._groups[subject] = "user" if kind == "user" else "publish", name
            self._heard[subject] = Heard()
            if not self._is_out:
                self.wanted[subject] = True

    def _say(self, subject: str, said: Envelope) -> None:
        """Publish a message that is counted and kept in order."""
        why = "not_sent" if self._is_out else self._refusal(len(said.data))
        if why:
            self.counts[why] += 1
            return
        said.node, said.instance = self.nodes.name, self.nodes.instance
        said.stream, said.seq = self._numbers.next(subject)
        self.to_bus.append((subject, encode(said)))
        self.counts["sent"] += 1

    def _tell(self, subject: str, kind: str, name: str = "", **options: Any) -> None:
        """Publish a message that is not counted, because it is repeated anyway or its answer has a
        deadline."""
        nodes = self.nodes
        if not self._refusal(0):
            said = Envelope(nodes.name, nodes.instance, kind, name=name, options=options)
            self.to_bus.append((subject, encode(said)))

    def _say_presence(self, group: str, options: dict[str, Any]) -> None:
        """Publish who is in a group. These messages have numbers of their own and are not counted,
        because they are repeated when one is missed."""
        subject, nodes = self.subjects.of_group(group), self.nodes
        if self._is_out or self._refusal(0):
            self.presence.missed(group)
            return
        stream, seq = self._numbers.next(f"{subject} presence")
        said = Envelope(nodes.name, nodes.instance, "presence", stream, seq, options=options)
        self.to_bus.append((subject, encode(said)))

    def _answer_presence(self, node: str, group: str, options: dict[str, Any]) -> None:
        self._tell(self.subjects.of_node(node), "presence", group, **options)

    # --- questions ---

    def _ask(self, ask: Relay, now: float) -> None:
        ref = ask.options["ref"]
        waiting = set(self.nodes.others)
        if not waiting or self._refusal(0) or len(self._questions) >= MOST_QUESTIONS:
            self._deliver(Relay("answer", "", options={"ref": ref, "answers": {}}))
            return
        self._questions[ref] = Question(waiting, now + ANSWER_WITHIN)
        self._tell(self.subjects.all, "ask", ask.name, ref=ref, what=ask.type)

    def _answer(self, answer: Relay) -> None:
        """Send another node the gateway's answer to its question."""
        to, ref = answer.options.get("to"), answer.options.get("ref")
        if to in self.nodes.others:
            value = answer.options.get("value")
            self._tell(self.subjects.of_node(to), "answer", ref=ref, value=value)

    def _take_answer(self, said: Envelope) -> None:
        ref = said.options.get("ref")
        question = self._questions.get(ref) if isinstance(ref, int) else None
        if question is None or said.node not in question.waiting:
            return
        question.waiting.discard(said.node)
        question.answers[said.node] = said.options.get("value")
        if not question.waiting:
            self._end_question(said.options["ref"])

    def _end_question(self, ref: int) -> None:
        question = self._questions.pop(ref)
        self._deliver(Relay("answer", "", options={"ref": ref, "answers": question.answers}))

    # --- messages of NATS ---

    def connected(self, now: float) -> None:
        """NATS is connected, for the first time or again."""
        self._beat_at = now
        self._beat(is_new=True)
        self.presence.connected(now)

    def heard(self, subject: str, data: bytes, now: float) -> None:
        """Handle a message, whose content may be anything."""
        try:
            said = decode_envelope(data)
        except LinkError:
            self.counts["invalid"] += 1
            return
        if self.nodes.keeps_out(said.node, said.instance):
            return
        if subject == self.subjects.all:
            self._take_for_all(said, now)
        elif said.node == self.nodes.name:
            # Our own message, sent before a reconnect; or one of a node with our name.
            pass
        elif said.seq:
            self._take_counted(subject, said)
        elif said.kind == "answer" and subject == self.subjects.own:
            self._take_answer(said)
        elif said.kind == "presence" and subject == self.subjects.own:
            self.presence.heard(said.name, said.node, said.options)

    def _take_for_all(self, said: Envelope, now: float) -> None:
        if said.kind == "alive":
            found = self.nodes.heard(said.node, said.instance, said.options, now)
            if found == "restored":
                self.presence.restored(said.node)
                text = f"two nodes are called {said.node}: the one that was started later keeps out"
                self.news.append(("warning", text))
            elif found:
                if found == "renewed":
                    self.presence.renewed(said.node, now)
                self.news.append(("info", f"node {said.node} is there"))
            if (found or said.options.get("new")) and said.instance != self.nodes.instance:
                # So that a new node knows all others at once.
                self._beat()
        elif said.kind == "bye":
            if self.nodes.left(said.node, said.instance, now):
                self._lost_node(said.node, "has left", now)
        elif said.kind == "ask" and said.node in self.nodes.others and not self._is_out:
            options = {"ref": said.options.get("ref"), "to": said.node}
            what = said.options.get("what")
            asked = Relay("ask", said.name, type=str(what), options=options)
            if not self._deliver(asked):
                # Without a gateway, nobody is connected here.
                self._answer(Relay("answer", "", options={**options, "value": None}))

    def _take_counted(self, subject: str, said: Envelope) -> None:
        if said.kind == "presence" and subject in self._groups:
            self._take_presence(subject, said)
            return
        heard = self._heard.get(subject)
        if heard is None:
            # Unsubscribed, while this message was on its way.
            return
        missed = heard.take(said.node, said.instance, said.stream, said.seq)
        if missed is None:
            self.counts["repeated"] += 1
            return
        self.counts["missed"] += missed
        if subject == self.subjects.own:
            if said.kind not in ("send", "close", "kick"):
                self.counts["invalid"] += 1
                return
            relay = Relay(said.kind, said.name, said.data, said.type, said.options)
        else:
            kind, name = self._groups[subject]
            if said.kind == "kick" and kind == "user":
                kind = "kick_user"
            relay = Relay(kind, name, said.data, said.type, said.options)
        self.counts["received" if self._deliver(relay) else "undelivered"] += 1

    def _take_presence(self, subject: str, said: Envelope) -> None:
        kind, name = self._groups[subject]
        heard = self._heard_presence.setdefault(subject, Heard())
        missed = heard.take(said.node, said.instance, said.stream, said.seq)
        if kind != "publish" or missed is None:
            return
        if missed and name in self.presence:
            self.presence.missed(name)
        self.presence.heard(name, said.node, said.options)

    # --- the clock ---

    def tick(self, now: float) -> None:
        """To be called several times a second."""
        if now - self._beat_at >= BEAT:
            self._beat_at = now
            self._beat()
        for name in self.nodes.expire(now):
            self._lost_node(name, "is gone", now)
        for name in self.nodes.forget(now):
            self.presence.forget(name)
            for heard in (*self._heard.values(), *self._heard_presence.values()):
                heard.forget(name)
        for ref, question in list(self._questions.items()):
            if now >= question.until:
                self._end_question(ref)
        for subject, until in list(self._leaving.items()):
            if now >= until:
                del self._leaving[subject], self._groups[subject], self._heard[subject]
                self._heard_presence.pop(subject, None)
                if not self._is_out:
                    self.wanted[subject] = False
        self.presence.tick(now, not (self._is_out or self._refusal(0)))
        if self.nodes.must_leave != self._is_out:
            self._go_out(not self._is_out, now)

    def _lost_node(self, node: str, why: str, now: float) -> None:
        self.news.append(("warning", f"node {node} {why}"))
        self.presence.gone(node, now)
        for ref, question in list(self._questions.items()):
            question.waiting.discard(node)
            if not question.waiting:
                self._end_question(ref)

    def _go_out(self, out: bool, now: float) -> None:
        """Leave the cluster because another node has our name, or come back. Outside the cluster
        nothing is sent: others would take us for that node."""
        self._is_out = out
        for subject in (self.subjects.own, *self._groups):
            self.wanted[subject] = not out
        twin = self.nodes.clash
        if out and twin is not None:
            text = (
                f"this node keeps out of the cluster: another one is called {self.nodes.name!r}, "
                f"at {twin.place}. Give each its own name (setting node)"
            )
            self.news.append(("error", text))
        else:
            self.news.append(("info", "the other node of that name is gone: back in the cluster"))
            self._beat(is_new=True)
            self.presence.connected(now)

    def _beat(self, is_new: bool = False) -> None:
        if self._is_over or self._is_out:
            # A heartbeat would make the others believe that this node is back, or that it is the
            # other one.
            return
        about: dict[str, Any] = {"began": self.nodes.began, "place": self._place}
        if is_new:
            about["new"] = True
        self._tell(self.subjects.all, "alive", **about)

    def bye(self) -> None:
        """Tell the others that this node leaves."""
        if not self._is_out:
            self._tell(self.subjects.all, "bye")
        self._is_over = True

    def figures(self, state: str, server: str, why: str) -> dict[str, Any]:
        """Counters and nodes, for the gateway's status."""
        return {
            "state": "name in use" if self._is_out else state,
            "server": server,
            "why": why,
            "nodes": sorted(self.nodes.others),
            "subscriptions": self.subscriptions,
            "counts": self.counts,
        }
