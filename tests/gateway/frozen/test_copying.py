"""Each attribute of the gateway's state is frozen, or left out for a reason."""

from __future__ import annotations

import ast
import functools

import pytest

from tests.test_layers import TREES, attributes
from wsraw.gateway.frozen import connection, delivery, links, phases, sessions, websocket
from wsraw.gateway.frozen.copying import PLANS, Clock, Plan
from wsraw.gateway.frozen.groups import history

assert connection and delivery and history and links and phases and sessions and websocket

PACKAGES = (
    "gateway.admission",
    "gateway.cluster",
    "gateway.connection",
    "gateway.counters",
    "gateway.delivery",
    "gateway.sessions",
    "gateway.sockets",
    "gateway.totals",
    "gateway.websocket",
    "link.gateway_end",
    "link.parts",
    "link.window",
    "link.zmtp",
    "runtime.link.connection",
    "runtime.link.server",
)
"""In these packages each class has a plan, or a reason to have none."""

NONE = {
    "gateway.admission.forwarded.Forwarded": "it lives for a moment",
    "gateway.admission.policy.Client": "part of AcceptingState",
    "gateway.admission.policy.Refusal": "it lives for a moment",
    "gateway.admission.routes.Found": "part of ReceivingState and AnsweringState",
    "gateway.admission.routes.Routes": "settings",
    "gateway.admission.routes._Rule": "settings",
    "gateway.admission.sniffer.Finding": "an enum",
    "gateway.counters._Lines": "lines of the log",
    "gateway.delivery.groups.groups.ClusterView": "a protocol",
    "gateway.delivery.groups.groups.JoinAnswer": "it lives for a moment",
    "gateway.delivery.groups.groups.Publisher": "a protocol",
    "gateway.delivery.groups.history.Accounts": "a protocol",
    "gateway.delivery.groups.history.Past": "it lives for a moment",
    "gateway.delivery.read_policy.Reading": "an enum",
    "gateway.delivery.pools.timers.TimerCaller": "a protocol",
    "gateway.delivery.worker.CanaryOf": "no upgrade begins while there is one",
    "gateway.delivery.worker.RemoteWorker": "part of WorkerState",
    "gateway.delivery.registry._Phase": "an enum",
    "gateway.delivery.dispatcher.Bridged": "it has no state",
    "gateway.delivery.dispatcher.Spliced": "it has no state",
    "gateway.sessions.commands.Commands": "it has no state but the timers of Sessions",
    "gateway.sessions.commands.Splicer": "a protocol",
    "gateway.sessions.control.ControlLink": "each gateway has its own",
    "gateway.sessions.links.RemoteLinks": "a protocol",
    "gateway.sessions.sessions.Cut": "it lives for a moment",
    "gateway.sessions.orphans.Orphans": "each gateway has its own",
    "gateway.sessions.reports.Reports": "each gateway has its own link to the supervisor",
    "gateway.sockets.descriptors.Descriptors": "limits of the process",
    "gateway.sockets.dialer.Dialer": "what is not open is dialled anew",
    "gateway.sockets.dialer._Attempt": "what is not open is dialled anew",
    "gateway.sockets.proxy_handshake.HttpConnect": "what is not open is dialled anew",
    "gateway.sockets.proxy_handshake.Socks5": "what is not open is dialled anew",
    "gateway.sockets.endpoint.Handshake": "a protocol",
    "gateway.sockets.handshake.TlsHandshake": "one that is not complete cannot be moved",
    "gateway.sockets.listener.Listener": "listeners are handed over by themselves",
    "gateway.sockets.resolver.LookUp": "what is not open is dialled anew",
    "gateway.sockets.resolver.Resolver": "what is not open is dialled anew",
    "gateway.sockets.transport.PlainTransport": "made anew for each socket",
    "gateway.sockets.transport.PumpedTransport": "the table of pumps says who has one",
    "gateway.sockets.transport.TlsTransport": "TLS stays in its process",
    "link.parts.KeptPart": "part of PartsState",
    "link.zmtp._RefusedError": "an exception",
    "link.zmtp._WrongError": "an exception",
    "runtime.link.server.SocketState": "an enum",
    "runtime.link.server._Waiting": "strangers are not taken over",
    "gateway.connection.connection.EntryView": "a protocol",
    "gateway.connection.connection.Phase": "it has no state",
    "gateway.connection.phases.Connecting": "its subclasses have",
    "gateway.connection.phases._Closing": "it has no state",
    "gateway.connection.phases._Open": "it has no state",
    "gateway.connection.phases._Raw": "it has no state",
    "gateway.connection.phases._Shut": "it has no state",
    "gateway.connection.phases._Violated": "it has no state",
    "gateway.connection.requests.exchange.Exchange": "its `progress` is frozen",
    "gateway.connection.requests.exchange.Progress": "what is frozen of an Exchange",
    "gateway.connection.requests.exchange.RequestError": "an exception",
    "gateway.connection.requests.exchange._Blank": "it lives for a moment",
    "gateway.connection.states.ConnectionState": "an enum",
    "gateway.connection.states.Step": "an enum",
    "gateway.websocket.deflate.Packing": "made again by what it is for",
    "gateway.websocket.deflate.Terms": "a tuple, frozen as it is",
    "gateway.websocket.deflate.TooBigError": "an exception",
    "gateway.websocket.frames.ViolationError": "an exception, kept by its reader",
    "gateway.websocket.handshake.ClientHandshake": "it is begun anew",
    "gateway.websocket.handshake.HandshakeError": "an exception",
    "gateway.websocket.handshake.HandshakeResponse": "what a failed handshake has left",
    "gateway.websocket.heads.Head": "bytes of a kind",
    "gateway.websocket.messages.RefusedError": "an exception",
    "gateway.websocket.shared.Framed": "bytes of a kind",
    "gateway.websocket.watched.WatchedReader": "traces end with their gateway",
    "gateway.websocket.watched.WatchedWriter": "traces end with their gateway",
}


@functools.cache
def classes_in(module: str) -> dict[str, ast.ClassDef]:
    """Name with its module → class."""
    found = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.ClassDef)]
    return {f"{module}.{node.name}": node for node in found}


def name_of(cls: type) -> str:
    return f"{cls.__module__.removeprefix('wsraw.')}.{cls.__qualname__}"


BY_NAME = {name_of(cls): plan for cls, plan in PLANS.items()}


def test_each_class_has_a_plan_or_a_reason() -> None:
    there = {name for module in TREES if module.startswith(PACKAGES) for name in classes_in(module)}
    assert not there - set(BY_NAME) - set(NONE), "freeze it, or say here why not"
    assert set(NONE) <= there - set(BY_NAME), "gone, or frozen by now"


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_plan_names_each_attribute(name: str) -> None:
    named: set[str] = set()
    found: set[str] = set()
    for cls in BY_NAME[name].cls.__mro__:
        plan = PLANS.get(cls)
        if plan is not None:
            names = [*plan.copied, *plan.translated, *plan.left_out]
            assert len(names) == len(set(names))
            named |= set(names)
        module = name_of(cls).rpartition(".")[0]
        if module in TREES:
            found |= attributes(classes_in(module)[name_of(cls)])
    assert named == found, "freeze it, or say in its plan why not"


def test_what_is_copied_comes_back() -> None:
    from wsraw.gateway.connection.intake import Intake

    plan: Plan[connection.IntakeState] = PLANS[Intake]
    intake, copy = Intake(), Intake()
    intake.unparsed, intake.paused, intake.parsed = b"rest", True, 3
    plan.thaw(plan.freeze(intake), copy)
    assert (copy.unparsed, copy.paused, copy.parsed) == (b"rest", True, 3)
    assert not copy.eof


def test_times_count_from_the_moment_of_freezing() -> None:
    here, there = Clock(1000.0), Clock(5.0)
    assert there.at(here.since(1010.0)) == 15.0
    assert there.at(here.since(float("inf"))) == float("inf")
    assert there.when(here.past(990.0)) == -5.0
    assert there.when(here.past(0.0)) == 0.0
