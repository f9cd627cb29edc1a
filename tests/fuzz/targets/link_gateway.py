"""Batches of a bad worker to the gateway, beside a good worker.

The bad worker knows the token, and may do all that workers may do, such as close a connection or
send to it. It must not cause exceptions, take or lose events of others, falsify the accounts, or
stay.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable
from typing import Any, get_args

from tests.fuzz.oracles import check_output
from tests.fuzz.records import DATA, EPOCH, NUMBERS, TEXTS, as_input, batches
from tests.gateway.harness import TOKEN, Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import CLOSED, CONNECTING, OPEN, Connection
from wsraw.gateway.delivery.entry import EVENT_COST
from wsraw.gateway.delivery.outgoing import AT_ONCE
from wsraw.link.records import (
    PROTOCOL_VERSION,
    Ack,
    Bye,
    Close,
    Command,
    Couple,
    Hello,
    Join,
    Mark,
    OnClose,
    OnMessage,
    Open,
    Part,
    Publish,
    Query,
    Send,
    State,
    encode,
)

BAD = b"\0bad"
SESSION = EPOCH | 2
OTHER, OWN = EPOCH | 4097, EPOCH | 8194
# A send of 70,000 bytes to the other connection, written as a record is made of bytes.
LARGE = bytes(
    (get_args(Command).index(Send), NUMBERS.index(OTHER), len(DATA) - 1, TEXTS.index("raw"), 1, 0)
)
SEEDS = [
    (bytes((1, len(LARGE))) + LARGE) * 4,
    bytes((1, 3 * len(LARGE))) + LARGE * 3,
    as_input(
        encode([SESSION, Open(EPOCH | 4099, "there:1"), Send(EPOCH | 4099, b"x")]),
        encode([SESSION, Send(OWN, b"answer", "text"), Ack(1, 1), Ack(2, 2)]),
    ),
    as_input(encode([SESSION, Ack(1, 2), State(OWN, b"state"), Close(OWN)])),
    as_input(encode([SESSION, Join(OWN, "group"), Publish("group", b"all", "text")])),
    as_input(encode([SESSION, Join(OTHER, "group"), Publish("group", b"all"), Close(OTHER)])),
    as_input(encode([SESSION, Send(OWN, b"half", "text", False), Send(OTHER, b"x")])),
    as_input(encode([SESSION, Couple(OTHER, OWN), Mark(OTHER, 1), Query(1, "ids")])),
    as_input(encode([SESSION, Ack(2**40, 2**41)]), encode([SESSION, Bye()])),
    as_input(
        encode([SESSION, Send(OWN, b"one", "text"), Part(1)]),
        encode([SESSION, Close(OTHER), Part(1)]),
        encode([SESSION, Send(OWN, b"two", "text"), Ack(1, 1)]),
    ),
    as_input(encode([SESSION, Send(OTHER, bytes(90)), Part(2)]), encode([SESSION, Bye()])),
    as_input(encode([SESSION, Send(OTHER, bytes(90)), Part(1)]), encode([SESSION, Part(3)])),
    as_input(encode([SESSION, Part(1), Ack(1, 1), Part(2)]), encode([SESSION, Bye(), Part(2)])),
    as_input(
        encode([0, Hello(1, "default", "bad", "test", TOKEN, 10, 1, [5, 6])]),
        encode([EPOCH | 3, Query(0, "members", "group")]),
    ),
    *(bytes((1, 250)) + random.Random(n).randbytes(250) for n in range(80)),
]
MOST = 60
"""Turns after which nothing may be left to do."""


def run(data: bytes) -> Hashable:
    harness = Harness(high_water_mark=4096, output_limit=100_000)
    good = harness.worker(instance="a good one, hard to guess")
    other = harness.raw(b"one")
    harness.turn()
    _bad_worker(harness)
    own = harness.websocket()
    harness.turn()
    assert [event.con for event in good.events] == [OTHER, OTHER]
    told: list[str] = []
    longest = 0
    for batch in batches(data, SESSION, Command):
        # Output that is queued within a second has no limit that an input could reach, so let a
        # second pass.
        harness.now += AT_ONCE + 0.1
        longest = max(longest, len(batch) + _in_parts(harness))
        harness.receive(BAD, batch)
        harness.turn()
        told.append(_state(harness))
        _check(harness, longest)
    came_to = _came_to(harness, own, other)
    assert harness.sessions.tokens.number(TOKEN) == 0
    # The good worker gets all data that has come for it, in order.
    said = _say(harness, other, b"two")
    harness.turn()
    heard = b""
    closed: list[int] = []
    while events := good.events:
        heard += b"".join(e.data for e in events if type(e) is OnMessage and e.con == OTHER)
        closed += [event.con for event in events if type(event) is OnClose]
        good.ack(*events)
        harness.turn()
    assert heard == b"one" + said
    _end(harness, good, closed, (own, other))
    return tuple(told[:6]), came_to


def _bad_worker(harness: Harness) -> None:
    """A bad worker that has said hello and holds a connection."""
    hello = Hello(PROTOCOL_VERSION, "default", "bad", "test", TOKEN, 10, 1)
    harness.receive(BAD, encode([0, hello]))
    harness.turn()
    assert harness.sessions.workers[BAD].session.number == SESSION


def _in_parts(harness: Harness) -> int:
    """The bytes that wait for the ack of an event."""
    worker = harness.sessions.workers.get(BAD)
    return worker.session.parts.size if worker is not None else 0


def _state(harness: Harness) -> str:
    worker = harness.sessions.workers.get(BAD)
    return worker.session.state.value if worker is not None else "out"


def _came_to(harness: Harness, *cons: Connection) -> Hashable:
    """A rough summary of what the bad worker has done."""
    registry = harness.registry
    sessions = harness.sessions
    worker = sessions.workers.get(BAD)
    return (
        tuple((con.state, con.ending.cause, con.output.size.bit_length()) for con in cons),
        [entry_of(con).groups is None for con in cons].count(True),
        len(registry.entries),
        len(registry.pools),
        registry.unknown_ids.bit_length(),
        (worker.session.dropped.bit_length(), worker.session.batches.bit_length())
        if worker is not None
        else None,
    )


def _say(harness: Harness, con: Connection, data: bytes) -> bytes:
    """Send data; returns the part that a worker must get, which is nothing if a handler has
    closed the connection.
    """
    counts = con.state is OPEN and not entry_of(con).closed_by_handler
    harness.say(con, data)
    return data if counts else b""


def _check(harness: Harness, longest: int) -> None:
    """Check that the accounts are the sum of the data. No peer has more output than the limit
    and one batch with the parts before it, as all of that may be queued at once. A last batch,
    which also closes the connection, may come on top.
    """
    registry = harness.registry
    sessions = harness.sessions
    assert "fault" not in registry.counters.counts, "something of ours has raised"
    total = 0
    for entry in registry.entries.values():
        con = entry.con
        check_output(con.output)
        at_once = longest if con.state is OPEN else 2 * longest
        assert con.output.size <= harness.settings.output_limit + at_once + EVENT_COST
        assert entry.event_bytes >= 0
        assert entry.in_flight >= 0
        total += entry.event_bytes + entry.output_memory + entry.unfinished
    assert registry.flow.total == total
    held: dict[Any, int] = {}
    for worker in sessions.workers.values():
        assert len(worker.window.in_flight) <= 10_000
        parts = worker.session.parts
        assert {kept.seq for kept in parts.kept} <= set(worker.window.in_flight)
        assert parts.size == sum(kept.size for kept in parts.kept)
        for flight in worker.window.in_flight.values():
            held[flight.owner] = held.get(flight.owner, 0) + 1
    for entry in registry.entries.values():
        assert held.get(entry, 0) == entry.in_flight


def _end(
    harness: Harness, good: LinkedWorker, closed: list[int], clients: Iterable[Connection]
) -> None:
    """The link is lost and every client leaves: check that each connection ends once, and that
    nothing is left.
    """
    registry = harness.registry
    sessions = harness.sessions
    worker = sessions.workers.get(BAD)
    if worker is not None:
        sessions.end(worker, harness.now, died=True)
    for entry in list(registry.entries.values()):
        if entry.pool.name != "default":
            # The pool has no worker any more, so its connection rightly waits for one.
            registry.forget(entry)
    for _ in range(MOST):
        closed += [event.con for event in good.work() if type(event) is OnClose]
        if not registry.entries:
            break
        for entry in list(registry.entries.values()):
            entry.reopening = None
            con = entry.con
            if con.state is not CLOSED:
                failed = con.state is CONNECTING
                message = "refused"
                end = con.connect_failed if failed else con.lost
                registry.take(con, end(message, harness.now), harness.now)
        harness.now += 1.0
    assert not registry.entries, [entry.con.state for entry in registry.entries.values()]
    for con in clients:
        # A connection that is closed gracefully keeps its last output until its socket is closed.
        registry.flow.socket_closed(con)
    assert len(set(closed)) == len(closed)
    assert registry.flow.total == 0
    assert registry.flow.shared == 0
    assert not registry.outgoing.fragmented
    assert not good.worker.window.in_flight
