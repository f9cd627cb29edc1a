from __future__ import annotations

import itertools

import pytest

from tests.gateway.connection.connections import (
    accept,
)
from wsraw.gateway.connection.connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    SNIFFING,
    TRANSITIONS,
    Connection,
    ConnectionState,
    Step,
)


def reach(state: ConnectionState) -> Connection:
    con = accept()
    path = {
        SNIFFING: [],
        CONNECTING: [Step.UPGRADE],
        OPEN: [Step.RAW],
        CLOSING: [Step.RAW, Step.HALF_CLOSED],
        CLOSED: [Step.END],
    }
    for step in path[state]:
        con.step(step)
    assert con.state is state
    return con


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ConnectionState, Step)))
def test_every_step_outside_the_table_raises(state: ConnectionState, step: Step) -> None:
    con = reach(state)
    if (state, step) in TRANSITIONS:
        con.step(step)
        assert con.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(KeyError):
            con.step(step)
        assert con.state is state
