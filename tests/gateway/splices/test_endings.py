"""How the end of one spliced connection is passed to the other."""

from __future__ import annotations

import pytest

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import Connection, Ending, Phase
from wsraw.gateway.splices.endings import end_for
from wsraw.gateway.websocket.websocket import WebSocket


def con(websocket: bool, opened: bool = False) -> Connection:
    made = Connection(1, Settings(), {}, Phase(), opened)
    if websocket:
        made.websocket = WebSocket(made.settings)
    return made


@pytest.mark.parametrize(
    ("code", "cause", "to_websocket", "to_raw"),
    [
        (1000, "peer", 1000, 1000),
        (1005, "peer", 1000, 1000),
        (4321, "peer", 4321, 1000),
        (1011, "peer", 1011, 1011),
        (1000, "eof", 1000, 1000),
        (3000, "handler", 3000, 1000),
        (1001, "going-away", 1001, 1001),
        (1006, "peer", 1001, 1011),
        (1006, "lost", 1001, 1011),
        (1011, "ping-timeout", 1001, 1011),
        (1008, "write-timeout", 1001, 1011),
    ],
)
def test_codes_go_through_and_faults_are_translated(
    code: int, cause: str, to_websocket: int, to_raw: int
) -> None:
    ended = con(True)
    ended.ending = Ending(code, "why", cause)
    assert end_for(ended, con(True))[0] == to_websocket
    assert end_for(ended, con(False))[0] == to_raw


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        ("lost", "the target was lost"),
        ("connect-failed", "the target cannot be reached"),
        ("write-timeout", "the target failed"),
    ],
)
def test_the_fault_of_a_target_is_that_of_a_gateway_before_it(cause: str, why: str) -> None:
    ended = con(False, opened=True)
    ended.ending = Ending(1006, "", cause)
    assert end_for(ended, con(True)) == (1014, why)


def test_a_reason_goes_through() -> None:
    ended = con(True)
    ended.ending = Ending(4000, "bye", "peer")
    assert end_for(ended, con(True)) == (4000, "bye")
