"""Batches of a gateway to the worker's end of a link."""

from __future__ import annotations

import random
from collections.abc import Hashable

from tests.fuzz.records import as_input, batches
from wsraw.link.records import (
    Answer,
    Attach,
    Detach,
    Drain,
    Event,
    Hello,
    Notice,
    OnConnect,
    OnMessage,
    Refused,
    Send,
    Welcome,
    Who,
    encode,
    gateway_decoder,
)
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd

SESSION = 3
KINDS = Event | Notice
WELCOME = Welcome(1, SESSION, 1, 1 << 36 | 1, 1 << 36 | 4096, 100)
SEEDS = [
    as_input(encode([0, Who()]), encode([SESSION, WELCOME])),
    as_input(encode([SESSION, OnConnect(1, 5, {"Protocol": "raw"}), OnMessage(2, 5, b"x", "raw")])),
    as_input(encode([SESSION, Attach(6, None, b"", 1), Detach(6), Drain(30.0)])),
    as_input(encode([SESSION, Answer(0, [5, 9]), Answer(0, [9, 5]), Answer(0, "x")])),
    as_input(encode([SESSION, Refused(1, 0, "why"), ["later", 1, 2]])),
    *(bytes((1, 200)) + random.Random(n).randbytes(200) for n in range(60)),
]
_gateway = gateway_decoder()


def run(data: bytes) -> Hashable:
    link = WorkerEnd(pool="default", token="t", instance="i", language="test", starting=True)
    link.receive(encode([SESSION, WELCOME]))
    told = []
    for batch in batches(data, SESSION, KINDS):
        session = link.session
        for record in link.receive(batch):
            told.append(type(record).__name__)
            if isinstance(record, Event) and link.session == session:
                outbox = link.outbox(record)
                # Commands for two batches, whatever length the gateway announces for a batch.
                for _ in range(2):
                    outbox.cut(link.room, link.room)
                    outbox.size += link.room
                    outbox.records.append(Send(record.con, b"x"))
                assert link.done(outbox)
        assert link.state is not LinkState.GONE
        assert link.state is not LinkState.NEW or not link.session
        try:
            new = link.new_id()
            assert new in link.held
        except LookupError:
            pass
        while (said := link.data_to_send()) is not None:
            head, records, wrong = _gateway.decode(said)
            assert not wrong
            if head != link.session:
                assert [type(record) for record in records] == [Hello]
    link.started()
    link.bye()
    link.data_to_send()
    assert link.state is LinkState.GONE
    assert link.receive(encode([0, Who()])) == []
    return tuple(told[:4]), link.session, len(link.held)
