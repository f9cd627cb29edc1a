"""What a gateway says to the worker's end of a link."""

from __future__ import annotations

import random
from collections.abc import Hashable

from fuzz.records import as_input, batches

from wsraw import messages as m
from wsraw.link import LinkState, WorkerLink

SESSION = 3
KINDS = m.Event | m.Notice
WELCOME = m.Welcome(1, SESSION, 1, 1 << 36 | 1, 1 << 36 | 4096, 100)
SEEDS = [
    as_input(m.encode([0, m.Who()]), m.encode([SESSION, WELCOME])),
    as_input(
        m.encode([SESSION, m.OnConnect(1, 5, {"Protocol": "raw"}), m.OnMessage(2, 5, b"x", "raw")])
    ),
    as_input(m.encode([SESSION, m.Attach(6, None, b"", 1), m.Detach(6), m.Drain(30.0)])),
    as_input(m.encode([SESSION, m.Answer(0, [5, 9]), m.Answer(0, [9, 5]), m.Answer(0, "x")])),
    as_input(m.encode([SESSION, m.Refused(1, 0, "why"), ["later", 1, 2]])),
    *(bytes((1, 200)) + random.Random(n).randbytes(200) for n in range(60)),
]
_gateway = m.gateway_decoder()


def run(data: bytes) -> Hashable:
    link = WorkerLink(pool="default", token="t", instance="i", language="test", starting=True)
    link.receive(m.encode([SESSION, WELCOME]))
    told = []
    for batch in batches(data, SESSION, KINDS):
        session = link.session
        for record in link.receive(batch):
            told.append(type(record).__name__)
            if isinstance(record, m.Event) and link.session == session:
                outbox = link.outbox(record)
                outbox.records.append(m.Send(record.con, b"x"))
                assert link.done(outbox)
        assert link.state is not LinkState.GONE
        assert link.state is not LinkState.NEW or not link.session
        try:
            new = link.new_id()
            assert new in link.held
        except LookupError:
            pass
        said = link.data_to_send()
        if said is not None:
            head, records, wrong = _gateway.decode(said)
            assert not wrong
            if head != link.session:
                assert [type(record) for record in records] == [m.Hello]
    link.started()
    link.bye()
    link.data_to_send()
    assert link.state is LinkState.GONE
    assert link.receive(m.encode([0, m.Who()])) == []
    return tuple(told[:4]), link.session, len(link.held)
